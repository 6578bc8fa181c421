"""What a caller hands to the runtime: problems, tasks, and where the ranks run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gfs_dist.errors import InputError
from gfs_dist.selection.objective import Objective
from gfs_dist.selection.partition import Partition, RankShare
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop

KINDS = ("ray", "local", "none")
DEVICES = ("auto", "cpu", "cuda")
Edges = str | Sequence[tuple[int, int]]


class Problem(Protocol):
    """A loss and its data, from which every rank builds its objective; travels by pickle."""

    @property
    def num_candidates(self) -> int: ...

    def objective(
        self, share: RankShare, device: torch.device, tick: Callable[[], None]
    ) -> Objective:
        """The objective of one rank, built without exchanges.

        ``tick`` reports that the rank still works; call it from long loops, also later from
        ``scores``.
        """


@dataclass(frozen=True)
class SearchJob:
    """One search.

    Attributes:
        partition: candidates of each rank; None for contiguous parts.
        path: picks already made; the search writes on in it.
    """

    problem: Problem
    stop: Stop
    partition: Partition | None
    path: GreedyPath


class Task(Protocol):
    """Work that consists of items, each to be done by any one worker; travels by pickle."""

    def run(self, item: Any, device: torch.device, tick: Callable[[], None]) -> Any:
        """Do one item and return something small that can be pickled.

        An item whose worker is lost is done again, so doing it twice must be harmless: what is
        large goes to a file that is named after the item and written atomically. ``tick`` says
        "still working"; call it from long loops.
        """


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

    def broadcast(self, tensors: Sequence[Tensor], owner: int = 0) -> None:
        """Replace ``tensors``, of any dtype, by those of rank ``owner``."""

    def barrier(self) -> None:
        """Return when all ranks have called it."""


class NoPeers:
    """The peers of a rank that is the only one: its collective operations do nothing."""

    rank = 0
    num_ranks = 1

    def average(self, tensors: Sequence[Tensor]) -> None:
        pass

    def broadcast(self, tensors: Sequence[Tensor], owner: int = 0) -> None:
        assert owner == 0

    def barrier(self) -> None:
        pass


class Tick(Protocol):
    """Reports the steps of a group task."""

    def __call__(self, step: int, value: Any = None) -> None:
        """Step number ``step`` (from 1) is done; the same number again is a sign of life, which
        long pauses between steps need.

        ``value`` is plain JSON data; rank 0's is passed on to the caller's ``on_progress``. Where
        rank 0 is lost, so may be its reports of the last tenth of a second.
        """


class GroupTask(Protocol):
    """Work that all ranks do at once, talking to each other; travels by pickle."""

    def run(self, peers: Peers, device: torch.device, tick: Tick) -> Any:
        """The share of rank ``peers.rank``; what rank 0 returns goes to the caller.

        After a fault it is called anew, perhaps with fewer ranks, and must resume from its own
        checkpoint. Let errors of ``peers`` through.
        """


@dataclass(frozen=True)
class RuntimeSpec:
    """Where the ranks run and how patient the coordinator is.

    Attributes:
        kind: "ray" (actors), "local" (processes of this machine), "none" (this process).
        workers: ranks.
        device: "auto" takes GPUs if every rank can have its own.
        threads: torch threads a rank; None divides the cores of a machine among its ranks.
        address: an existing Ray cluster; None starts an embedded one.
        spares: idle workers that stand by, so that a lost rank is replaced at once.
        hang_floor_s: without a sign of life for this long (or 20 steps) a rank counts as hung.
        placement_timeout_s: how long to wait for workers before going on with fewer; on a cluster
            that others use longer, as long as its nodes would hold them all.
        graph: None (collectives), a name (line, ring, star, tree, random:SEED) or edges.
        log_folder: where ``rank_N.log`` go; None keeps the runtime's own choice.
    """

    kind: str = "ray"
    workers: int = 2
    device: str = "auto"
    threads: int | None = None
    address: str | None = None
    spares: int = 0
    hang_floor_s: float = 10.0
    placement_timeout_s: float = 60.0
    graph: Edges | None = None
    log_folder: str | None = None

    def __post_init__(self) -> None:
        for name, word, words in (("runtime", self.kind, KINDS), ("device", self.device, DEVICES)):
            if word not in words:
                raise InputError(f"{name}: found {word!r}, accepted {', '.join(words)}")
        for name, least in (("workers", 1), ("spares", 0), ("threads", 1)):
            if (found := getattr(self, name)) is not None and found < least:
                raise InputError(f"{name}: found {found}, accepted {least} or more")
        for name in ("hang_floor_s", "placement_timeout_s"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: found {getattr(self, name)}, accepted above 0")
