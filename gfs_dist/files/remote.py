"""A folder behind a URL of fsspec: ``s3://``, ``gs://``, ``file://`` and others installed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TypeVar

from gfs_dist.errors import ConfigError, GfsError, StorageError, first_line
from gfs_dist.files import atomic
from gfs_dist.files.untrusted import refuse_outside_links
from gfs_dist.urls import check_url

ANSWER_S = 6.0
"""For the first answer; libraries of storage wait for minutes."""

Answer = TypeVar("Answer")


def within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """What ``ask()`` returns or raises; its thread is abandoned if it takes longer.

    Raises:
        TimeoutError: no answer within ``seconds``.
    """
    answer: Future[Answer] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError as error:
        if answer.done():
            raise
        raise TimeoutError(f"no answer within {seconds:g} s") from error


class Remote:
    """Files behind ``url``, by names relative to it.

    A file appears whole or not at all: object stores work that way, on disks it is renamed. (For
    ftp, sftp and the like this is not known.) There are no locks.

    Args:
        url: of a folder; it does not have to exist.
        key: under which the user named it, for messages.

    Raises:
        ConfigError: as :func:`gfs_dist.urls.check_url`, or its storage cannot be reached.
    """

    def __init__(self, url: str, key: str) -> None:
        check_url(key, url)
        # Importing it takes a tenth of a second, which a run in a path does not need.
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self.url, self.key = url.rstrip("/"), key
        with self.errors_as(ConfigError, "reached"):
            self._system, root = within(ANSWER_S, lambda: url_to_fs(url))
        self._root = root.rstrip("/")
        self._is_disk = isinstance(self._system, LocalFileSystem)
        self._made: set[str] = set()
        self._answered = self._is_disk

    @property
    def place(self) -> str:
        """The URL in its normal form."""
        return str(self._system.unstrip_protocol(self._root))

    def files(self) -> list[str]:
        """Names of all files, including half-written ones of dead writers.

        Raises:
            ConfigError: it cannot be read, does not answer, or a name leads out of it.
            RunFolderError: on a disk, so does a link, or there are pipes and the like.
        """
        if self._is_disk:
            refuse_outside_links(Path(self._root))
        if not self._answered:  # an address may accept connections and never answer
            with self.errors_as(ConfigError, "reached"):
                within(ANSWER_S, lambda: self._system.exists(self._root))
            self._answered = True
        with self.errors_as(ConfigError, "read"):
            self._system.invalidate_cache()
            try:  # find() would return nothing for a folder it cannot read
                walk = list(self._system.walk(self._root, on_error="raise"))
            except FileNotFoundError:
                return []
        paths = [f"{folder}/{name}" for folder, _, files in walk for name in files]
        names = [path[len(self._root) :].strip("/") for path in paths]
        if outside := [name for name in names if ".." in PurePosixPath(name).parts]:
            raise ConfigError(f"{self.key}: {self.url} holds {outside[0]!r}, which leads out of it")
        return sorted(name for name in names if name)

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            ConfigError: it cannot be read.
        """
        with self.errors_as(ConfigError, "read"):
            return bytes(self._system.cat_file(self._at(name)))

    def get(self, name: str, file: Path) -> None:
        """Copy a file here; its folder is there.

        Raises:
            ConfigError: it cannot be read.
        """
        with self.errors_as(ConfigError, "read"):
            self._system.get_file(self._at(name), str(file))

    def put(self, name: str, file: Path) -> None:
        """Copy a file there.

        Raises:
            StorageError: it cannot be written; a file that was there is as before.
        """
        with self.errors_as(StorageError, "written"):
            if self._is_disk:
                atomic.copy(file, self._ready(name))
            else:
                self._system.put_file(str(file), self._ready(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a file.

        Raises:
            StorageError: as :meth:`put`.
        """
        with self.errors_as(StorageError, "written"):
            if self._is_disk:
                atomic.write_bytes(self._ready(name), content)
            else:
                self._system.pipe_file(self._ready(name), content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            StorageError: it cannot be removed.
        """
        with self.errors_as(StorageError, "written"), suppress(FileNotFoundError):
            self._system.rm_file(self._at(name))

    @contextmanager
    def errors_as(self, kind: type[GfsError], what: str) -> Iterator[None]:
        """Turn any error of a storage library into one that names the URL."""
        try:
            yield
        except Exception as error:
            message = f"{self.key}: {self.url} cannot be {what}: {first_line(error)}"
            raise kind(message) from error

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _ready(self, name: str) -> str:
        """Remote path of a file, after making its folder."""
        target = self._at(name)
        parent = target.rpartition("/")[0]
        if parent not in self._made:
            self._system.makedirs(parent, exist_ok=True)
            self._made.add(parent)
        return target
