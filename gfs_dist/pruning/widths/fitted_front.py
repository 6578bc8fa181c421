"""The front of a cut network, fitted once for all networks that differ only behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from gfs_dist.networks.graph.json_values import fill
from gfs_dist.networks.measure.inputs import Inputs, real_rows, tensors_of
from gfs_dist.networks.measure.threads import in_threads, one_thread
from gfs_dist.pruning.calibration.moments import Sums, sum_chunks
from gfs_dist.pruning.calibration.staged_run import SMALL, MemoryStore, Results, advance
from gfs_dist.pruning.repair.least_squares import Fit
from gfs_dist.pruning.repair.sweep import NetworkPair, Visit

MOST_COMPARED = 2**22
"""Numbers of an output of some samples that are compared."""


class FittedFront:
    """A cut network with some of its sites fitted, and what it makes of the samples up to there.

    Args:
        pair: the dense network and the cut one, which is fitted in place, front to back.
        inputs: of each batch of samples by name.
        fitted: as many of the batches, the first ones, are what sites are fitted on.

    Attributes:
        pair: the networks.
        place: sites fitted so far; the results are those that the last one of these was fitted on.
    """

    def __init__(self, pair: NetworkPair, inputs: Mapping[int, Results], fitted: int) -> None:
        self.pair, self.place = pair, 0
        self._store, self._batches, self._fitted = MemoryStore(), range(len(inputs)), fitted
        for batch, results in inputs.items():
            self._store.save(SMALL, 0, batch, results)

    def shares(self, pair: NetworkPair, changed: set[str]) -> int:
        """After how many sites this network is still the same as another one.

        Args:
            pair: with the other one.
            changed: modules that are not of the same shape in both.
        """
        for place, (own, other) in enumerate(zip(self.pair.sites, pair.sites, strict=False)):
            steps = self.pair.stages[SMALL][place].steps
            used = {
                part for step in steps for part in (step.target, step.target.rpartition(".")[0])
            }
            if own != other or changed & {own.module, *used}:
                return place
        return min(len(self.pair.sites), len(pair.sites))

    def branch(self, pair: NetworkPair) -> FittedFront:
        """Another network from here on: its front is copied, this one goes on unchanged."""
        other = FittedFront(pair, {}, self._fitted)
        other.place, other._batches = self.place, self._batches
        for batch in self._batches:
            other._store.save(SMALL, self.place, batch, self._store.load(SMALL, self.place, batch))
        for site in self.pair.sites[: self.place]:
            for name in filter(None, (site.module, site.norm)):
                values = self.pair.small.get_submodule(name).state_dict()
                pair.small.get_submodule(name).load_state_dict(values)
        return other

    def advance(self, tick: Callable[[], None]) -> None:
        """Run all samples up to the next site, and fit it."""
        visit = Visit(self.place, False)

        def sums(batch: int) -> Sums:
            return self.pair.sums(visit, batch, self._store)

        def results(batch: int) -> Results:
            return self.pair.results(SMALL, visit, batch, self._store)

        total = sum_chunks(sums, self._batches[: self._fitted], tick)
        deque(in_threads(results, self._batches[self._fitted :]), maxlen=0)
        with one_thread():
            moments = self.pair.moments(self.place, total)
            site, share = self.pair.sites[self.place], self.pair.rule.damping
            Fit(self.pair.small, site, moments, damping=share).solve()
        self._store.drop(SMALL, self.place)
        self.place += 1
        tick()

    def outputs(self) -> list[list[Tensor]]:
        """The network's outputs, without padding, for batches that it was not fitted on."""
        assert self.place == len(self.pair.sites)
        small, last = self.pair.small, self.pair.stages[SMALL][-1]

        def work(batch: int) -> list[Tensor]:
            results = advance(small, last, self._store.load(SMALL, self.place, batch))
            return compared(fill(small.gfs_output, results), results.get(small.gfs_inputs[0]))

        return list(in_threads(work, self._batches[self._fitted :]))


def compared(outputs: Any, x: object) -> list[Tensor]:
    """The outputs that networks are compared by: without padding, and of very many some.

    The logits of a language model at 512 tokens are 25 million numbers; every sixth token will do.

    Args:
        x: what they are the outputs for, where it tells padding.
    """
    parts = [real_rows(part, x) for part in tensors_of(outputs)]
    if not isinstance(x, Inputs):
        return parts
    steps = [max(1, -(-part.numel() // MOST_COMPARED)) for part in parts]
    both = zip(parts, steps, strict=True)
    return [part.flatten(0, -2)[::step] if part.ndim > 1 else part for part, step in both]
