"""The loss of a network in which one layer is replaced by its weighted candidates.

With coefficients ``c`` that sum to one, consumers read candidate ``i`` of ``n`` times ``n c_i``:
the mean of all candidates is the dense network. Each sample's loss is

    l_s(c) = cross_entropy(f(x_s; n c_1, ..., n c_n), y_s)

A trial adds candidate ``i`` with step size ``g``: ``(1 - g) c + g e_i``. A consumer's output is
linear in the coefficients, so that its output in a trial is

    empty + (1 - g) (present - empty) + g n contribution_i

with ``empty`` its output on no candidate, ``present`` on ``c``, and ``contribution_i`` what
candidate ``i`` alone adds. A consumer that reads another consumer's output (the excitation of its
own channels) runs on gated inputs instead. Everything that does not depend on consumers is computed
once per sample; what follows them runs for all trials of a batch side by side.

Rounding depends on the size of a batch and on an element's place in it (the last few of a
vectorised sigmoid). Callers therefore use batches of one size and give each candidate its own
place: a loss then has the same bits whatever is computed beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from gfs_dist.networks.graph.graph_network import GraphNetwork, Step
from gfs_dist.networks.graph.json_values import TRAINING
from gfs_dist.pruning.calibration.consumers import ConsumerCall, find_consumer_calls
from gfs_dist.pruning.calibration.layer_sites import ancestors
from gfs_dist.pruning.calibration.staged_run import (
    Results,
    Stage,
    advance,
    make_stages,
    output_names,
)
from gfs_dist.pruning.structure.structure import Layer

TOLERANCE = 1e-4
"""Outputs of trials may differ by this share of the largest, side by side and alone."""


class Trial(NamedTuple):
    """A candidate, and the step size with which it is added."""

    candidate: int
    step_size: float


@dataclass
class Chunk:
    """Some samples, run as far as the network does not depend on the layer.

    Attributes:
        results: needed by the rest of the network.
        labels: int64 (samples,).
        outputs: ``empty`` and ``present`` of each additive consumer.
    """

    results: Results
    labels: Tensor
    outputs: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class ResultBytes(NamedTuple):
    """Bytes of results per sample, at the worst moment.

    Attributes:
        network: of a pass through the whole network.
        trial: of one trial.
        held: from step to step of a search.
    """

    network: int
    trial: int
    held: int


class LayerReplacement:
    """One layer of a recorded network, whose candidates are weighted where they are read."""

    def __init__(self, network: GraphNetwork, layer: Layer) -> None:
        self.network, self.name, self.num_candidates = network, layer.name, layer.num_candidates
        consumers = find_consumer_calls(network, layer)
        (self._output,) = output_names(network)
        above = ancestors(network)
        calls = {call.step.name for call in consumers}
        self._additive = [c for c in consumers if c.is_additive and not calls & above[c.source]]
        done = {call.step.name for call in self._additive}
        self._gated = {c.step.name: c for c in consumers if c.step.name not in done}
        inner = [
            step
            for step in network.gfs_program
            if step.name in above[self._output] and calls & above[step.name]
        ]
        needed = set().union(*(step.needs for step in inner)) - {TRAINING.name}
        before = frozenset(needed - {step.name for step in inner})
        self._prefix, suffix = make_stages(network, [before, frozenset([self._output])])
        rest = tuple(step for step in suffix.steps if step.name not in done)
        self._rest = Stage(rest, frozenset([self._output]))
        carried = {self._output}.union(*(step.needs for step in rest)) & before
        fixed = {name for name in before if not above[name] & set(network.gfs_inputs)}
        self._carried, self._fixed = carried - fixed, carried & fixed

    @torch.no_grad()
    def enter(self, x: Tensor, labels: Tensor) -> Chunk:
        """Run samples up to the consumers, with no candidate present."""
        (name,) = self.network.gfs_inputs
        chunk = Chunk(advance(self.network, self._prefix, {name: x}), labels)
        empty = self._outputs(chunk, torch.zeros(self.num_candidates, dtype=torch.float64))
        chunk.outputs = [(output, output) for output in empty]
        return chunk

    @torch.no_grad()
    def set_present(self, chunk: Chunk, coefficients: Tensor) -> None:
        """Compute ``present`` of a chunk for ``coefficients``, float64 (n,)."""
        present = self._outputs(chunk, coefficients)
        chunk.outputs = [
            (empty, new) for (empty, _), new in zip(chunk.outputs, present, strict=True)
        ]

    def _outputs(self, chunk: Chunk, coefficients: Tensor) -> list[Tensor]:
        """Outputs of the additive consumers."""
        gates = self.num_candidates * coefficients[None].to(chunk.labels.device)
        return [
            call.module(call.gated(chunk.results[call.source], call.gates(gates)))
            for call in self._additive
        ]

    @torch.no_grad()
    def logits(self, chunk: Chunk, coefficients: Tensor, trials: Sequence[Trial]) -> Tensor:
        """Outputs of the network, trial by trial: (trials * samples, classes)."""
        count, samples = len(trials), len(chunk.labels)
        results = {name: _repeated(chunk.results[name], samples, count) for name in self._carried}
        results |= {name: chunk.results[name] for name in self._fixed}
        for call, outputs in zip(self._additive, chunk.outputs, strict=True):
            source = chunk.results[call.source]
            results[call.step.name] = self._trial_outputs(call, source, outputs, trials)
        steps = torch.tensor([trial.step_size for trial in trials], dtype=torch.float64)
        moved = (1 - steps[:, None]) * coefficients
        moved[range(count), [trial.candidate for trial in trials]] += steps
        factors = (moved * self.num_candidates).to(chunk.labels.device)
        if count > 1:
            factors = factors.repeat_interleave(samples, 0)

        def gate(step: Step, results: Results) -> Results:
            call = self._gated.get(step.name)
            return results if call is None else call.with_gates(results, call.gates(factors))

        return advance(self.network, self._rest, results, gate)[self._output]

    def _trial_outputs(
        self, call: ConsumerCall, x: Tensor, outputs: tuple[Tensor, Tensor], trials: Sequence[Trial]
    ) -> Tensor:
        """``empty + (1 - g) (present - empty) + g n contribution_i``, one trial below the other."""
        empty, present = outputs
        rows = len(present)
        found = present.new_empty(len(trials) * rows, *present.shape[1:])
        for part, (candidate, step_size) in zip(found.split(rows), trials, strict=True):
            torch.lerp(present, empty, step_size, out=part)
            part.add_(call.contribution(x, candidate), alpha=step_size * self.num_candidates)
        return found

    @torch.no_grad()
    def is_separable(self, chunk: Chunk) -> bool:
        """Whether two trials side by side give what each gives alone; then more do too.

        They do not in networks that tell samples apart by more than their place along the first
        axis, or that count samples before the layer and divide by the count after it.
        """
        absent = torch.zeros(self.num_candidates, dtype=torch.float64)
        trials = [Trial(candidate, 1.0) for candidate in (0, self.num_candidates - 1)]
        alone = torch.cat([self.logits(chunk, absent, [trial]) for trial in trials])
        try:
            together = self.logits(chunk, absent, trials)
        except RuntimeError:  # shapes that do not fit, anywhere in the network
            return False
        if alone.shape != together.shape:
            return False
        largest = float(alone.nan_to_num(0.0, 0.0, 0.0).abs().max())
        close = {"rtol": TOLERANCE, "atol": TOLERANCE * largest}
        return torch.allclose(alone, together, **close, equal_nan=True)

    def macs(self, by_module: Mapping[str, int]) -> tuple[int, int]:
        """Multiply-adds per sample: of one trial, and those that all trials of a step share.

        Args:
            by_module: of the network: see :func:`gfs_dist.networks.macs_by_module`.
        """
        additive = sum(by_module.get(call.step.target, 0) for call in self._additive)
        rest = sum(by_module.get(step.target, 0) for step in self._rest.steps)
        return rest + additive // self.num_candidates, 2 * additive

    def bytes_needed(self, x: Tensor) -> ResultBytes:
        """Bytes of results for samples like ``x``. Convolutions may briefly need as much again."""
        (name,) = self.network.gfs_inputs
        sizes = _result_sizes(self.network, x.shape, x.dtype, x.device)
        outputs = sum(sizes[call.step.name] for call in self._additive)
        carried = sum(sizes[result] for result in self._carried)
        read = sum(sizes[name] for name in {call.source for call in self._additive})
        program = Stage(tuple(self.network.gfs_program), frozenset([self._output]))
        network = _most_held(program, sizes, sizes[name])
        trial = _most_held(self._rest, sizes, outputs + carried)
        held = carried + read + 2 * outputs
        return ResultBytes(network // len(x), trial // len(x), held // len(x))


def loss_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """``sum_s l_s`` of each trial: float64 (trials,).

    Args:
        logits: trial by trial, (trials * samples, classes).
        labels: (samples,).
    """
    trials = len(logits) // len(labels)
    losses = functional.cross_entropy(logits.double(), labels.repeat(trials), reduction="none")
    return losses.view(trials, -1).sum(1).cpu()


def _repeated(result: Any, samples: int, count: int) -> Any:
    """A result for ``count`` trials of the same samples."""
    if isinstance(result, Tensor) and result.ndim and len(result) == samples and count > 1:
        return result.repeat(count, *(1,) * (result.ndim - 1))
    if type(result) in (list, tuple):
        return type(result)(_repeated(part, samples, count) for part in result)
    return result


@functools.lru_cache(maxsize=2)
def _result_sizes(
    network: GraphNetwork, shape: torch.Size, dtype: torch.dtype, device: torch.device
) -> dict[str, int]:
    """Bytes of every result for inputs of a shape; computed once for all layers."""
    (name,) = network.gfs_inputs
    steps = tuple(network.gfs_program)
    everything = Stage(steps, frozenset([name, *(step.name for step in steps)]))
    x = torch.zeros(shape, dtype=dtype, device=device)
    results = advance(network, everything, {name: x})
    return {step: _num_bytes(result) for step, result in results.items()}


def _num_bytes(result: Any) -> int:
    if isinstance(result, Tensor):
        return result.numel() * result.element_size()
    return sum(map(_num_bytes, result)) if isinstance(result, list | tuple) else 0


def _most_held(stage: Stage, sizes: Mapping[str, int], start: int) -> int:
    """Bytes held at the worst moment of a stage that begins with ``start``."""
    held = most = start
    for step, freed in stage.schedule:
        held += sizes[step.name]
        most = max(most, held)
        held -= sum(sizes[name] for name in freed if name in sizes)
    return most
