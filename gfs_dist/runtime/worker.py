"""What a worker does when the coordinator asks.

The same class runs in a local worker process and in a Ray actor.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import traceback
from operator import attrgetter
from typing import Any

import torch

from gfs_dist._allocator import keep_freed_memory
from gfs_dist.runtime.desk import Desk
from gfs_dist.runtime.group_rank import GroupRank
from gfs_dist.runtime.map_rank import MapRank
from gfs_dist.runtime.messages import Identity, Reply
from gfs_dist.runtime.search_rank import SearchRank
from gfs_dist.runtime.store import Address

log = logging.getLogger(__name__)


class RankHost:
    """The worker's side of every call. Calls come one at a time.

    Args:
        address: the coordinator's store.
        name: of this worker, never used again for another.
        node: a name of the machine that workers on it share.
    """

    def __init__(self, address: Address, name: str, node: str = "") -> None:
        keep_freed_memory()
        self.node = node or socket.gethostname()
        self.desk = Desk(address, name)
        self.search = SearchRank(self.desk)
        self.map = MapRank(self.desk)
        self.group = GroupRank(self.desk)

    def handle(self, method: str, *arguments: Any) -> Reply:
        """Do one call, such as "map.work"; an error becomes part of the answer, with where it
        came from as note.
        """
        try:
            return Reply(attrgetter(method)(self)(*arguments))
        except Exception as error:
            log.info("%s failed", method, exc_info=True)
            error.add_note(f"in a worker (pid {os.getpid()}):\n{traceback.format_exc()}")
            return Reply(error=_portable(error))
        finally:
            self.desk.pulse.enter("idle", self.desk.pulse.beat.generation)

    def hello(self) -> Identity:
        """Who this worker is."""
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        host = socket.gethostname()
        return Identity(os.getpid(), host, self.node, usable_cores(), gpus, visible)


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _portable(error: Exception) -> Exception:
    """``error`` if it survives the journey, else a RuntimeError with the same text."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - made just now
    except Exception:  # noqa: BLE001 - whatever an error class of a user may do
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
