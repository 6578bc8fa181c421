"""A worker process without Ray: ``python -m gfs_dist.runtime.backends.local_worker FD PARENT``.

Reads calls from an inherited socket and answers there. Ends when the other side does: at the end
of the stream, which a thread of its own waits for, and by the kernel's word even if stopped.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve the parent until it is gone."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    connection = Connection(descriptor)
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, calls), daemon=True).start()

    from gfs_dist.runtime.worker import RankHost  # torch: seconds, while calls are received

    host: RankHost | None = None
    while True:
        number, method, arguments = pickle.loads(calls.get())  # noqa: S301 - the parent
        if host is None:
            host = RankHost(*arguments)
            continue
        reply = host.handle(method, *arguments)
        connection.send_bytes(pickle.dumps((number, reply)))


def _receive(connection: Connection[Any, Any], calls: queue.SimpleQueue[bytes]) -> None:
    try:
        while True:
            calls.put(connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process with the thread that started it; elsewhere the end of the
    stream is enough for all but a stopped process.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)


if __name__ == "__main__":
    main()
