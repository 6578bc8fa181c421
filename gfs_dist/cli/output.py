"""Standard output and error that never fail a command: what cannot be written is dropped."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def ready_streams() -> None:
    """Let both streams take any text, whatever they are connected to.

    Characters that their encoding lacks are replaced. A closed stream becomes the null device, and
    so do closed descriptors 0 to 2: the next file or socket would get such a number, and what is
    meant for the stream. Once a write fails (the reader has left, the disk is full) a descriptor
    becomes the null device too: the command goes on, and its exit code stays its own.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    sys.stdout = _ready(sys.stdout, own=sys.stdout is sys.__stdout__)
    sys.stderr = _ready(sys.stderr, own=sys.stderr is sys.__stderr__)


def keep_utf8() -> None:
    """Write a configuration, which is read again, in UTF-8; a terminal shows what it can."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")


def _ready(stream: TextIO | None, *, own: bool) -> TextIO:
    """``stream`` with the above; of one that is not the process's own only the encoding."""
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8", errors="replace")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    if not own:
        stream.reconfigure(errors="replace")
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Sink(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Sink(io.FileIO):
    """A descriptor that becomes the null device once it cannot be written."""

    def write(self, content: ReadableBuffer, /) -> int:
        try:
            while (written := super().write(content)) is None:
                select.select([], [self], [])  # a full pipe that does not block
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if error.errno != errno.EPIPE:  # the reader has left: it wants no more
                line = f"gfs: output cannot be written ({error.strerror}), the rest is dropped"
                print(line, file=sys.stderr)  # noqa: T201 - this is the command line
            return memoryview(content).nbytes
        else:
            return written
