"""What every command has, and what commands choose from: data, models, training, runtimes.

Annotations say what a key accepts: see :mod:`gfs_dist.config.schema`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from gfs_dist.errors import ConfigError
from gfs_dist.files.hf_folder import has_tokenizer, quality_of

CATALOG = (
    "resnet18", "resnet34", "resnet50", "mobilenet_v2", "resnet18_cifar", "resnet34_cifar",
    "resnet50_cifar", "mobilenet_v2_cifar", "resnet8_cifar", "resnet20_cifar", "resnet56_cifar",
)  # fmt: skip
"""The deep networks by name; written out because help must not wait for torch."""

Activation = Literal["tanh", "relu", "sigmoid", "gelu", "softplus", "silu", "identity"]
"""Of two-layer networks, for the same reason."""

Device = Literal["auto", "cpu", "cuda"]
Positive = Annotated[int, Ge(1)]
Track = Literal["tensorboard", "mlflow"] | None
Quality = Literal["accuracy", "perplexity", "kl", "cosine"]
Seed = Annotated[int, Ge(0), Lt(2**63)]

NAMED = ("model.factory", "factory", "runtime.address")
"""Keys that name code to import and machines to contact: where a stored configuration, which
anyone may have written, sets one, it counts only if the command line names the same."""


def value_of(config: Any, key: str) -> Any:
    """The value of ``key`` (``a.b``); None where ``config`` lacks it."""
    for name in key.split("."):
        config = getattr(config, name, None)
    return config


def set_value(config: Any, key: str, value: object) -> None:
    """Set ``key`` (``a.b``) of ``config``."""
    section, _, name = key.rpartition(".")
    setattr(value_of(config, section) if section else config, name, value)


def named(config: Any) -> dict[str, str]:
    """The keys of :data:`NAMED` that ``config`` sets, with their values.

    ``runtime.address=auto`` names no machine.
    """
    found = {key: value_of(config, key) for key in NAMED}
    return {key: value for key, value in found.items() if value not in (None, "auto")}


@dataclass
class Job:
    """One command."""

    def settle(self) -> None:
        """Replace null where the default depends on another key."""

    def check(self) -> None:
        """Refuse values that do not go together.

        Raises:
            ConfigError: names the keys.
        """


@dataclass
class Computing(Job):
    """A command that computes."""

    seed: Seed
    threads: Positive | None


@dataclass
class Data:
    """What every dataset has; digits has nothing else."""

    name: str
    samples: Annotated[int, Ge(2)] | None
    test_samples: Positive | None
    prune_samples: Annotated[int, Ge(2)] | None
    validation: Annotated[float, Gt(0), Lt(1)] | None
    seed: Seed


@dataclass
class Mnist(Data):
    """MNIST's four idx files."""

    root: str


@dataclass
class Normalised(Data):
    """Images of which each channel is normalised."""

    mean: list[float] | None
    std: list[float] | None


@dataclass
class Cifar10(Normalised):
    """CIFAR-10's six batches."""

    root: str


@dataclass
class ImageFolder(Normalised):
    """Images in a folder for each class."""

    root: str
    size: Positive
    resize: Positive | None


@dataclass
class Npz(Normalised):
    """Four arrays in one file."""

    path: str
    classes: Annotated[int, Ge(2)] | None


@dataclass
class Text(Data):
    """Text in tokens."""

    path: str
    sequence: Annotated[int, Ge(2)]
    tokenizer: str | None
    rows: Literal["packed", "lines"] | None
    columns: list[Positive] | None

    def settle(self, model: Model, path: str | None = None) -> None:
        """Replace null by what goes with the model, or the one in the folder ``path``.

        Raises:
            ConfigError: no model names a tokenizer.
        """
        own = model.path if isinstance(model, HuggingFace) else None
        for place in (own, path):
            if self.tokenizer is None and place is not None and has_tokenizer(place):
                self.tokenizer = place
        if self.tokenizer is None and own is None:
            raise ConfigError(
                "data.tokenizer: found null, accepted the folder of a model with its tokenizer, "
                "where model.path has none"
            )
        self.tokenizer = self.tokenizer or own
        if self.rows is None:
            causal = quality_of(str(own or path or self.tokenizer)) == "perplexity"
            self.rows = "packed" if causal else "lines"


@dataclass
class Synthetic(Data):
    """A planted problem whose best subset is known."""

    features: Positive
    planted: Positive


@dataclass
class Model:
    """What every network has."""

    name: str


@dataclass
class Catalog(Model):
    """A deep network by name, its layers ``width`` times as wide as published; null: 1."""

    width: Annotated[float, Gt(0)] | None


@dataclass
class TwoLayer(Model):
    """The mean of ``width`` neurons."""

    width: Positive
    activation: Activation


@dataclass
class Custom(Model):
    """A deep network that a function of the user's makes."""

    factory: str
    kwargs: dict[str, Any]


@dataclass
class HuggingFace(Model):
    """A model of transformers in a folder, with its weights."""

    path: str


@dataclass
class Named(Model):
    """A network that a package makes by name, with fresh weights."""

    network: str
    kwargs: dict[str, Any]


@dataclass
class Stored(Model):
    """The deep network that a checkpoint itself describes."""


def settled_quality(
    quality: Quality | None, data: Data, model: Model, path: str | None = None
) -> Quality | None:
    """What tells how well networks do on text, where nothing was said; its tokenizer is settled.

    Args:
        path: of a network, where the model names none.

    Raises:
        ConfigError: it does not go with the data, or no tokenizer is named.
    """
    if not isinstance(data, Text):
        if quality not in (None, "accuracy"):
            raise ConfigError(f"quality: found {quality}, accepted accuracy with data={data.name}")
        return quality
    data.settle(model, path)
    if quality == "accuracy":
        raise ConfigError(
            "quality: found accuracy, accepted perplexity, kl, cosine with data=text, which has no "
            "labels"
        )
    place = model.path if isinstance(model, HuggingFace) else path or data.tokenizer
    own: Quality = quality_of(str(place))  # type: ignore[assignment]
    return quality or ("kl" if own == "accuracy" else own)


@dataclass
class Train:
    """What every training method has; full-batch gradient descent has nothing else."""

    method: str
    iterations: Annotated[int, Ge(0)] | None
    lr: Annotated[float, Gt(0)] | None
    step_share: Annotated[float, Gt(0), Lt(2)] | None
    precision: Literal["float64", "float32"] | None
    checkpoint_every: Positive | None


@dataclass
class Sgd(Train):
    """Mini-batches with momentum."""

    batch: Positive
    momentum: Annotated[float, Ge(0), Lt(1)]
    weight_decay: Annotated[float, Ge(0)] | None
    augment: bool | None
    amp: bool | None


@dataclass
class Runtime:
    """Where the ranks live; ``none``: in the process of the command."""

    kind: str


@dataclass
class LocalRuntime(Runtime):
    """Worker processes of this machine."""

    spares: Annotated[int, Ge(0)]
    hang_floor_s: Annotated[float, Gt(0)]
    placement_timeout_s: Annotated[float, Gt(0)]


@dataclass
class RayRuntime(LocalRuntime):
    """Ray actors."""

    address: str | None


GROUPS: dict[str, dict[str, type]] = {
    "data": {
        "digits": Data,
        "mnist": Mnist,
        "cifar10": Cifar10,
        "imagefolder": ImageFolder,
        "npz": Npz,
        "text": Text,
        "synthetic": Synthetic,
    },
    "model": {
        "two_layer": TwoLayer,
        **dict.fromkeys(CATALOG, Catalog),
        "custom": Custom,
        "hf": HuggingFace,
        "timm": Named,
        "torchvision": Named,
        "stored": Stored,
    },
    "train": {"gd": Train, "sgd": Sgd},
    "runtime": {"ray": RayRuntime, "local": LocalRuntime, "none": Runtime},
}
"""The schema of each option: option NAME of a group is conf/GROUP/NAME.yaml."""

ALIASES = {"timm": {"model.name": "model.network"}, "torchvision": {"model.name": "model.network"}}
"""Keys as they are typed with an option, and as they are kept."""

OPTION_KEY = {"data": "name", "model": "name", "train": "method", "runtime": "kind"}
"""The key of a group that holds the option's name."""

CHANGEABLE = ("workers", "runtime", "device", "threads", "export")
"""Keys that may change when a run is resumed."""


def check_workers(workers: int, runtime: Runtime) -> None:
    """Refuse more ranks than this process can be.

    Raises:
        ConfigError: ``workers`` does not go with ``runtime=none``.
    """
    if runtime.kind == "none" and workers != 1:
        raise ConfigError(f"workers: found {workers}, accepted 1 with runtime=none")


def check_training(train: Train, model: Model) -> None:
    """Refuse training that does not go with the network.

    Raises:
        ConfigError: names the key.
    """
    if not isinstance(model, TwoLayer):
        check_deep_training(train, f" with model={model.name}")
        return
    for key in ("weight_decay", "augment", "amp"):
        if getattr(train, key, None):
            raise ConfigError(f"train.{key}: accepted with deep networks, not model=two_layer")
    if train.lr is not None and train.step_share is not None:
        raise ConfigError(
            f"train.step_share: found {train.step_share:g} with train.lr={train.lr:g}, accepted "
            "one of the two"
        )


def check_deep_training(train: Train, where: str = "") -> None:
    """The same for a network that cannot have two layers."""
    if not isinstance(train, Sgd):
        raise ConfigError(f"train: found {train.method}, accepted sgd{where}")
    for key, instead in (("step_share", ""), ("precision", ", which have train.amp")):
        if getattr(train, key) is not None:
            raise ConfigError(
                f"train.{key}: accepted with model=two_layer, not deep networks{instead}"
            )
