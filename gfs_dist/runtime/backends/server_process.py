"""The coordinator's side of the process that local workers are forked from.

It loads torch once, while its first worker is waited for; every later worker, and so every
replacement of a lost one, then starts in milliseconds. :mod:`.worker_server` is the other side.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any

MODULE = "gfs_dist.runtime.backends.worker_server"
READ_AT_LOADING = ("OMP_", "MKL_", "OPENBLAS_", "KMP_", "LD_", "MALLOC_", "PYTHON", "TORCH")
"""Variables that libraries read when they are loaded: other values need another server."""
CLOSE_S = 5.0


def module_call(module: str, *words: str) -> dict[str, Any]:
    """``args`` and ``env`` of ``python -m MODULE WORDS``, for :mod:`subprocess`.

    It looks for modules where this process does, not in the current folder (``-P``).
    """
    return {
        "args": [sys.executable, "-P", "-m", module, *words],
        "env": {**os.environ, "PYTHONPATH": os.pathsep.join(_module_path())},
    }


def _module_path() -> list[str]:
    return [place or str(Path.cwd()) for place in sys.path]


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
            self._connection.send((dict(os.environ), _module_path(), str(Path.cwd())))
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
                self._take(*self._connection.recv())
        with self._lock:
            self.runs = False
            self._connection.close()
        self._process.kill()
        self._process.wait()
        for process in self._starting:
            process.started.set_exception(EOFError())
        for process in self._running.values():
            process.ended.set_exception(EOFError())

    def _take(self, what: str, pid: int, code: int = 0) -> None:
        """Take an answer of the server."""
        if what == "started":
            process = self._running[pid] = self._starting.popleft()
            process.started.set_result(pid)
        else:
            self._running.pop(pid).ended.set_result(code)
