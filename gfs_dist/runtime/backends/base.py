"""What the coordinator needs of a kind of worker; processes and Ray actors offer it alike."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gfs_dist.errors import WorkersLostError
from gfs_dist.runtime.store import Address

R = TypeVar("R")


class WorkerDiedError(Exception):
    """The process behind a call is gone; never reaches a user."""


class PlacementError(WorkersLostError):
    """No worker could be started."""


class Worker(Protocol):
    """One worker, from the coordinator's side.

    Attributes:
        name: never used twice in a runtime.
        slot: its place with the launcher; a successor may take it.
    """

    name: str
    slot: int

    def call(self, method: Callable[..., R], *arguments: Any) -> Future[R]:
        """Call a method of :class:`gfs_dist.runtime.worker.WorkHandler`, such as
        ``WorkHandler.prepare``, in the worker. The future raises the error of a user, or
        :class:`WorkerDiedError`.
        """

    def kill(self) -> None:
        """End it now, even if stopped; what it was asked fails with :class:`WorkerDiedError`."""


class Launcher(Protocol):
    """Starts workers.

    Attributes:
        host: an address of this machine which every worker reaches.
        device: what workers are started for, "cpu" or "cuda" or "auto".
    """

    host: str
    device: str

    def open(self, num_workers: int) -> int:
        """Make room for ``num_workers``; the number of slots that there is room for.

        Raises:
            PlacementError: there is room for none.
        """

    def start(self, name: str, slot: int, address: Address) -> Worker:
        """Start a worker and return at once."""

    def share(self, payload: bytes) -> Any:
        """A handle that stands for ``payload`` as an argument of calls to many workers."""

    def close(self) -> None:
        """End all workers and leave nothing behind."""


def module_path() -> list[str]:
    """Where this process looks for modules, which workers do too."""
    return [place or str(Path.cwd()) for place in sys.path]
