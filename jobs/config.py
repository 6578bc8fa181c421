"""The schema of every command: which keys exist, of which type, in which range.

Default values and the line of help of each key are in conf/. A key is of the schema and of conf/,
or of neither (a test compares them). The classes are not frozen because OmegaConf treats a frozen
schema as read-only and then refuses every override; jobs treat them so all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gfs_dist.errors import ConfigError

METHODS = {
    "squared": ("auto", "panel", "lazy", "streaming", "exhaustive"),
    "bce": ("auto", "screened", "exhaustive"),
}
"""How each objective can be searched."""


def _among(*accepted: str) -> Any:
    return field(metadata={"accepted": accepted})


def _at_least(minimum: float) -> Any:
    return field(metadata={"at_least": minimum})


def _above(minimum: float) -> Any:
    return field(metadata={"above": minimum})


def _between(low: float, high: float) -> Any:
    """``low`` is inside, ``high`` is not."""
    return field(metadata={"at_least": low, "below": high})


@dataclass
class Data:
    """What every dataset has."""

    name: str
    samples: int | None = _at_least(2)
    seed: int = _between(0, 2**63)


@dataclass
class Digits(Data):
    """scikit-learn's handwritten digits."""

    name: str = _among("digits")


@dataclass
class Mnist(Data):
    """MNIST's four idx files."""

    name: str = _among("mnist")
    root: str = field()


@dataclass
class Synthetic(Data):
    """A planted problem whose best subset is known."""

    name: str = _among("synthetic")
    features: int = _at_least(1)
    planted: int = _at_least(1)


@dataclass
class Model:
    """What every network has."""

    name: str


@dataclass
class TwoLayer(Model):
    """The mean of ``width`` neurons."""

    name: str = _among("two_layer")
    width: int = _at_least(1)
    activation: str = field()


@dataclass
class Train:
    """What every training method has."""

    method: str
    iterations: int = _at_least(0)
    lr: float = _above(0)
    checkpoint_every: int = _at_least(1)


@dataclass
class GradientDescent(Train):
    """Full-batch gradient descent."""

    method: str = _among("gd")


@dataclass
class Sgd(Train):
    """Mini-batches with momentum."""

    method: str = _among("sgd")
    batch: int = _at_least(1)
    momentum: float = _between(0, 1)


@dataclass
class Runtime:
    """Where the ranks live."""

    kind: str


@dataclass
class NoRuntime(Runtime):
    """This process, one rank."""

    kind: str = _among("none")


@dataclass
class LocalRuntime(Runtime):
    """Worker processes of this machine."""

    kind: str = _among("local")
    spares: int = _at_least(0)
    hang_floor_s: float = _above(0)
    placement_timeout_s: float = _above(0)


@dataclass
class RayRuntime(LocalRuntime):
    """Ray actors."""

    kind: str = _among("ray")
    address: str | None = field()


@dataclass
class _Job:
    """What every job has."""

    seed: int = _between(0, 2**63)
    threads: int | None = _at_least(1)

    def check(self) -> None:
        """Refuse values that do not go together.

        Raises:
            ConfigError: names the keys.
        """


@dataclass
class Pretrain(_Job):
    """``gfs pretrain``."""

    data: Data = field()
    model: Model = field()
    train: Train = field()
    objective: str = _among("squared", "bce")
    device: str = _among("auto", "cpu", "cuda")
    out: str = field()
    resume: str | None = field()


@dataclass
class Prune(_Job):
    """``gfs prune``."""

    data: Data = field()
    model: Model = field()
    train: Train = field()
    runtime: Runtime = field()
    checkpoint: str | None = field()
    objective: str = _among("squared", "bce")
    weights: str = _among("uniform", "line_search")
    steps: int = _at_least(1)
    distinct: int | None = _at_least(1)
    tolerance: float | None = _at_least(0)
    replacement: bool = field()
    method: str = _among(*dict.fromkeys(METHODS["squared"] + METHODS["bce"]))
    verify: bool = field()
    workers: int = _at_least(1)
    device: str = _among("auto", "cpu", "cuda")
    partition: str = field()
    graph: str = field()
    precision: str = _among("float64", "float32")
    out: str = field()
    resume: str | None = field()

    def check(self) -> None:
        if self.method not in METHODS[self.objective]:
            raise ConfigError(
                f"method: found {self.method!r}, "
                f"accepted {', '.join(METHODS[self.objective])} with objective={self.objective}"
            )
        if self.runtime.kind == "none" and self.workers != 1:
            raise ConfigError(f"workers: found {self.workers}, accepted 1 with runtime=none")


@dataclass
class Evaluate(_Job):
    """``gfs evaluate PATH``."""

    path: str = field()
    data: Data = field()
    objective: str = _among("squared", "bce")
    device: str = _among("auto", "cpu", "cuda")


@dataclass
class Benchmark(_Job):
    """``gfs benchmark``."""

    suite: str = _among("select")
    preset: str = _among("smoke", "paper")
    out: str = field()


COMMANDS: dict[str, type[_Job]] = {
    "pretrain": Pretrain,
    "prune": Prune,
    "evaluate": Evaluate,
    "benchmark": Benchmark,
}

GROUPS: dict[str, dict[str, type]] = {
    "data": {"digits": Digits, "mnist": Mnist, "synthetic": Synthetic},
    "model": {"two_layer": TwoLayer},
    "train": {"gd": GradientDescent, "sgd": Sgd},
    "runtime": {"ray": RayRuntime, "local": LocalRuntime, "none": NoRuntime},
}
"""The schema of each option: option NAME of a group is conf/GROUP/NAME.yaml."""

OPTION_KEY = {"data": "name", "model": "name", "train": "method", "runtime": "kind"}
"""The key of a group that holds the option's name."""

CHANGEABLE = ("workers", "runtime", "device", "threads")
"""Keys that may change when a run is resumed."""
