"""A network that runs recorded steps, without the code that first made it.

The steps are data, and the functions that they call are looked up in
:mod:`gfs_dist.networks.graph.allowed`. (``torch.fx.GraphModule`` would write Python source from
them and run it; it also forgets layers that no step uses when it is copied, and keeps names such
as ``code`` and ``graph`` from layers.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

from torch import Tensor, nn

from gfs_dist.errors import ConfigError, ShapeError
from gfs_dist.networks.graph.allowed import FUNCTIONS
from gfs_dist.networks.graph.json_values import TRAINING, StepOutput, fill, needed


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        name: of its result.
        kind: ``module``, ``tensor`` or ``call``.
        target: name of the layer or tensor in the network, or a key of :data:`FUNCTIONS`.
        args, kwargs: its arguments, with a :class:`StepOutput` for each result of an earlier step.
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
        """Whether every result that it takes is a positional argument of its own."""
        others = [arg for arg in self.args if not isinstance(arg, StepOutput)]
        return not needed([others, self.kwargs])


class GraphNetwork(nn.Module):
    """Layers and tensors under the names they had in the original, and its recorded steps.

    ``forward`` takes the tensors that the original was recorded with, by position. Layers and
    tensors are looked up when they are used, so that they can be replaced as in any network.
    Attributes begin with ``gfs_``, since the original's layers and tensors lie beside them.

    Args:
        inputs: different names of the inputs.
        steps: in the order they run.
        output: a decoded value with a :class:`StepOutput` for each result.
        evaluation_only: training took other steps, which were not recorded.

    Raises:
        ConfigError: two results of one name, or one used that no earlier step has.
    """

    def __init__(
        self, inputs: list[str], steps: list[Step], output: Any, *, evaluation_only: bool = False
    ) -> None:
        super().__init__()
        self.gfs_inputs, self.gfs_output = inputs, output
        self.gfs_program = ordered(inputs, steps, output)
        self.gfs_evaluation_only = evaluation_only

    def forward(self, *inputs: Tensor) -> Any:
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
            args = [results[arg.name] if type(arg) is StepOutput else arg for arg in step.args]
            return found(*args, **step.kwargs)
        args = fill(step.args, results)
        return found(*args, **fill(step.kwargs, results))


def ordered(inputs: list[str], steps: list[Step], output: Any) -> list[Step]:
    """The steps with :attr:`Step.last_used`.

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
    kept = needed(output)
    if not kept <= known:
        raise ConfigError(f"graph.output: found {min(kept - known)!r}, which no step gives")
    later = kept | {TRAINING.name}
    backwards = []
    for step in reversed(steps):
        mine = step.needs | {step.name}
        backwards.append(replace(step, last_used=tuple(sorted(mine - later))))
        later |= mine
    return backwards[::-1]
