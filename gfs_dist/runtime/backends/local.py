"""Worker processes on this machine, without Ray, forked from one process that has loaded torch.

That process, the server, loads torch while its first worker is waited for; every later worker, and
so every replacement of a lost one, then starts in milliseconds. :mod:`.worker_server` is its side.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any

from gfs_dist.runtime.backends.base import PlacementError, WorkerDiedError, module_path
from gfs_dist.runtime.store import Address

MODULE = "gfs_dist.runtime.backends.worker_server"
READ_AT_LOADING = ("OMP_", "MKL_", "OPENBLAS_", "KMP_", "LD_", "MALLOC_", "PYTHON", "TORCH")
"""Variables that libraries read when they are loaded: other values need another server."""
CLOSE_S = 5.0
Message = tuple[int, Callable[..., Any] | None, tuple[Any, ...]]
"""Number, method and arguments of a call."""
LAST_WORDS_S = 1.0
"""A process that the worker started itself may hold the connection open."""


def module_call(module: str, *words: str) -> dict[str, Any]:
    """``args`` and ``env`` of ``python -m MODULE WORDS``, for :mod:`subprocess`.

    It looks for modules where this process does, not in the current folder (``-P``).
    """
    return {
        "args": [sys.executable, "-P", "-m", module, *words],
        "env": {**os.environ, "PYTHONPATH": os.pathsep.join(module_path())},
    }


@dataclass
class ForkedProcess:
    """A worker process, which is a child of the server.

    Attributes:
        started: its process id, once it runs.
        ended: its exit code, negative for a signal.
    """

    started: Future[int] = field(default_factory=Future)
    ended: Future[int] = field(default_factory=Future)

    def kill(self) -> None:
        """End it now, or as soon as it runs."""
        self.started.add_done_callback(self._kill)

    def wait(self) -> str:
        """How it ended, once it has."""
        try:
            pid, code = self.started.result(), self.ended.result()
        except EOFError:
            return "the process that workers are forked from ended"
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return f"process {pid} ended by {how}"

    def _kill(self, started: Future[int]) -> None:
        if started.exception() is None and not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(started.result(), signal.SIGKILL)


class WorkerServer:
    """One such process. Linux kills it with the thread that started it, which so has to last: it
    goes on to read the server's answers.
    """

    _last: WorkerServer | None = None
    _lock = threading.Lock()

    def __init__(self, loaded_with: object) -> None:
        self.loaded_with, self.runs = loaded_with, True
        self._lock = threading.Lock()
        self._starting: deque[ForkedProcess] = deque()
        self._running: dict[int, ForkedProcess] = {}
        self._owner = os.getpid()
        began: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(began,), daemon=True, name="worker-server"
        )
        self._thread.start()
        began.result()

    @classmethod
    def shared(cls) -> WorkerServer:
        """The server of this process; a new one if what the last has loaded is no longer right.

        Raises:
            OSError: it could not be started.
        """
        variables = {k: v for k, v in os.environ.items() if k.startswith(READ_AT_LOADING)}
        loaded_with = os.getpid(), variables
        with cls._lock:
            last = cls._last
            if last is None or not last.answers() or last.loaded_with != loaded_with:
                if last is not None and not last.is_needed:
                    last.close()
                last = cls._last = cls(loaded_with)
                atexit.register(last.close)
            return last

    @property
    def is_needed(self) -> bool:
        """Whether workers of it run, or are about to."""
        return bool(self._starting or self._running)

    def answers(self) -> bool:
        """Whether workers can be forked from it."""
        return self.runs and self._process.poll() is None

    def fork(self, calls: socket.socket) -> ForkedProcess:
        """Have a worker forked that reads its calls from ``calls``, without waiting for it.

        It gets this process's environment, module path, current folder and standard error.
        """
        process = ForkedProcess()
        with self._lock:
            if not self.runs:
                raise OSError("the process that workers are forked from ended")
            self._starting.append(process)
            self._connection.send((dict(os.environ), module_path(), str(Path.cwd())))
            for descriptor in (calls.fileno(), 2):
                send_handle(self._connection, descriptor, None)
        return process

    def close(self) -> None:
        """End it, and so its workers."""
        if os.getpid() == self._owner:  # not in a fork of this process
            self._process.kill()
            self._thread.join(CLOSE_S)

    def _run(self, began: Future[None]) -> None:
        try:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                self._process = subprocess.Popen(
                    **module_call(MODULE, str(theirs.fileno()), str(os.getpid())),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is the coordinator's to handle
                )
                self._connection: Connection[Any, Any] = Connection(ours.detach())
        except OSError as error:
            began.set_exception(error)
            return
        began.set_result(None)
        with contextlib.suppress(EOFError, OSError):
            while True:
                pid, code = self._connection.recv()
                if code is None:
                    process = self._running[pid] = self._starting.popleft()
                    process.started.set_result(pid)
                else:
                    self._running.pop(pid).ended.set_result(code)
        with self._lock:
            self.runs = False
            self._connection.close()
        self._process.kill()
        self._process.wait()
        for process in self._starting:
            process.started.set_exception(EOFError())
        for process in self._running.values():
            process.ended.set_exception(EOFError())


class LocalWorker:
    """One process; two threads of this one carry calls to it and answers back."""

    def __init__(
        self, name: str, slot: int, process: ForkedProcess, fd: int, address: Address
    ) -> None:
        self.name, self.slot, self.process = name, slot, process
        self._connection = Connection(fd)
        self._lock = threading.Lock()
        self._asked: dict[int, Future[Any]] = {}
        self._count = 0
        self._death = ""
        self._outgoing: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._outgoing.put((0, None, (address, name)))  # the arguments of its WorkHandler
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
    """Starts worker processes; the user's main module is not run again in them."""

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
                worker = LocalWorker(name, slot, process, ours.detach(), address)
        except OSError as error:
            raise PlacementError(f"worker process {slot} could not be started: {error}") from error
        self._workers.append(worker)
        return worker

    def share(self, payload: bytes) -> bytes:
        return payload

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join()
