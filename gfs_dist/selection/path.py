"""The result of a search: picks in order. Nested, so every prefix is an answer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class GreedyPath:
    """Picks in order, with the loss after each; also the only state that recovery needs.

    After pick k the pruned output is ``u_k = (1 - g_k) u_{k-1} + g_k phi_{i_k}`` with step size
    ``g_k`` (1/k under uniform weights, so that ``u_k`` is the mean of the picks).

    Attributes:
        num_candidates: neurons to pick from.
        picks: global indices in order; may repeat.
        loss: ``loss[k - 1]`` is the loss after k picks (mean over samples).
        step_sizes: ``g_k`` of each pick, in [0, 1].
        gap: loss difference to the best candidate outside the tie; None where it is not known.
        stop_reason: which rule ended the search; empty while it runs.
        fit: under least_squares the weights of every prefix: float64 ``[R z]`` (picks, picks + 1),
            ``R`` upper triangular; those of the first ``k`` picks solve ``R_kk c = z_k``. None for
            other losses, and where a caller that has the contributions did not ask for it.
    """

    num_candidates: int
    picks: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    step_sizes: list[float] = field(default_factory=list)
    gap: list[float | None] = field(default_factory=list)
    stop_reason: str = ""
    fit: Tensor | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.picks)

    def append(self, pick: int, loss: float, step_size: float) -> None:
        """Record one pick; its gap follows later, in batches."""
        self.picks.append(pick)
        self.loss.append(loss)
        self.step_sizes.append(step_size)
        self.gap.append(None)

    def prefix(self, k: int) -> GreedyPath:
        """The path after ``k`` picks, as an independent copy."""
        if not 0 <= k <= len(self):
            raise ValueError(f"k: found {k}, accepted 0 to {len(self)}")
        return GreedyPath(
            self.num_candidates,
            self.picks[:k],
            self.loss[:k],
            self.step_sizes[:k],
            self.gap[:k],
            self.stop_reason if k == len(self) else "",
            None if self.fit is None else torch.cat([self.fit[:k, :k], self.fit[:k, -1:]], 1),
        )

    def coefficients(self, k: int | None = None) -> Tensor:
        """Weights of all neurons after ``k`` picks (default: all): float64 (num_candidates,).

        Under uniform weights these are counts / k; in any case they are not negative and sum
        to 1 (k >= 1). Under least_squares they are fitted: any numbers.
        """
        k = len(self) if k is None else k
        if not 0 <= k <= len(self):
            raise ValueError(f"k: found {k}, accepted 0 to {len(self)}")
        weights = torch.zeros(self.num_candidates, dtype=torch.float64)
        if self.fit is not None:
            weights[self.picks[:k]] = _solved(self.fit[:k, :k], self.fit[:k, -1])
            return weights
        if all(g == 1.0 / (j + 1) for j, g in enumerate(self.step_sizes[:k])):
            counts = torch.bincount(
                torch.tensor(self.picks[:k], dtype=torch.int64), minlength=self.num_candidates
            )
            return counts.to(torch.float64) / max(k, 1)
        for pick, step_size in zip(self.picks[:k], self.step_sizes[:k], strict=True):
            weights *= 1.0 - step_size
            weights[pick] += step_size
        return weights

    def support(self, k: int | None = None) -> list[int]:
        """Sorted distinct picks among the first ``k`` (default: all)."""
        return sorted(set(self.picks[: len(self) if k is None else k]))

    @property
    def num_kept(self) -> int:
        """Distinct neurons picked."""
        return len(set(self.picks))

    @property
    def sha256(self) -> str:
        """SHA-256 (lower-case hex) of the picks as decimal numbers joined by commas."""
        return hashlib.sha256(",".join(map(str, self.picks)).encode()).hexdigest()


def _solved(factor: Tensor, target: Tensor) -> Tensor:
    """The shortest least-squares solution, in units of the columns: 0 where a column is."""
    lengths = factor.norm(dim=0)
    units = torch.where(lengths > 0, lengths, 1.0)
    found = torch.linalg.lstsq(factor / units, target.unsqueeze(1), driver="gelsd").solution
    return found[:, 0] / units
