"""Forks worker processes from one process that has loaded torch: a start takes milliseconds.

``python -m gfs_dist.runtime.backends.worker_server FD PARENT`` is started by
:class:`gfs_dist.runtime.backends.local.WorkerServer` and has one thread, so that forking is safe.
A request over the socket FD brings the new worker's own socket and its standard error; the answers
are ``(pid, None)`` and, for each worker that ends, ``(pid, exit code)``, where the code is negative
for a signal.

A worker reads calls from its socket and answers there. It ends at the end of that stream, which a
thread of its own waits for. The kernel kills workers with this process, and this process with the
thread that started it, even if they are stopped.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import queue
import selectors
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any, NoReturn

from gfs_dist.runtime.worker import WorkHandler

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Fork workers for the coordinator until it is gone."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    coordinator: Connection[Any, Any] = Connection(descriptor)
    gc.collect()
    gc.freeze()  # collections in workers then leave the pages that all share alone
    with selectors.DefaultSelector() as selector:
        selector.register(coordinator, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is coordinator:
                    try:
                        pid = _start_worker(coordinator, selector)
                    except EOFError:
                        return
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                    coordinator.send((pid, None))
                else:
                    selector.unregister(key.fileobj)
                    os.close(key.fd)
                    _, status = os.waitpid(key.data, 0)
                    coordinator.send((key.data, os.waitstatus_to_exitcode(status)))


def _start_worker(coordinator: Connection[Any, Any], selector: selectors.BaseSelector) -> int:
    """Fork one worker, which never returns from here; its process id."""
    surroundings = coordinator.recv()
    calls, errors = recv_handle(coordinator), recv_handle(coordinator)
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        for key in selector.get_map().values():
            os.close(key.fd)
        selector.close()
        _be_worker(server, surroundings, calls, errors)
    os.close(calls)
    os.close(errors)
    return pid


def _be_worker(
    server: int, surroundings: tuple[dict[str, str], list[str], str], calls: int, errors: int
) -> NoReturn:
    """Live as a worker: in its own session, since Ctrl-C is the coordinator's to handle."""
    try:
        os.setsid()
        _die_with(server)
        os.dup2(errors, 2)
        os.close(errors)
        environment, sys.path[:], folder = surroundings
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        _serve(Connection(calls))
    except BaseException:  # noqa: BLE001 - a fork must not go on as its parent would
        traceback.print_exc()
    finally:
        os._exit(1)


def _serve(connection: Connection[Any, Any]) -> NoReturn:
    """Answer calls, the first of which are the arguments of the worker's constructor."""
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, calls), daemon=True).start()
    _, _, arguments = pickle.loads(calls.get())  # noqa: S301 - the coordinator
    handler = WorkHandler(*arguments)
    while True:
        number, method, arguments = pickle.loads(calls.get())  # noqa: S301 - the coordinator
        reply = handler.handle(method, *arguments)
        connection.send_bytes(pickle.dumps((number, reply)))


def _receive(connection: Connection[Any, Any], calls: queue.SimpleQueue[bytes]) -> None:
    try:
        while True:
            calls.put(connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process with the thread that started it."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    main()
