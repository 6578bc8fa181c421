"""Processes identified by more than their number, so that no other process is ever ended.

A number is used again once its process is gone. Here a process is its number together with the
moment it began; the processes that it starts inherit a mark in their environment. The moment counts
from boot, as the kernel keeps it: psutil's is a time of day, which moves when the clock is set.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

MARK = "GFS_CLUSTER"
"""The environment variable that every process of one of our clusters inherits."""


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
        """The running process that has the number ``pid`` now; None if there is none."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, *fields = text.rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return None if state in "ZX" else cls(pid, int(fields[18]), boot)

    @property
    def runs(self) -> bool:
        """False also if its number belongs to another process now."""
        return self.of(self.pid) == self


def end(processes: Sequence[Process], number: int, timeout_s: float) -> list[Process]:
    """Send the signal ``number`` to each and wait for all; returns those that still run then."""
    deadline, poll = time.monotonic() + timeout_s, select.poll()
    waiting: dict[int, Process] = {}
    with ExitStack() as descriptors:
        for process in processes:
            with suppress(ProcessLookupError):
                # It stays with the process, whatever becomes of its number.
                descriptor = os.pidfd_open(process.pid)
                descriptors.callback(os.close, descriptor)
                if process.runs:
                    waiting[descriptor] = process
                    poll.register(descriptor, select.POLLIN)
        for descriptor in waiting:
            with suppress(ProcessLookupError):  # it has just ended
                signal.pidfd_send_signal(descriptor, number)
        while waiting and (remaining := deadline - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(1000 * remaining):
                poll.unregister(descriptor)
                del waiting[descriptor]
    return list(waiting.values())


def marked(mark: str) -> list[Process]:
    """The running processes of this user whose environment carries ``mark``."""
    found = []
    for pid in psutil.pids():
        process = Process.of(pid)
        with suppress(psutil.Error):  # gone, or of another user
            if process is not None and psutil.Process(pid).environ().get(MARK) == mark:
                found.append(process)
    return found


def end_marked(mark: str, timeout_s: float = 10.0) -> int:
    """Kill what carries ``mark``, also what starts meanwhile; returns how many there were."""
    ended: set[Process] = set()
    deadline = time.monotonic() + timeout_s
    while (found := marked(mark)) and time.monotonic() < deadline:
        ended.update(found)
        end(found, signal.SIGKILL, 1.0)
    return len(ended)
