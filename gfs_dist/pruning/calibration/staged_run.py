"""A network run in stages over chunks of samples, and the store its results wait in between.

A stage runs the steps that the results asked of it need and no earlier stage has run. Results
before each stage are stored for each chunk, so that a stage can be run again from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils._pytree import tree_leaves

from gfs_dist.files import checkpoint
from gfs_dist.networks.graph.followed_network import FollowedNetwork
from gfs_dist.networks.graph.graph_network import GraphNetwork, Step
from gfs_dist.networks.graph.json_values import TRAINING, needed
from gfs_dist.networks.measure.inputs import Batch, Inputs
from gfs_dist.pruning.calibration.layer_sites import ancestors

Results = dict[str, Any]
"""Results of steps, and inputs of the network, by name."""

DENSE, SMALL = "dense", "small"
"""Names under which results of the dense network and of a smaller one are stored."""

HELD_BYTES = 2**29
"""Of results that a process holds between stages; more wait in files."""


@dataclass(frozen=True)
class Stage:
    """Steps of a network, and the results that remain after them.

    Attributes:
        steps: to run, in order.
        asked: results the stage has to give.
        live: results that later stages need.
    """

    steps: tuple[Step, ...]
    asked: frozenset[str]
    live: frozenset[str] = frozenset()

    @cached_property
    def schedule(self) -> list[tuple[Step, frozenset[str]]]:
        """Each step with the results that can be freed after it."""
        later = self.asked | self.live | {TRAINING.name}
        schedule = []
        for step in reversed(self.steps):
            used = step.needs | {step.name}
            schedule.append((step, frozenset(used - later)))
            later |= used
        return schedule[::-1]


def make_stages(network: GraphNetwork, asked: Sequence[frozenset[str]]) -> list[Stage]:
    """One stage for each set of results asked for, in order."""
    above = ancestors(network)
    done = set(network.gfs_inputs)
    runs: list[tuple[Step, ...]] = []
    for names in asked:
        wanted = frozenset().union(*(above[name] for name in names)) - done
        runs.append(tuple(step for step in network.gfs_program if step.name in wanted))
        done |= wanted
    stages: list[Stage] = []
    later: set[str] = set()
    for steps, names in zip(reversed(runs), reversed(asked), strict=True):
        stages.append(Stage(steps, names, frozenset(later)))
        later.update(names, *(step.needs for step in steps))
    return stages[::-1]


def with_inputs(network: GraphNetwork, *names: str) -> frozenset[str]:
    """Names of results, and of the inputs where these tell padding."""
    return frozenset(
        [*names, *(network.gfs_inputs if isinstance(network, FollowedNetwork) else ())]
    )


def output_names(network: GraphNetwork) -> frozenset[str]:
    """The results that make up the network's output."""
    return with_inputs(network, *needed(network.gfs_output))


def advance(
    network: GraphNetwork,
    stage: Stage,
    results: Results,
    substitute: Callable[[Step, Results], Results] = lambda _, results: results,
    *,
    gradients: bool = False,
) -> Results:
    """Run a stage; returns the results asked of it and the live ones, frees others at once.

    Args:
        results: before it; not modified.
        substitute: for a step and the results so far, gives the results that the step reads.
        gradients: whether to record what a backward pass needs.
    """
    results = {TRAINING.name: False, **results}
    with torch.set_grad_enabled(gradients):
        for step, freed in stage.schedule:
            results[step.name] = network.run_step(step, substitute(step, results))
            for name in freed:
                results.pop(name, None)
    return keep(results, stage.asked | stage.live)


def run_to(network: GraphNetwork, stages: Sequence[Stage], x: Batch) -> Results:
    """Results after some first stages."""
    results: Results = {network.gfs_inputs[0]: x}
    for stage in stages:
        results = advance(network, stage, results)
    return results


def keep(results: Results, names: frozenset[str]) -> Results:
    """The results that have one of the names."""
    return {name: value for name, value in results.items() if name in names}


class ActivationStore(Protocol):
    """Results before each stage of a network (``dense``, ``small``), for each chunk of samples."""

    def load(self, network: str, stage: int, chunk: int) -> Results: ...

    def save(self, network: str, stage: int, chunk: int, results: Results) -> None: ...

    def drop(self, network: str, stage: int) -> None:
        """Forget the results before a stage."""
        ...


class MemoryStore:
    """Holds the results of few samples."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int, int], Results] = {}

    def load(self, network: str, stage: int, chunk: int) -> Results:
        return dict(self._held[network, stage, chunk])

    def save(self, network: str, stage: int, chunk: int, results: Results) -> None:
        self._held[network, stage, chunk] = dict(results)

    def drop(self, network: str, stage: int) -> None:
        self._held = {k: held for k, held in self._held.items() if k[:2] != (network, stage)}


class HeldStore:
    """Holds the last results of each chunk in this process; what it may not hold is in files.

    What another process has held is made again: bits are the same, and workers keep to their own
    chunks unless one is lost.

    Args:
        folder: see :class:`FileStore`.
        make: runs a network up to a stage: (network, stage, chunk).
        most: bytes to hold.
    """

    def __init__(
        self,
        folder: Path | str,
        device: torch.device | str,
        make: Callable[[str, int, int], Results],
        most: int = HELD_BYTES,
    ) -> None:
        self._files, self._make, self._most = FileStore(folder, device), make, most
        self._held: dict[tuple[str, int], tuple[int, int, Results]] = {}  # stage, bytes, results

    def load(self, network: str, stage: int, chunk: int) -> Results:
        found = self._held.get((network, chunk))
        if found and found[0] == stage:
            return dict(found[2])
        if self._files.has(network, stage, chunk):
            return self._files.load(network, stage, chunk)
        results = self._make(network, stage, chunk)
        self.save(network, stage, chunk, results)
        return results

    def save(self, network: str, stage: int, chunk: int, results: Results) -> None:
        self._held.pop((network, chunk), None)
        tensors = [t for t in tree_leaves(results) if isinstance(t, Tensor)]
        size = sum({t.untyped_storage().data_ptr(): _num_bytes(t) for t in tensors}.values())
        if size + sum(held for _, held, _ in [*self._held.values()]) <= self._most:
            self._held[network, chunk] = stage, size, dict(results)
        else:
            self._files.save(network, stage, chunk, results)

    def drop(self, network: str, stage: int) -> None:
        held = self._held.items()
        self._held = {k: v for k, v in held if (k[0], v[0]) != (network, stage)}
        self._files.drop(network, stage)


def _num_bytes(tensor: Tensor) -> int:
    """That it keeps alive; another's, if it is a view."""
    return tensor.untyped_storage().nbytes()


class FileStore:
    """A file for each chunk: memory holds only chunks being computed, and processes can share them.

    Args:
        folder: scratch space that exists.
        device: where results are loaded to.
    """

    def __init__(self, folder: Path | str, device: torch.device | str = "cpu") -> None:
        self.folder, self.device = Path(folder), device

    def load(self, network: str, stage: int, chunk: int) -> Results:
        with safe_open(self._file(network, stage, chunk), "pt", str(self.device)) as file:
            layout = json.loads(file.metadata()["layout"])
            return {name: _unpack(part, file) for name, part in layout.items()}

    def save(self, network: str, stage: int, chunk: int, results: Results) -> None:
        tensors: dict[str, Tensor] = {}
        layout = {name: _pack(value, tensors) for name, value in results.items()}
        path = self._file(network, stage, chunk)
        checkpoint.write_tensors(path, tensors, {"layout": json.dumps(layout)}, durable=False)

    def has(self, network: str, stage: int, chunk: int) -> bool:
        return self._file(network, stage, chunk).exists()

    def drop(self, network: str, stage: int) -> None:
        for file in self.folder.glob(f"{network}_{stage:04d}_*.safetensors"):
            file.unlink(missing_ok=True)

    def _file(self, network: str, stage: int, chunk: int) -> Path:
        return self.folder / f"{network}_{stage:04d}_{chunk:05d}.safetensors"


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON in which numbers stand for tensors, which are added to ``tensors``."""
    if isinstance(value, Tensor):
        # safetensors refuses views of one memory.
        tensors[str(len(tensors))] = value.detach().cpu().contiguous().clone()
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, list | tuple):  # a torch.Size, or the parts of chunk()
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(part, tensors) for part in value]}
    if isinstance(value, Inputs):
        return {"inputs": {name: _pack(part, tensors) for name, part in value.tensors.items()}}
    if isinstance(value, dict):
        return {"dict": {key: _pack(part, tensors) for key, part in value.items()}}
    assert value is None or isinstance(value, bool | int | float | str), type(value)
    return {"plain": value}


def _unpack(packed: Any, file: Any) -> Any:
    ((kind, inner),) = packed.items()
    if kind == "tensor":
        # An aligned copy: a tensor's place in a file can decide last bits.
        return file.get_tensor(inner).clone()
    if kind == "plain":
        return inner
    if kind in ("inputs", "dict"):
        named = {name: _unpack(part, file) for name, part in inner.items()}
        return Inputs(named, None) if kind == "inputs" else named
    parts = [_unpack(part, file) for part in inner]
    return parts if kind == "list" else tuple(parts)
