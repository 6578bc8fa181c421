"""A quadratic model of the network's loss, from how each sample's loss depends on each candidate.

With ``d_si`` the derivative of sample ``s``'s loss by the gate of candidate ``i`` (a factor of one
on all its inputs to consumers), gates ``n c_i`` change that loss by ``sum_i (n c_i - 1) d_si`` to
first order. The mean of its square over samples, the empirical Fisher's quadratic form, is the
squared loss of contributions ``phi_i = n d_i`` whose target is their mean, ``sum_i d_i``. One pass
forward and back serves all layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from gfs_dist.errors import InputError, NonFiniteError
from gfs_dist.files import checkpoint
from gfs_dist.networks.graph.graph_network import GraphNetwork, Step
from gfs_dist.networks.graph.json_values import fill
from gfs_dist.networks.measure.inputs import Batch
from gfs_dist.networks.measure.loss_and_accuracy import check_outputs
from gfs_dist.networks.measure.threads import one_thread_each
from gfs_dist.pruning.calibration.consumers import ConsumerCall, find_consumer_calls
from gfs_dist.pruning.calibration.staged_run import Results, advance, make_stages, output_names
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.selection.objective import Objective
from gfs_dist.selection.objectives.contributions import ArrayContributions
from gfs_dist.selection.objectives.factory import Recipe, make_objective
from gfs_dist.selection.partition import RankShare

Derivatives = dict[str, Tensor]
"""``d`` of each layer, by name: (samples, candidates)."""


@dataclass(frozen=True, eq=False)
class FisherProblem:
    """Pruning one layer so that the quadratic model of the loss stays low.

    Attributes:
        layer: its name.
        files: derivatives of all layers, a file for each part of the samples, in order.
        recipe: method, weights and replacement; the loss is squared.
    """

    layer: str
    num_candidates: int
    files: tuple[str, ...]
    recipe: Recipe

    def objective(
        self, share: RankShare, device: torch.device, tick: Callable[[], None]
    ) -> Objective:
        parts = []
        for path in self.files:
            with safe_open(path, "pt") as file:
                parts.append(file.get_tensor(self.layer))
        derivatives = torch.cat(parts).to(device, torch.float64)
        source = ArrayContributions(self.num_candidates * derivatives)
        return make_objective(self.recipe, source, derivatives.sum(1), share.own, tick)


@dataclass(frozen=True)
class DerivativesTask:
    """The derivatives of one part of the samples.

    Attributes:
        workspace: of the network; labelled.
        structure: its layers are differentiated.
    """

    workspace: Workspace
    structure: Structure

    def __post_init__(self) -> None:
        self.workspace.require_labels("objective fisher")

    def run(self, item: Any, device: torch.device, tick: Callable[[], None]) -> str:
        """Derivatives of part ``item``; returns the file."""
        network = self.workspace.dense(device)
        chunks = self.workspace.parts()[item]
        batches = (
            (self.workspace.x(chunk).to(device), self.workspace.labels(chunk).to(device))
            for chunk in chunks
        )
        path = self.workspace.subfolder("derivatives") / f"part_{item:02d}.safetensors"
        found = gate_derivatives(network, self.structure, batches, tick)
        checkpoint.write_tensors(path, found, durable=False)
        return str(path)


def gate_derivatives(
    network: GraphNetwork,
    structure: Structure,
    batches: Iterable[tuple[Batch, Tensor]],
    tick: Callable[[], None] = lambda: None,
) -> Derivatives:
    """Derivatives of each sample's cross-entropy by the gate of each candidate.

    They do not depend on the number of threads: one thread computes a batch.

    Args:
        network: recorded; evaluated, not modified.
        structure: of the network.
        batches: inputs and labels, on the network's device; as many are held at once as torch has
            threads.
        tick: called after each batch.

    Returns:
        float32, or float64 where the network is.

    Raises:
        ShapeError, DataError: the outputs are no logits for the labels.
        NonFiniteError: names the layer.
        InputError: a consumer does not read samples along its first axis.
    """
    gates = _Gates(network, structure)
    found: dict[str, list[Tensor]] = {layer.name: [] for layer in structure.layers}
    remaining, threads = iter(batches), torch.get_num_threads()
    with one_thread_each() as pool:
        while wave := list(itertools.islice(remaining, threads)):
            for part in pool.map(lambda batch: gates.derivatives(*batch), wave):
                for name, derivatives in part.items():
                    found[name].append(derivatives)
                tick()
    return {name: torch.cat(parts) for name, parts in found.items()}


class _Gates:
    """Gates of ones where consumers read the candidates of all layers."""

    def __init__(self, network: GraphNetwork, structure: Structure) -> None:
        self._network = network
        self._consumers = {
            layer.name: find_consumer_calls(network, layer) for layer in structure.layers
        }
        # Layers that are concatenated have a consumer in common, and it has one set of gates.
        self._calls = {c.step.name: c for calls in self._consumers.values() for c in calls}
        self._stage = make_stages(network, [output_names(network)])[0]

    def derivatives(self, x: Tensor, labels: Tensor) -> Derivatives:
        """Derivatives of each sample's loss, on the CPU.

        Samples do not affect each other, so that the sum of their losses has all derivatives.
        """
        gates: dict[str, Tensor] = {}

        def gate(step: Step, results: Results) -> Results:
            call = self._calls.get(step.name)
            if call is None:
                return results
            source = results[call.source]
            if len(source) != len(x):
                raise InputError(
                    f"layer {step.target!r}: it reads {tuple(source.shape)} for {len(x)} "
                    "samples, accepted by objective fisher is one row for each along the "
                    "first axis"
                )
            ones = source.new_ones(len(x), len(call.owners), requires_grad=True)
            gates[step.name] = ones
            return call.with_gates(results, ones)

        (name,) = self._network.gfs_inputs
        results = advance(self._network, self._stage, {name: x}, gate, gradients=True)
        logits = fill(self._network.gfs_output, results)
        check_outputs(logits, labels)
        loss = functional.cross_entropy(logits.double(), labels, reduction="sum")
        found = torch.autograd.grad(
            loss, list(gates.values()), allow_unused=True, materialize_grads=True
        )
        by_call = dict(zip(gates, found, strict=True))
        return {name: _by_candidate(name, c, by_call) for name, c in self._consumers.items()}


def _by_candidate(layer: str, calls: Sequence[ConsumerCall], by_call: dict[str, Tensor]) -> Tensor:
    """Derivatives by input channel of all consumers, added up for each candidate."""
    count = len(calls[0].channels)
    samples = len(by_call[calls[0].step.name])
    total = torch.zeros(samples, count + 1, dtype=torch.float64)
    for call in calls:
        derivatives = by_call[call.step.name].double().cpu()
        total.index_add_(1, call.owners.cpu(), derivatives)
    given = by_call[calls[0].step.name].dtype
    found = total[:, :count].to(torch.promote_types(given, torch.float32))
    if not torch.isfinite(found).all():
        place = (~torch.isfinite(found)).nonzero()[0].tolist()
        raise NonFiniteError(
            f"layer {layer!r}: the derivative by candidate {place[1]} is "
            f"{float(found[place[0], place[1]])}"
        )
    return found
