"""A network in which one layer is replaced by its weighted candidates, evaluated many at a time.

With coefficients ``c`` that sum to one, the consumers read candidate ``i`` of ``n`` times
``n c_i``: the mean of all candidates is the dense network. Everything that does not depend on
what the consumers give is computed once per sample. A consumer's output is linear in the
coefficients, so that a trial, ``(1 - g) c + g e_i``, gives

    empty + (1 - g) (present - empty) + g n partial_i

with the output on no candidate, on the present ones, and what candidate ``i`` alone adds.
A consumer that reads what another one gave (the excitation of its own channels) runs on gated
inputs instead. Then the trials of a batch go through the rest of the network side by side.

Rounding depends on the size of a batch, and of its elements on where they lie (the last few of a
vectorised sigmoid): batches have one fixed size here, and the caller gives each candidate a place
of its own. Then a loss has the same bits whatever is computed beside it.
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
from gfs_dist.pruning.calibration.consumers import Reader, find_readers
from gfs_dist.pruning.calibration.layer_sites import ancestors
from gfs_dist.pruning.calibration.staged_run import (
    Results,
    Stage,
    advance,
    make_stages,
    output_names,
)
from gfs_dist.pruning.structure.structure import Layer

SAME = 1e-4
"""Outputs of trials may differ by this share of the largest, side by side and alone."""


class Trial(NamedTuple):
    """A candidate, and the step size with which it is added."""

    candidate: int
    step_size: float


@dataclass
class Chunk:
    """Some samples, as far as the network does not depend on the layer.

    Attributes:
        results: what the rest of the network needs.
        labels: int64 (samples,).
        outputs: of each consumer that splits: on no candidate, and on the present ones.
    """

    results: Results
    labels: Tensor
    outputs: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class Replaced:
    """One layer of a network, whose candidates are weighed where they are read.

    Args:
        network: recorded; on the device where everything is computed.
        layer: one of its layers.
    """

    def __init__(self, network: GraphNetwork, layer: Layer) -> None:
        self.network, self.name, self.num_candidates = network, layer.name, layer.num_candidates
        readers = find_readers(network, layer)
        (self._output,) = output_names(network)
        above = ancestors(network)
        calls = {reader.step.name for reader in readers}
        self._split = [r for r in readers if r.splits and not calls & above[r.source]]
        done = {reader.step.name for reader in self._split}
        self._gated = {r.step.name: r for r in readers if r.step.name not in done}
        inner = [s for s in network.gfs_program if s.name in above[self._output]]
        inner = [step for step in inner if calls & above[step.name]]
        needed = set().union(*(step.needs for step in inner)) - {TRAINING.name}
        before = frozenset(needed - {step.name for step in inner})
        prefix, suffix = make_stages(network, [before, frozenset([self._output])])
        self._prefix = prefix
        rest = tuple(step for step in suffix.steps if step.name not in done)
        self._rest = Stage(rest, frozenset([self._output]))
        carried = {self._output}.union(*(step.needs for step in rest)) & before
        fixed = {name for name in before if not above[name] & set(network.gfs_inputs)}
        self._carried, self._fixed = carried - fixed, carried & fixed

    @torch.no_grad()
    def enter(self, x: Tensor, labels: Tensor) -> Chunk:
        """Run samples up to the consumers; at present these read no candidate."""
        (name,) = self.network.gfs_inputs
        chunk = Chunk(advance(self.network, self._prefix, {name: x}), labels)
        empty = self._read(chunk, torch.zeros(self.num_candidates, dtype=torch.float64))
        chunk.outputs = [(output, output) for output in empty]
        return chunk

    @torch.no_grad()
    def settle(self, chunk: Chunk, coefficients: Tensor) -> None:
        """Make ``coefficients``, float64 (n,), the present ones of a chunk."""
        present = self._read(chunk, coefficients)
        chunk.outputs = [
            (empty, new) for (empty, _), new in zip(chunk.outputs, present, strict=True)
        ]

    def _read(self, chunk: Chunk, coefficients: Tensor) -> list[Tensor]:
        """What each consumer that splits gives."""
        gates = self.num_candidates * coefficients[None].to(chunk.labels.device)
        return [
            reader.module(reader.gated(chunk.results[reader.source], reader.gates(gates)))
            for reader in self._split
        ]

    def loss_sums(self, chunk: Chunk, coefficients: Tensor, trials: Sequence[Trial]) -> Tensor:
        """Cross-entropy of each trial summed over the samples of a chunk: float64 (trials,)."""
        return loss_sums(self.logits(chunk, coefficients, trials), chunk.labels)

    @torch.no_grad()
    def logits(self, chunk: Chunk, coefficients: Tensor, trials: Sequence[Trial]) -> Tensor:
        """Outputs of the network, trial by trial: (trials * samples, classes)."""
        count, samples = len(trials), len(chunk.labels)
        results = {name: _repeated(chunk.results[name], samples, count) for name in self._carried}
        results |= {name: chunk.results[name] for name in self._fixed}
        for reader, outputs in zip(self._split, chunk.outputs, strict=True):
            source = chunk.results[reader.source]
            results[reader.step.name] = self._moved(reader, source, outputs, trials)
        factors = self._factors(coefficients, trials).to(chunk.labels.device)
        if count > 1:
            factors = factors.repeat_interleave(samples, 0)

        def gate(step: Step, results: Results) -> Results:
            if (reader := self._gated.get(step.name)) is None:
                return results
            gated = reader.gated(results[reader.source], reader.gates(factors))
            return {**results, reader.source: gated}

        return advance(self.network, self._rest, results, gate)[self._output]

    def _moved(
        self, reader: Reader, x: Tensor, outputs: tuple[Tensor, Tensor], trials: Sequence[Trial]
    ) -> Tensor:
        """The output of a consumer in each trial, one below the other."""
        empty, present = outputs
        rows = len(present)
        moved = present.new_empty(len(trials) * rows, *present.shape[1:])
        for part, (candidate, step_size) in zip(moved.split(rows), trials, strict=True):
            torch.lerp(present, empty, step_size, out=part)
            alpha = step_size * self.num_candidates
            part.add_(reader.partial(x, candidate), alpha=alpha)
        return moved

    def _factors(self, coefficients: Tensor, trials: Sequence[Trial]) -> Tensor:
        steps = torch.tensor([trial.step_size for trial in trials], dtype=torch.float64)
        factors = (1 - steps[:, None]) * coefficients
        chosen = [trial.candidate for trial in trials]
        factors[range(len(trials)), chosen] += steps
        return factors * self.num_candidates

    @torch.no_grad()
    def separable(self, chunk: Chunk) -> bool:
        """Whether two trials side by side give what each gives alone; then more do too.

        They do not where samples are told apart by more than their place along the first axis, or
        are counted before the layer and divided after it.
        """
        silent = torch.zeros(self.num_candidates, dtype=torch.float64)
        trials = [Trial(candidate, 1.0) for candidate in (0, self.num_candidates - 1)]
        alone = torch.cat([self.logits(chunk, silent, [trial]) for trial in trials])
        try:
            together = self.logits(chunk, silent, trials)
        except RuntimeError:  # shapes that do not fit, wherever the network meets them
            return False
        if alone.shape != together.shape:
            return False
        largest = float(alone.nan_to_num(0.0, 0.0, 0.0).abs().max())
        return torch.allclose(alone, together, rtol=SAME, atol=SAME * largest, equal_nan=True)

    def macs(self, by_module: Mapping[str, int]) -> tuple[int, int]:
        """Multiply-adds per sample: of one trial, and of what all trials of a step share.

        Args:
            by_module: of the network: see :func:`gfs_dist.networks.macs_by_module`.
        """
        split = sum(by_module.get(reader.step.target, 0) for reader in self._split)
        rest = sum(by_module.get(step.target, 0) for step in self._rest.steps)
        return rest + split // self.num_candidates, 2 * split

    def bytes_needed(self, x: Tensor) -> Bytes:
        """What results take per sample. Convolutions may need as much again for a moment.

        Args:
            x: a few samples, which are run.
        """
        (name,) = self.network.gfs_inputs
        sizes = _sizes(self.network, _Like(x))
        program = Stage(tuple(self.network.gfs_program), frozenset([self._output]))
        outputs = sum(sizes[reader.step.name] for reader in self._split)
        carried = sum(sizes[result] for result in self._carried)
        read = sum(sizes[name] for name in {reader.source for reader in self._split})
        network = _most(program, sizes, sizes[name])
        trial = _most(self._rest, sizes, outputs + carried)
        held = carried + read + 2 * outputs
        return Bytes(network // len(x), trial // len(x), held // len(x))


def loss_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over the samples of each trial: float64 (trials,).

    Args:
        logits: trial by trial, (trials * samples, classes).
        labels: (samples,).
    """
    trials = len(logits) // len(labels)
    losses = functional.cross_entropy(logits.double(), labels.repeat(trials), reduction="none")
    return losses.view(trials, -1).sum(1).cpu()


class Bytes(NamedTuple):
    """Bytes that results take at the worst moment, per sample.

    Attributes:
        network: in a pass through the whole network.
        trial: in one trial.
        held: from step to step.
    """

    network: int
    trial: int
    held: int


def _most(stage: Stage, sizes: dict[str, int], start: int) -> int:
    """Bytes held at the worst moment of a stage that starts with ``start``."""
    held = most = start
    for step, freed in stage.schedule:
        held += sizes[step.name]
        most = max(most, held)
        held -= sum(sizes[name] for name in freed if name in sizes)
    return most


class _Like:
    """Samples, of which nothing but the shape matters."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self._key = x.shape, x.dtype, x.device

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Like) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@functools.lru_cache(maxsize=2)
def _sizes(network: GraphNetwork, like: _Like) -> dict[str, int]:
    """Bytes of every result of a network; run once for all of its layers."""
    (name,) = network.gfs_inputs
    everything = frozenset([name, *(step.name for step in network.gfs_program)])
    results = advance(network, Stage(tuple(network.gfs_program), everything), {name: like.x})
    return {step: _bytes(result) for step, result in results.items()}


def _bytes(result: Any) -> int:
    if isinstance(result, Tensor):
        return result.numel() * result.element_size()
    return sum(map(_bytes, result)) if isinstance(result, list | tuple) else 0


def _repeated(result: Any, samples: int, count: int) -> Any:
    """A result for ``count`` trials of the same samples."""
    if isinstance(result, Tensor) and result.ndim and len(result) == samples and count > 1:
        return result.repeat(count, *(1,) * (result.ndim - 1))
    if type(result) in (list, tuple):
        return type(result)(_repeated(part, samples, count) for part in result)
    return result
