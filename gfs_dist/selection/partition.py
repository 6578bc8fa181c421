"""Which rank computes what: its own candidates, and its slice of work that all ranks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gfs_dist.errors import InputError

KINDS = ("contiguous", "strided")


class Partition:
    """Candidates 0..n-1 divided among ranks; a part may be empty.

    Args:
        parts: one sequence of distinct candidate indices a rank; together each of 0..n-1 once.

    Raises:
        InputError: a candidate is missing, repeated or out of range; names the first one.
    """

    def __init__(self, parts: Sequence[Sequence[int] | Tensor]) -> None:
        self.parts = [_indices(part).sort().values for part in parts]
        self.num_ranks, self.num_candidates = len(self.parts), sum(len(p) for p in self.parts)
        self._owner = torch.full((self.num_candidates,), -1, dtype=torch.int64)
        for rank, part in enumerate(self.parts):
            outside = part[(part < 0) | (part >= self.num_candidates)]
            if len(outside):
                raise InputError(
                    f"partition: part {rank} names candidate {int(outside[0])}, accepted each of "
                    f"0 to {self.num_candidates - 1} once"
                )
            repeated = torch.cat([part[self._owner[part] >= 0], part[1:][part.diff() == 0]])
            if len(repeated):
                raise InputError(
                    f"partition: candidate {int(repeated.min())} is named twice, accepted once each"
                )
            self._owner[part] = rank

    @classmethod
    def contiguous(cls, num_candidates: int, num_ranks: int) -> Partition:
        """Equal runs of neighbouring candidates; the first ranks take the remainder."""
        return cls(list(torch.arange(num_candidates).tensor_split(num_ranks)))

    @classmethod
    def strided(cls, num_candidates: int, num_ranks: int) -> Partition:
        """Rank r owns r, r + P, r + 2P, ..."""
        return cls([torch.arange(num_candidates)[rank::num_ranks] for rank in range(num_ranks)])

    def owner(self, candidate: int) -> int:
        return int(self._owner[candidate])

    def share(self, rank: int) -> RankShare:
        return RankShare(self.parts[rank], rank, self.num_ranks)

    def require(self, num_candidates: int) -> None:
        """Refuse a partition of another number of candidates.

        Raises:
            InputError: says both numbers.
        """
        if self.num_candidates != num_candidates:
            raise InputError(
                f"partition: found {self.num_candidates} candidates, accepted {num_candidates}"
            )

    def over(self, num_ranks: int) -> Partition:
        """The partition for another number of ranks: surplus parts are dealt out to the others."""
        if num_ranks >= self.num_ranks:
            empty = [torch.empty(0, dtype=torch.int64)] * (num_ranks - self.num_ranks)
            return Partition([*self.parts, *empty])
        kept = [[p] for p in self.parts[:num_ranks]]
        for n, part in enumerate(self.parts[num_ranks:]):
            for r in range(num_ranks):
                kept[(n + r) % num_ranks].append(part[r::num_ranks])
        return Partition([torch.cat(p) for p in kept])


def _indices(part: Sequence[int] | Tensor) -> Tensor:
    try:
        found = torch.as_tensor(part)
    except (TypeError, ValueError) as error:
        raise InputError(f"partition: found {part!r}, accepted lists of whole numbers") from error
    whole = found.numel() == 0 or not (found.is_floating_point() or found.dtype == torch.bool)
    if found.ndim != 1 or not whole:
        raise InputError(f"partition: found {part!r}, accepted lists of whole numbers")
    return found.to(torch.int64)


def make_partition(kind: str, num_candidates: int, num_ranks: int) -> Partition:
    """A partition by name: one of ``KINDS``."""
    if kind not in KINDS:
        raise InputError(f"partition: found {kind!r}, accepted {', '.join(KINDS)}")
    return getattr(Partition, kind)(num_candidates, num_ranks)


@dataclass(frozen=True, eq=False)
class RankShare:
    """The part of a search that one rank computes.

    An objective divides either the candidates, of which a rank has its :attr:`own`, or the cells
    of a table (such as batches of samples by candidates), of which a rank has a contiguous slice in
    row-major order, as long as every other rank's up to one cell.

    Attributes:
        own: candidates of this rank, sorted int64.
        rank, num_ranks: of the search.
    """

    own: Tensor
    rank: int = 0
    num_ranks: int = 1

    @classmethod
    def whole(cls, num_candidates: int) -> RankShare:
        """The share of a search by one rank."""
        return cls(torch.arange(num_candidates))

    def equals(self, other: RankShare) -> bool:
        """Whether both name the same work."""
        same_rank = (self.rank, self.num_ranks) == (other.rank, other.num_ranks)
        return same_rank and torch.equal(self.own, other.own)

    def cells(self, num_cells: int) -> range:
        """This rank's slice of the cells of a table."""
        first, after = self.rank * num_cells, (self.rank + 1) * num_cells
        return range(first // self.num_ranks, after // self.num_ranks)

    def rows(self, num_rows: int) -> range:
        """Rows of a table in which cells of this rank may lie, for any number of columns."""
        first, after = self.rank * num_rows, (self.rank + 1) * num_rows
        return range(first // self.num_ranks, -(-after // self.num_ranks))
