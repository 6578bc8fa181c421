"""Faults on schedule, for tests: which rank, at which step, which fault.

Given to ``open_runtime(spec, faults=...)``, or to any job by the environment variable
``GFS_FAULTS``: a JSON list such as ``[{"rank": 1, "step": 5, "kind": "kill"}]``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from gfs_dist.errors import InputError

KINDS = ("kill", "stop", "exit", "cut")
COORDINATOR = -1
VARIABLE = "GFS_FAULTS"


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        rank: -1 is the coordinator's own process, killed after ``step`` was reported (in a
            map: after as many items).
        step: 0 is the set-up. In a search: before which pick (counted from 1). In a map: before
            which of the items that the rank is given (counted from 1, over all workers that take
            its place). In a group task: as soon as the rank ticks this step or a later one.
        kind: "kill" (SIGKILL), "stop" (SIGSTOP: a hang), "exit" (the process ends itself), "cut"
            (its connections to other processes end, the process does not).
        generation: in which generation, counted from 0 over the whole life of the runtime. A
            search and a group task begin one at the start and after every fault, a map is one.
    """

    rank: int
    step: int
    kind: str = "kill"
    generation: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"fault: found kind {self.kind!r}, accepted {', '.join(KINDS)}")
        if self.rank < COORDINATOR or self.step < 0 or self.generation < 0:
            raise InputError(f"fault: found {self}, accepted rank -1 or more, step 0 or more")


def from_environment() -> list[Fault]:
    """The faults named by ``GFS_FAULTS``.

    Raises:
        InputError: the variable holds something else.
    """
    text = os.environ.get(VARIABLE) or "[]"
    try:
        return [Fault(**row) for row in json.loads(text)]
    except (json.JSONDecodeError, TypeError) as error:
        raise InputError(
            f"{VARIABLE}: found {text[:80]!r}, accepted a JSON list of faults ({error})"
        ) from error


def strike(kind: str) -> None:
    """Carry out a fault in this process."""
    if kind == "exit":
        os._exit(1)
    if kind == "cut":
        cut_connections()
    else:
        os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)


def cut_connections() -> None:
    """End all TCP connections of this process, as a broken network does once that is noticed."""
    for connection in psutil.Process().net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN:
            with (
                contextlib.suppress(OSError),  # it has ended already
                socket.socket(fileno=os.dup(connection.fd)) as copy,  # its owner closes its own
            ):
                copy.shutdown(socket.SHUT_RDWR)


class FaultInjector:
    """Carries out, in one worker and generation, the faults of its rank.

    Args:
        faults: those of this rank and generation.
        announce: called just before a fault, so that the delay of its detection is known.
    """

    def __init__(self, faults: Sequence[Fault], announce: Callable[[], None]) -> None:
        self._kinds = {fault.step: fault.kind for fault in faults}
        self._announce = announce

    def before(self, step: int) -> None:
        """To be called before step number ``step`` is begun; 0 for the set-up."""
        if kind := self._kinds.pop(step, ""):
            self._announce()
            strike(kind)

    def upon(self, step: int) -> None:
        """To be called when ``step`` is reached, where steps may be left out."""
        for due in sorted(due for due in self._kinds if due <= step):
            self.before(due)
