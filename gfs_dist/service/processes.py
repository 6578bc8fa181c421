"""Processes that are known by more than their number, so that no stranger is ever ended.

A number is used again once its process is gone. Here a process is its number together with the
moment it began; what it started in turn carries a mark in its environment.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MARK = "GFS_CLUSTER"
"""The environment variable that every process of one of our clusters inherits."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Process:
    """One process of this machine.

    Attributes:
        pid: its number.
        began: clock ticks from boot to its start.
        boot: which boot that was.
    """

    pid: int
    began: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The process that has the number ``pid`` now; None if there is none that runs."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, *fields = text.rpartition(")")[2].split()
        return None if state in "ZX" else cls(pid, int(fields[18]), boot_id())

    @property
    def runs(self) -> bool:
        """True while it does; False if its number belongs to another one now."""
        return self.of(self.pid) == self


def boot_id() -> str:
    """Differs after every start of this machine."""
    return _BOOT.read_text(encoding="ascii").strip()


def end(processes: Sequence[Process], number: int, timeout_s: float) -> list[Process]:
    """Send the signal ``number`` to each and wait for all; those that still run then."""
    waiting: dict[int, Process] = {}
    poll = select.poll()
    for process in processes:
        descriptor = _handle(process)
        if descriptor is not None:
            waiting[descriptor] = process
            poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    try:
        for descriptor in waiting:
            _send(descriptor, number)
        left = dict(waiting)
        while left and (remaining := deadline - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(1000 * remaining):
                poll.unregister(descriptor)
                del left[descriptor]
        return list(left.values())
    finally:
        for descriptor in waiting:
            os.close(descriptor)


def marked(mark: str) -> list[Process]:
    """The running processes of this user whose environment carries ``mark``."""
    return [process for process in _own() if _is_marked(process.pid, mark)]


def end_marked(mark: str, timeout_s: float = 10.0) -> int:
    """Kill what still carries ``mark``, also what it starts meanwhile; how many there were."""
    ended: set[Process] = set()
    deadline = time.monotonic() + timeout_s
    while (found := marked(mark)) and time.monotonic() < deadline:
        ended.update(found)
        end(found, signal.SIGKILL, 1.0)
    return len(ended)


def _own() -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := Process.of(int(entry.name))) is not None:
            yield process


def _is_marked(pid: int, mark: str) -> bool:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or somebody else's
        return False
    return f"{MARK}={mark}".encode() in variables


def _handle(process: Process) -> int | None:
    """A descriptor that stays with the process, whatever becomes of its number."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if process.runs:
        return descriptor
    os.close(descriptor)
    return None


def _send(descriptor: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return  # it has just ended
