"""Any module, run as itself, or in the steps of a forward pass that was followed."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from gfs_dist.networks.graph.follow import Followed, X, follow
from gfs_dist.networks.graph.graph_network import GraphNetwork, Step
from gfs_dist.networks.graph.json_values import MAKE_IT_PURE, TRAINING, UnstorableError, fill
from gfs_dist.networks.measure.evaluation import device_of, evaluating
from gfs_dist.networks.measure.inputs import MASK, Inputs, tensors_of

RELATIVE_ERROR = 1e-5


class FollowedNetwork(GraphNetwork):
    """A module that takes :class:`Inputs`, and the steps of its forward passes.

    ``forward`` is the module's own. Steps are followed once for each shape of inputs, on the inputs
    that come first, and anew in a copy, whose layers may be cut. Modules, parameters and buffers
    are the module's own, under the names they have there.

    Args:
        root: a copy of the user's; it is put in evaluation mode, its layers out of place.
        example: some samples.
        select: the part of the outputs that counts.
        to_the_end: else steps go to the last layer, and what is left then is the output: where
            what comes after it is not the same for every input.
    """

    takes_inputs = True
    gfs_root: nn.Module
    gfs_passes: list[tuple[Any, Followed]]
    gfs_opaque: set[str]
    gfs_lock: threading.RLock

    def __init__(
        self,
        root: nn.Module,
        example: Inputs,
        select: Callable[[Any], Any] = lambda out: out,
        *,
        to_the_end: bool = True,
    ) -> None:
        nn.Module.__init__(self)
        self.gfs_to_the_end = to_the_end
        self.gfs_inputs, self.gfs_evaluation_only = [X], True
        self.gfs_example, self.gfs_select = example, select
        self._adopt(root)
        for module in root.modules():
            if getattr(module, "inplace", False) is True:
                module.inplace = False  # type: ignore[assignment]

    def _adopt(self, root: nn.Module) -> None:
        self.__dict__["gfs_root"] = root.eval()
        self.__dict__["gfs_passes"], self.__dict__["gfs_lock"] = [], threading.RLock()
        self.__dict__["gfs_opaque"] = set()
        for shared in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[shared] = root.__dict__[shared]

    def __deepcopy__(self, memo: dict[int, Any]) -> FollowedNetwork:
        root = copy.deepcopy(self.gfs_root, memo)
        made = FollowedNetwork(
            root, self.gfs_example, self.gfs_select, to_the_end=self.gfs_to_the_end
        )
        made.gfs_opaque.update(self.gfs_opaque)
        return made

    def __reduce__(self) -> Any:
        return _rebuilt, (self.gfs_root, self.gfs_example, self.gfs_select, self.gfs_to_the_end)

    def forward(self, x: Inputs) -> Any:  # type: ignore[override]
        """The floating tensors of the output, one or a tuple; of steps that end before, theirs."""
        if not self.gfs_to_the_end:
            return self.replay(x)
        given = Inputs(x.tensors, self.gfs_example.form)
        outputs = self.gfs_select(given.run(self.gfs_root))
        found = [t for t in tensors_of(outputs) if t.is_floating_point()]
        return found[0] if len(found) == 1 else tuple(found)

    def get_submodule(self, target: str) -> nn.Module:
        return self.gfs_root.get_submodule(target)

    def train(self, mode: bool = True) -> FollowedNetwork:
        self.gfs_root.train(mode)
        self.training = mode
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> FollowedNetwork:
        self.gfs_root._apply(fn, recurse)  # noqa: SLF001
        self.__dict__["gfs_passes"] = []  # constants of steps have the old device and dtype
        return self

    @property
    def gfs_program(self) -> list[Step]:  # type: ignore[override]
        """The steps on the example."""
        return [*self._pass_of(self.gfs_example).steps.values()]

    @property
    def gfs_output(self) -> Any:
        return self._pass_of(self.gfs_example).output

    def run_step(self, step: Step, results: dict[str, Any]) -> Any:
        """The result of a step; its constants are those of the inputs' shapes."""
        found = self._pass_of(results[X]).steps[step.name]
        return self._run(found, results)

    def _run(self, step: Any, results: dict[str, Any]) -> Any:
        if step.kind == "tensor":
            owner, _, name = step.target.rpartition(".")
            return getattr(self.gfs_root.get_submodule(owner), name)
        call = step.function if step.kind == "call" else self.gfs_root.get_submodule(step.target)
        args, kwargs = fill(step.args, results), fill(step.kwargs, results)
        if step.autocast is None:
            return call(*args, **kwargs)
        with torch.autocast(device_of(self.gfs_root).type, step.autocast):
            return call(*args, **kwargs)

    def _pass_of(self, x: Inputs) -> Followed:
        """The pass whose steps hold for these inputs; followed if there is none yet."""
        if id(self) in x.memo and x.memo[id(self)][0] is self.gfs_passes:
            found: Followed = x.memo[id(self)][1]
            return found
        here = Inputs(x.tensors, self.gfs_example.form).to(device_of(self.gfs_root))
        with self.gfs_lock:
            for shapes, found in self.gfs_passes:
                if shapes == x.shapes and (MASK in x.tensors or self._guards_hold(found, here)):
                    break
            else:
                with torch.no_grad():
                    found = follow(
                        self.gfs_root,
                        _padded(here),
                        self.gfs_opaque,
                        self.gfs_select,
                        to_the_end=self.gfs_to_the_end,
                    )
                if self.gfs_to_the_end and found.ends:
                    raise UnstorableError(found.ends)
                self.gfs_passes.append((x.shapes, found))
        x.memo[id(self)] = (self.gfs_passes, found)
        return found

    def step_names(self, x: Inputs) -> set[str]:
        """Names of the steps for these inputs."""
        return set(self._pass_of(x).steps)

    def _guards_hold(self, found: Followed, x: Inputs) -> bool:
        """Whether what the code read out of tensors made of the inputs alone is the same."""
        for name, value, _ in found.guards:
            results: dict[str, Any] = {X: x}
            if (steps := _made_of_inputs(found, name)) is None:
                continue
            for step in steps:
                results[step.name] = self._run(step, results)
            if results[name] != value:
                return False
        return True

    def replay(self, x: Inputs) -> Any:
        """The output by steps."""
        followed = self._pass_of(x)
        results: dict[str, Any] = {X: x, TRAINING.name: False}
        for step in followed.steps.values():
            results[step.name] = self._run(step, results)
            for name in step.last_used:
                if name != X:
                    results.pop(name, None)
        return fill(followed.output, results)


def _rebuilt(
    root: nn.Module, example: Inputs, select: Callable[[Any], Any], to_the_end: bool
) -> FollowedNetwork:
    return FollowedNetwork(root, example, select, to_the_end=to_the_end)


def _padded(x: Inputs) -> Inputs:
    """Inputs with a token of padding, if they have a mask and none.

    Many networks leave their mask out where nothing is padded: the steps with one hold for all.
    """
    mask = x.tensors.get(MASK)
    if mask is None or mask.ndim != 2 or x.real is not None:
        return x
    mask = mask.clone()
    mask[0, -1] = 0
    return Inputs({**x.tensors, MASK: mask}, x.form)


def _made_of_inputs(followed: Followed, name: str) -> list[Any] | None:
    """The steps that give a result, in order; None if weights take part."""
    wanted, steps = {name}, []
    for step in reversed(followed.steps.values()):
        if step.name in wanted:
            if step.kind != "call":
                return None
            wanted |= step.needs
            steps.append(step)
    return steps[::-1]


def check_replay(network: FollowedNetwork, x: Inputs) -> None:
    """Do nothing where the steps give what the module gives.

    Raises:
        UnstorableError: they do not.
    """
    with evaluating(network):
        expected, found = network(x), network.replay(x)
    for one, other in zip(tensors_of(expected), tensors_of(found), strict=True):
        largest = float(one.abs().nan_to_num(0, 0).max()) if one.numel() else 0.0
        close = one.shape == other.shape and torch.allclose(
            one, other, rtol=RELATIVE_ERROR, atol=RELATIVE_ERROR * largest, equal_nan=True
        )
        if not close:
            raise UnstorableError(
                f"its forward pass does not do the same every time: {MAKE_IT_PURE}, and conditions "
                "on the numbers that layers compute"
            )
