"""Collective operations of a search: a minimum over ranks, and one rank's tensor sent to all.

``gfs_dist.runtime`` implements them by a process group and by the graph of Algorithm 2.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Communicator(Protocol):
    """Collective operations: every rank of the search calls them in the same order."""

    rank: int
    num_ranks: int

    def minimum(self, values: Tensor) -> Tensor:
        """Element-wise minimum over ranks of a 1-d float64 or int64 tensor, without NaN.

        The same bits come back on every rank. The argument may be overwritten.
        """
        ...

    def share(self, tensor: Tensor, owner: int) -> Tensor:
        """The ``tensor`` of rank ``owner``, on every rank.

        Other ranks pass a tensor of the same shape, dtype and device, whose values are ignored
        and may be overwritten.
        """
        ...


class SingleRank:
    """The communicator of a search by one rank."""

    rank = 0
    num_ranks = 1

    def minimum(self, values: Tensor) -> Tensor:
        return values

    def share(self, tensor: Tensor, owner: int) -> Tensor:
        assert owner == 0
        return tensor
