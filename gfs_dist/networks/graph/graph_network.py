"""A network that goes through recorded steps, without the code that first made it.

The steps are data, and what they may call is looked up in :mod:`gfs_dist.networks.graph.allowed`.
(``torch.fx.GraphModule`` would write Python source from them and run it; it also forgets layers
that no step uses when it is copied, and keeps names such as ``code`` and ``graph`` from layers.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

from torch import Tensor, nn

from gfs_dist.errors import ConfigError, ShapeError
from gfs_dist.networks.graph.allowed import FUNCTIONS
from gfs_dist.networks.graph.json_values import (
    TRAINING,
    Result,
    checked_dict,
    checked_list,
    decode,
    fill,
    needed,
)


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        name: of its result.
        kind: ``module``, ``tensor`` or ``call``.
        target: name of the layer or tensor in the network, or a key of :data:`FUNCTIONS`.
        args, kwargs: its arguments, with stand-ins for the results of earlier steps.
        last_used: results that no later step needs.
    """

    name: str
    kind: str
    target: str
    args: list[Any]
    kwargs: dict[str, Any]
    last_used: tuple[str, ...] = ()

    @cached_property
    def needs(self) -> set[str]:
        """Results it takes."""
        return needed([self.args, self.kwargs])

    @cached_property
    def path(self) -> list[str]:
        """The names that lead to the target."""
        return self.target.split(".")

    @cached_property
    def plain(self) -> bool:
        """Whether results are positional arguments themselves and none lies inside another."""
        return not needed([[arg for arg in self.args if not isinstance(arg, Result)], self.kwargs])


class GraphNetwork(nn.Module):
    """Layers and tensors under the names they had in the original, and its recorded steps.

    ``forward`` takes the tensors that the original was recorded with, by position. Layers and
    tensors are looked up when they are used, so that they can be replaced as in any network.

    Args:
        steps: ``inputs``, ``nodes`` and ``output`` of a description, see
            :func:`gfs_dist.networks.graph.describe`.

    Raises:
        ConfigError: they are malformed, or a step uses what is not computed before it.
    """

    def __init__(self, steps: dict[str, Any]) -> None:
        super().__init__()
        # Prefixed, since the original's layers and tensors come to lie beside them.
        self.gfs_steps = steps
        self.gfs_inputs = _input_names(steps)
        self.gfs_output = decode(steps.get("output"), "graph.output")
        nodes = checked_list(steps.get("nodes"), "graph.nodes")
        self.gfs_program = _ordered(
            self.gfs_inputs, [_read(node) for node in nodes], needed(self.gfs_output)
        )

    def forward(self, *inputs: Tensor) -> Any:
        """What the original computes."""
        if len(inputs) != len(self.gfs_inputs):
            raise ShapeError(f"inputs: found {len(inputs)}, accepted {len(self.gfs_inputs)}")
        results: dict[str, Any] = dict(zip(self.gfs_inputs, inputs, strict=True))
        results[TRAINING.name] = self.training
        for step in self.gfs_program:
            results[step.name] = self.run_step(step, results)
            for name in step.last_used:
                del results[name]
        return fill(self.gfs_output, results)

    def run_step(self, step: Step, results: dict[str, Any]) -> Any:
        """The result of one step, from the results that it needs."""
        if step.kind == "call":
            found: Any = FUNCTIONS[step.target]
        else:
            found = reduce(getattr, step.path, self)
            if step.kind == "tensor":
                return found
        if step.plain:  # nearly every step, and five times as quick
            args = [results[arg.name] if type(arg) is Result else arg for arg in step.args]
            return found(*args, **step.kwargs)
        args = fill(step.args, results)
        return found(*args, **fill(step.kwargs, results))


def _input_names(steps: dict[str, Any]) -> list[str]:
    names = checked_list(steps.get("inputs"), "graph.inputs")
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ConfigError(f"graph.inputs: found {str(names)[:60]}, accepted different names")
    return names


def _read(node: Any) -> Step:
    facts = checked_dict(node, "graph.nodes")
    name = facts.get("name")
    where = f"graph.nodes: step {str(name)[:60]!r}"
    targets = {kind: facts[kind] for kind in ("module", "tensor", "call") if kind in facts}
    if not isinstance(name, str) or len(targets) != 1:
        raise ConfigError(f"{where}: accepted is a name and one of module, tensor, call")
    kind, target = targets.popitem()
    if not isinstance(target, str):
        raise ConfigError(f"{where}: found {kind} {str(target)[:60]}, accepted a name")
    args = checked_list(facts.get("args"), f"{where}, args")
    kwargs = checked_dict(facts.get("kwargs"), f"{where}, kwargs")
    return Step(
        *(name, kind, target),
        args=[decode(value, f"{where}, argument {place}") for place, value in enumerate(args)],
        kwargs={key: decode(value, f"{where}, {key}") for key, value in kwargs.items()},
    )


def _ordered(inputs: list[str], steps: list[Step], kept: set[str]) -> list[Step]:
    """Steps with what each is the last to need.

    Raises:
        ConfigError: two results of one name, or one used that no earlier step has.
    """
    known = {*inputs, TRAINING.name}
    for step in steps:
        missing = sorted(step.needs - known)
        if missing or step.name in known:
            fault = f"uses {missing[0]!r} before it is there" if missing else "is there twice"
            raise ConfigError(f"graph.nodes: step {step.name[:60]!r} {fault}")
        known.add(step.name)
    if not kept <= known:
        raise ConfigError(f"graph.output: found {min(kept - known)!r}, which no step gives")
    later = kept | {TRAINING.name}
    ordered = []
    for step in reversed(steps):
        mine = step.needs | {step.name}
        ordered.append(replace(step, last_used=tuple(sorted(mine - later))))
        later |= mine
    return ordered[::-1]
