"""Objects that workers need, sent to each of them once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gfs_dist.runtime.backends.base import Launcher, Worker
from gfs_dist.runtime.serialization import pack


class Cargo:
    """The latest problem or task of one kind of work; the same object is not sent again.

    Args:
        launcher: whose workers get it.
        kind: "search", "map" or "group", as :class:`gfs_dist.runtime.worker.RankHost` knows them.

    Attributes:
        number: of the object; workers name it so.
    """

    def __init__(self, launcher: Launcher, kind: str) -> None:
        self.launcher, self.kind = launcher, kind
        self.number = -1
        self._thing: Any = None
        self._payload: Any = None
        self._held: dict[str, int] = {}

    def put(self, thing: Any) -> None:
        """From here on it is about ``thing``."""
        if thing is not self._thing:
            what = "problem" if self.kind == "search" else "task"
            self._payload = self.launcher.share(pack(thing, what))
            self._thing, self.number = thing, self.number + 1

    def to_send(self, worker: Worker) -> Any:
        """What is to be sent along with the next call: None where the object is, or will be by
        then, as calls come in order.
        """
        if self._held.get(worker.name) == self.number:
            return None
        self._held[worker.name] = self.number
        return self._payload

    def forget(self, worker: Worker) -> None:
        """``worker`` failed, perhaps to unpack the object."""
        self._held.pop(worker.name, None)

    def preload(self, spares: Iterable[Worker]) -> None:
        """Let spares have it, so that it is there when they are needed."""
        for spare in spares:
            if (payload := self.to_send(spare)) is not None:
                spare.call(f"{self.kind}.load", self.number, payload)
