"""Worker processes on this machine, without Ray."""

from __future__ import annotations

import pickle
import queue
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

from gfs_dist.runtime.backends.base import PlacementError, WorkerDiedError
from gfs_dist.runtime.backends.server_process import ForkedProcess, WorkerServer
from gfs_dist.runtime.store import Address

Message = tuple[int, Callable[..., Any] | None, tuple[Any, ...]]
"""Number, method and arguments of a call."""
LAST_WORDS_S = 1.0
"""A process that the worker started itself may hold the connection open."""


class LocalWorker:
    """One process; two threads of this one carry calls to it and answers back."""

    def __init__(self, name: str, slot: int, process: ForkedProcess, fd: int) -> None:
        self.name, self.slot, self.process = name, slot, process
        self._connection = Connection(fd)
        self._lock = threading.Lock()
        self._asked: dict[int, Future[Any]] = {}
        self._count = 0
        self._death = ""
        self._outgoing: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=target, daemon=True, name=f"{name}-io")
            for target in (self._send, self._receive)
        ]
        for thread in self._threads:
            thread.start()

    def call(self, method: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._death:
                future.set_exception(WorkerDiedError(self._death))
                return future
            self._count += 1
            number = self._count
            self._asked[number] = future
        self._outgoing.put((number, method, arguments))
        return future

    def post(self, *arguments: Any) -> None:
        """Send what is not answered: the arguments of the host's constructor."""
        self._outgoing.put((0, None, arguments))

    def kill(self) -> None:
        self.process.kill()

    def join(self) -> None:
        """Wait for the killed process and for both threads: what still runs when the interpreter
        ends can end it with an error.
        """
        self.process.wait()
        for thread in self._threads:
            thread.join(LAST_WORDS_S)

    def _send(self) -> None:
        while (message := self._outgoing.get()) is not None:
            try:
                self._connection.send_bytes(pickle.dumps(message))
            except OSError:  # the reader tells whoever waits
                return

    def _receive(self) -> None:
        while True:
            try:
                number, reply = pickle.loads(self._connection.recv_bytes())  # noqa: S301 - own child
            except (EOFError, OSError):
                break
            with self._lock:
                future = self._asked.pop(number)
            if reply.error is None:
                future.set_result(reply.value)
            else:
                future.set_exception(reply.error)
        self._bury()

    def _bury(self) -> None:
        self.kill()  # a process that closed its socket is of no use
        death = self.process.wait()
        with self._lock:
            self._death = death
            asked, self._asked = self._asked, {}
        self._outgoing.put(None)
        for future in asked.values():
            future.set_exception(WorkerDiedError(death))
        self._connection.close()


class LocalLauncher:
    """Starts worker processes; the user's main module is not run again in them.

    Args:
        device: passed through.
    """

    host = "127.0.0.1"

    def __init__(self, device: str) -> None:
        self.device = device
        self._workers: list[LocalWorker] = []

    def open(self, num_workers: int) -> int:
        return num_workers

    def start(self, name: str, slot: int, address: Address) -> LocalWorker:
        try:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                process = WorkerServer.shared().fork(theirs)
                worker = LocalWorker(name, slot, process, ours.detach())
        except OSError as error:
            raise PlacementError(f"worker process {slot} could not be started: {error}") from error
        worker.post(address, name)
        self._workers.append(worker)
        return worker

    def share(self, payload: bytes) -> bytes:
        return payload

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join()
