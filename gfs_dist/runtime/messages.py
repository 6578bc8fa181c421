"""Messages between the coordinator and workers, and how objects travel in them.

Nothing of this is ever written to a file.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import cloudpickle

from gfs_dist.errors import InputError
from gfs_dist.records import RankTiming
from gfs_dist.runtime.fault_injection import Fault
from gfs_dist.runtime.graph import Graph
from gfs_dist.runtime.heartbeat import FeedEntry
from gfs_dist.selection.partition import Partition, RankShare
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop


@dataclass(frozen=True)
class Identity:
    """The process of a worker, its machine, and what that offers.

    ``visible`` names the GPUs that the process may see, "" for all of its machine.
    """

    pid: int
    host: str
    node: str
    cores: int
    gpus: int
    visible: str = ""


@dataclass(frozen=True)
class RankAssignment:
    """What a worker is in one generation.

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
    """A search as one rank joins it, at the end of ``path``."""

    share: RankShare
    partition: Partition
    stop: Stop
    path: GreedyPath
    graph: Graph | None = None


@dataclass(frozen=True)
class GroupEnd:
    """How the work of a rank in a generation ended.

    Attributes:
        value: the path of a search as far as this rank knows it; what a group task returned on
            rank 0, pickled.
        step: the last that the rank made.
        timing: of the job so far.
        unsent: the end of the progress feed.
        interruption: why a collective failed; None if the work is finished.
    """

    value: Any
    step: int
    timing: RankTiming
    unsent: list[FeedEntry]
    interruption: str | None = None


@dataclass(frozen=True)
class ItemDone:
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
    """The answer to a call: a value, or an error of the user."""

    value: Any = None
    error: Exception | None = None


def pack(thing: Any, what: str) -> bytes:
    """``thing`` as bytes for :func:`unpack`.

    Classes and functions that a worker could not import - those of the user's main module, which
    workers never run, and those made inside functions - travel by value.

    Raises:
        InputError: it cannot be sent; ``what`` names it in the message.
    """
    try:
        packed = pickle.dumps(thing)
        if b"__main__" not in packed:
            return packed
    except Exception:  # noqa: BLE001, S110 - whatever the methods of a user's class may raise
        pass
    try:
        by_value: bytes = cloudpickle.dumps(thing)
    except Exception as error:
        raise InputError(
            f"{what}: found {type(thing).__name__}, accepted what can be pickled to be sent "
            f"between processes ({type(error).__name__}: {error})"
        ) from error
    return by_value


def unpack(packed: bytes) -> Any:
    """What was packed."""
    return pickle.loads(packed)  # noqa: S301 - made by a process of this run
