"""What coordinator and workers send each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gfs_dist.runtime.fault_injection import Fault
from gfs_dist.runtime.graph import Graph
from gfs_dist.runtime.news import Piece
from gfs_dist.runtime.timing import Timing
from gfs_dist.selection.partition import Partition, RankShare
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop


@dataclass(frozen=True)
class Identity:
    """Who a worker is: its process, its machine, and what that offers.

    ``visible`` names the GPUs that the process may see, "" for all of its machine.
    """

    pid: int
    host: str
    node: str
    cores: int
    gpus: int
    visible: str = ""


@dataclass(frozen=True)
class Post:
    """The place of a worker in one generation.

    Attributes:
        generation: counted over the life of the runtime.
        job: counts searches, maps and group tasks; times are added up within one.
        backend: of the process group.
        log_file: receives what the worker prints.
        faults: to be carried out.
    """

    generation: int
    job: int
    rank: int
    num_ranks: int
    device: str
    threads: int
    backend: str = "gloo"
    log_file: str | None = None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class SearchSetup:
    """What a rank computes in a search that will continue at the end of ``path``."""

    share: RankShare
    path: GreedyPath


@dataclass(frozen=True)
class Order:
    """A search to be joined; the same on every rank."""

    partition: Partition
    stop: Stop
    path: GreedyPath
    graph: Graph | None = None


@dataclass(frozen=True)
class Finished:
    """The work of a generation came to its end.

    Attributes:
        value: the path of a search; what a group task returned, pickled, from rank 0.
        untold: news that were not told yet.
    """

    value: Any
    timing: Timing
    untold: Piece | None = None


@dataclass(frozen=True)
class Interrupted:
    """A collective failed.

    Attributes:
        value: the path as far as this rank knows it; the last step of a group task.
    """

    value: Any
    timing: Timing
    reason: str
    untold: Piece | None = None


@dataclass(frozen=True)
class Done:
    """One item of a map.

    Attributes:
        value: what the task returned, pickled.
        seconds: spent on it.
        pause_s: the longest time between two ticks.
        peak_rss_bytes: of the worker.
    """

    value: bytes
    seconds: float
    pause_s: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class Reply:
    """What a call comes to: a value, or an error of the user."""

    value: Any = None
    error: Exception | None = None
