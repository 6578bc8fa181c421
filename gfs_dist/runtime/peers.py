"""What the ranks of a group task say to each other, and the kind for a rank without peers.

No process group is known here, so that code which trains can name these types and run alone; the
ranks of a group get :class:`gfs_dist.runtime.collectives.GroupPeers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Peers(Protocol):
    """Collective operations: every rank calls them in the same order, with tensors of the same
    shapes and dtypes. Tensors are changed in place; gradients are not recorded.
    """

    rank: int
    num_ranks: int

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace floating-point ``tensors`` (gradients) by their means over ranks.

        Sums are formed in the dtype of the tensor, at least float32. The same bits come out on
        every rank, and again whenever as many ranks average the same values.
        """
        ...

    def broadcast(self, tensors: Sequence[Tensor], owner: int = 0) -> None:
        """Replace ``tensors``, of any dtype, by those of rank ``owner``."""
        ...

    def barrier(self) -> None:
        """Go on when all ranks have come here."""
        ...


class NoPeers:
    """The peers of a rank that is alone: nothing to say to anybody."""

    rank = 0
    num_ranks = 1

    def average(self, tensors: Sequence[Tensor]) -> None:
        pass

    def broadcast(self, tensors: Sequence[Tensor], owner: int = 0) -> None:
        assert owner == 0

    def barrier(self) -> None:
        pass
