"""A quadratic model of the final loss: from how each sample's loss depends on each candidate.

With ``d_si`` the derivative of sample ``s``'s loss by the gate of candidate ``i`` (a factor of one
on all its inputs to consumers), gates ``n c_i`` change that loss by ``sum_i (n c_i - 1) d_si`` to
first order. The mean of its square over samples, the empirical Fisher's quadratic form, is the
squared loss of contributions ``phi_i = n d_i`` whose target is their mean, ``sum_i d_i``. One pass
forward and back serves all layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from gfs_dist.errors import InputError, NonFiniteError
from gfs_dist.files import atomic
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.json_values import TRAINING
from gfs_dist.networks.measure.loss_and_accuracy import check_outputs
from gfs_dist.pruning.calibration.consumers import Reader, find_readers
from gfs_dist.pruning.calibration.determinism import one_thread_each
from gfs_dist.pruning.calibration.staged_run import output_names
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.selection.objective import Objective
from gfs_dist.selection.objectives.contributions import ArrayContributions
from gfs_dist.selection.objectives.factory import Recipe, make_objective
from gfs_dist.selection.partition import RankShare

Derivatives = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class FisherProblem:
    """Pruning one layer so that the quadratic model of the loss stays low.

    Attributes:
        layer: its name.
        num_candidates: of the layer.
        file: derivatives of all layers: see :func:`write_derivatives`.
        recipe: weights and replacement; the loss is squared.
    """

    layer: str
    num_candidates: int
    file: str
    recipe: Recipe

    def objective(
        self, share: RankShare, device: torch.device, tick: Callable[[], None]
    ) -> Objective:
        derivatives = read_derivatives(self.file, self.layer).to(device, torch.float64)
        source = ArrayContributions(self.num_candidates * derivatives)
        recipe = self.recipe
        if recipe.method == "auto":
            recipe = replace(
                recipe, method="panel"
            )  # far fewer candidates than samples, or as many
        return make_objective(recipe, source, derivatives.sum(1), share.own, tick)


@dataclass(frozen=True)
class DerivativesTask:
    """The derivatives of one part of the samples.

    Attributes:
        workspace: of the network; labelled.
        structure: whose layers are asked for.
        name: folder of the files in the workspace.
    """

    workspace: Workspace
    structure: Structure
    name: str = "derivatives"

    def __post_init__(self) -> None:
        self.workspace.require_labels("objective fisher")

    def run(self, item: Any, device: torch.device, tick: Callable[[], None]) -> str:
        """Derivatives of part ``item``; returns the file."""
        network = self.workspace.dense(device)
        chunks = self.workspace.groups()[item]
        batches = (
            (self.workspace.x(chunk).to(device), self.workspace.labels(chunk).to(device))
            for chunk in chunks
        )
        path = self.workspace.path(self.name, f"part_{item:02d}.safetensors")
        write_derivatives(path, gate_derivatives(network, self.structure, batches, tick))
        return str(path)


def gate_derivatives(
    network: GraphNetwork,
    structure: Structure,
    batches: Iterable[tuple[Tensor, Tensor]],
    tick: Callable[[], None] = lambda: None,
) -> Derivatives:
    """Derivatives of each sample's cross-entropy by the gate of each candidate.

    They do not depend on the number of threads: each batch is one thread's.

    Args:
        network: recorded; evaluated, not modified.
        structure: what can be removed from it.
        batches: inputs and labels, on the network's device; as many at once are held as torch has
            threads.
        tick: called after each batch.

    Returns:
        by layer (m, candidates), float32, or float64 where the network is.

    Raises:
        ShapeError, DataError: the outputs are no logits for the labels.
        NonFiniteError: names the layer.
        InputError: a consumer does not read samples along its first axis.
    """
    gates = Gates(network, structure)
    found: dict[str, list[Tensor]] = {layer.name: [] for layer in structure.layers}
    remaining, threads = iter(batches), torch.get_num_threads()
    with one_thread_each() as pool:
        while wave := list(itertools.islice(remaining, threads)):
            for part in pool.map(lambda batch: gates.derivatives(*batch), wave):
                for name, derivatives in part.items():
                    found[name].append(derivatives)
                tick()
    return {name: torch.cat(parts) for name, parts in found.items()}


class Gates:
    """Gates of ones where consumers read the candidates of all layers.

    Args:
        network: recorded.
        structure: of it.
    """

    def __init__(self, network: GraphNetwork, structure: Structure) -> None:
        self._network = network
        self._readers = {layer.name: find_readers(network, layer) for layer in structure.layers}
        # Layers that are concatenated have a consumer in common, and it has one set of gates.
        self._calls = {r.step.name: r for readers in self._readers.values() for r in readers}
        (self._output,) = output_names(network)

    def derivatives(self, x: Tensor, labels: Tensor) -> Derivatives:
        """Derivatives of each sample's loss: by layer (samples, candidates), on the CPU.

        Samples do not touch each other, so that the sum of their losses has them all.
        """
        logits, gates = self._run(x)
        check_outputs(logits, labels)
        loss = functional.cross_entropy(logits.double(), labels, reduction="sum")
        found = torch.autograd.grad(
            loss, list(gates.values()), allow_unused=True, materialize_grads=True
        )
        by_call = dict(zip(gates, found, strict=True))
        return {
            name: _of_candidates(name, readers, by_call) for name, readers in self._readers.items()
        }

    @torch.enable_grad()
    def _run(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The network's output, and the gates of each consumer's inputs (samples, inputs)."""
        (name,) = self._network.gfs_inputs
        results: dict[str, Any] = {TRAINING.name: False, name: x}
        gates: dict[str, Tensor] = {}
        for step in self._network.gfs_program:
            given, reader = results, self._calls.get(step.name)
            if reader is not None:
                source = results[reader.source]
                if len(source) != len(x):
                    raise InputError(
                        f"layer {step.target!r}: it reads {tuple(source.shape)} for {len(x)} "
                        "samples, accepted by objective fisher is one row for each along the "
                        "first axis"
                    )
                ones = source.new_ones(len(x), len(reader.owners), requires_grad=True)
                gates[step.name] = ones
                given = {**results, reader.source: reader.gated(source, ones)}
            results[step.name] = self._network.run_step(step, given)
            for unneeded in step.last_used:
                del results[unneeded]
        found: Tensor = results[self._output]
        return found, gates


def _of_candidates(layer: str, readers: Sequence[Reader], by_call: dict[str, Tensor]) -> Tensor:
    """A candidate has the inputs of all consumers that are its own."""
    count = len(readers[0].channels)
    samples = len(by_call[readers[0].step.name])
    total = torch.zeros(samples, count + 1, dtype=torch.float64)
    for reader in readers:
        derivatives = by_call[reader.step.name].double().cpu()
        total.index_add_(1, reader.owners.cpu(), derivatives)
    given = by_call[readers[0].step.name].dtype
    found = total[:, :count].to(torch.promote_types(given, torch.float32))
    if not torch.isfinite(found).all():
        place = (~torch.isfinite(found)).nonzero()[0].tolist()
        raise NonFiniteError(
            f"layer {layer!r}: the derivative by candidate {place[1]} is "
            f"{float(found[place[0], place[1]])}"
        )
    return found


def write_derivatives(path: Path | str, derivatives: Derivatives) -> None:
    """Derivatives of all layers as a file that ranks read."""
    aside = Path(path).with_suffix(".tmp")
    with atomic.storage_errors(Path(path)):
        save_file({name: part.contiguous() for name, part in derivatives.items()}, aside)
        aside.replace(path)


def read_derivatives(path: Path | str, layer: str) -> Tensor:
    """What :func:`write_derivatives` wrote of one layer."""
    with safe_open(path, "pt") as file:
        found: Tensor = file.get_tensor(layer)
    return found


def join_derivatives(parts: Sequence[Path | str], path: Path | str) -> None:
    """Files of all parts as one, in their order; they are removed."""
    tensors = [load_file(part) for part in parts]
    write_derivatives(path, {name: torch.cat([t[name] for t in tensors]) for name in tensors[0]})
    for part in parts:
        Path(part).unlink()
