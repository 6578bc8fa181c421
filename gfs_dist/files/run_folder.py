"""The folder of one run: its paths, its lock, its report and the state of its files."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from gfs_dist.command_words import typed, typed_place
from gfs_dist.errors import RunFolderError
from gfs_dist.files import atomic
from gfs_dist.files.checksums import (
    CONFIG,
    FILES,
    Checksums,
    Damage,
    verify_own_checksum,
    with_own_checksum,
)
from gfs_dist.files.lock import LOCK, FolderLock
from gfs_dist.files.mirror import REPORT, Mirror, empty_copy, fill
from gfs_dist.files.remote import Remote
from gfs_dist.files.untrusted import inside, read_json, refuse_outside_links
from gfs_dist.records import Event, PathFile, Report, read_path
from gfs_dist.urls import below, is_url

MAX_NAME = 200
ReportT = TypeVar("ReportT", bound=Mapping[str, Any])
_NAME = re.compile(rf"[A-Za-z0-9_=][A-Za-z0-9_.=+-]{{0,{MAX_NAME - 1}}}")
_CHECKPOINT = re.compile(r"step_(\d{8,})")


class RunFolder:
    """All paths of a run; writes its report and events, and checks its files.

    Made by :meth:`create` or :meth:`resume` it is locked: no other process can create or resume
    it until :meth:`close`. ``RunFolder(path)`` alone only knows the paths, for readers.
    Subfolders are made when a path in them is first asked for by a locked run folder.

    Both take a URL as well: the folder is then a working copy, kept there by a
    :class:`~gfs_dist.files.mirror.Mirror` and gone after :meth:`close`.

    Attributes:
        path: of the folder, or of the working copy.
        place: as the user named it, a path or a URL.
        config, report: the configuration as composed, and the report of the run, JSON.
        events: a JSON object a line.
    """

    def __init__(
        self, path: Path | str, lock: FolderLock | None = None, url: str | None = None
    ) -> None:
        self.path = Path(path)
        self.place = url or str(path)
        self.config, self.report = self.path / CONFIG, self.path / REPORT
        self.events = self.path / "events.jsonl"
        self._lock = lock
        self._mirror: Mirror | None = None
        self._checksums = Checksums(self.path)
        self._closing = ExitStack()
        if lock is not None:
            self._closing.callback(lock.release)

    @classmethod
    def create(cls, path: Path | str, config_text: str) -> Self:
        """A new run folder that holds ``config.yaml``.

        Raises:
            RunFolderError: exists and is not empty, is no folder, or another run just made it.
            ConfigError: a URL that cannot be reached or written.
            StorageError: cannot be written.
        """
        remote = cls._new_remote(path)
        path = empty_copy(remote) if remote else Path(path)
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"out: {path} exists and is no folder")
        with atomic.storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        cls._refuse_full(path, _names(path))
        folder = cls(path, FolderLock(path), remote.url if remote else None)
        with folder._closed_on_error():
            cls._refuse_full(path, _names(path))
            atomic.write_text(folder.config, config_text)
            folder._mirror_to(remote, filled=False)
        return folder

    @classmethod
    def check_new(cls, path: Path | str) -> None:
        """Refuse what :meth:`create` would, before long work; nothing is left behind.

        Raises:
            RunFolderError: exists and is not empty, is no folder, or cannot be written.
            ConfigError: a URL that cannot be reached.
        """
        if cls._new_remote(path) is None:
            path = Path(path)
            cls.check_writable("out", path)
            if path.exists():
                with atomic.storage_errors(path):
                    names = _names(path)
                cls._refuse_full(path, names)

    @classmethod
    def _new_remote(cls, path: Path | str) -> Remote | None:
        """The folder behind a URL, which has to be empty; None for a path."""
        if not is_url(path):
            return None
        remote = Remote(str(path), "out")
        cls._refuse_full(remote.url, (name.partition("/")[0] for name in remote.files()))
        return remote

    @staticmethod
    def check_writable(key: str, path: Path) -> None:
        """Refuse a folder, named by ``key``, that cannot be written, or made if it is not there.

        Raises:
            RunFolderError: gives the reason.
        """
        try:
            there = next(place for place in (path, *path.parents) if place.exists())
            if not there.is_dir():
                raise RunFolderError(f"{key}: {there} exists and is no folder")
            Path(tempfile.mkdtemp(prefix=atomic.PREFIX, dir=there)).rmdir()
        except OSError as error:
            raise RunFolderError(f"{key}: {path} cannot be written: {error.strerror}") from error

    @classmethod
    def resume(cls, path: Path | str) -> Self:
        """The folder of a run that was interrupted; its half-written files are removed.

        Raises:
            RunFolderError: no run folder, another process works in it, or it holds a link out of
                it, or pipes and the like.
            ConfigError: a URL that cannot be reached, read or written.
        """
        remote = Remote(str(path), "resume") if is_url(path) else None
        if remote is not None:
            path = empty_copy(remote)
            for half in fill(path, remote):
                remote.remove(half)
        path = Path(path)
        refuse_outside_links(path)
        if not (path / CONFIG).is_file():
            place = remote.url if remote else path
            raise RunFolderError(f"resume: {place} is no run folder (it has no {CONFIG})")
        folder = cls(path, FolderLock(path), remote.url if remote else None)
        with folder._closed_on_error():
            folder._mirror_to(remote, filled=True)
            atomic.sweep(path)
            atomic.drop_torn_line(folder.events)
        return folder

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _mirror_to(self, remote: Remote | None, *, filled: bool) -> None:
        if remote is not None:
            self._mirror = self._closing.enter_context(Mirror(self.path, remote, filled=filled))

    def written(self) -> None:
        """Mark everything written so far as consistent: it is copied to the URL, if there is one.

        Raises:
            StorageError: an earlier copy failed.
        """
        if self._mirror is not None:
            self._mirror.wake()

    def close_first(self, writer: AbstractContextManager[Any]) -> None:
        """Exit ``writer``, which writes into this folder, when this folder is closed."""
        self._closing.push(writer)

    def close(self) -> None:
        """Release the lock; of a URL, after everything has been copied there."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.__exit__(kind, error, trace)

    @property
    def plots(self) -> Path:
        return self._folder("plots")

    @property
    def logs(self) -> Path:
        """Folder of the ranks' logs."""
        return self._folder("logs")

    @property
    def trainings(self) -> Path:
        """Folder of the checkpoints of an experiment's networks."""
        return self._folder("trainings")

    def cell(self, name: str) -> Path:
        """File of a computed cell of an experiment's grid."""
        return self._named("cells", name, ".json")

    def path_file(self, name: str) -> Path:
        """File of the greedy path of result ``name`` (``RESULT`` or ``RESULT/LAYER``)."""
        return self._named("paths", name, ".json")

    def sizing(self, name: str) -> Path:
        """File of what trials of widths for result ``name`` found."""
        return self._named("sizing", name, ".json")

    def model(self, name: str) -> Path:
        """Folder of the pruned network of result ``name``."""
        return self._named("models", name)

    def checkpoint(self, iteration: int) -> Path:
        """Folder of the network after ``iteration`` steps of training."""
        return self._named("checkpoints", f"step_{iteration:08d}")

    def checkpoints(self) -> list[tuple[int, Path]]:
        """Iteration and folder of each checkpoint that is there, in order."""
        found = (self.path / "checkpoints").glob("step_*")
        matches = [(_CHECKPOINT.fullmatch(folder.name), folder) for folder in found]
        return sorted((int(match[1]), folder) for match, folder in matches if match)

    def read_report(self) -> Report:
        """Content of ``report.json`` as it was written; empty if there is none.

        :func:`gfs_dist.records.read_report` fills in what an older version did not write.

        Raises:
            CheckpointError: it cannot be read.
            RunFolderError: it was changed after it was written.
        """
        if not os.path.lexists(self.report):
            return cast(Report, {})
        content = read_json(self.report)
        verify_own_checksum(content, self.report)
        return cast(Report, content)

    def write_report(self, content: ReportT) -> ReportT:
        """Write ``report.json`` with the SHA-256 of the files in the folder; returns its content.

        Raises:
            StorageError: cannot be written.
        """
        written = with_own_checksum({**content, FILES: self._checksums.listed()})
        atomic.write_json(self.report, written)
        return cast(ReportT, written)

    def damage(self, part: str = "") -> list[Damage]:
        """Files that differ from ``report.json``, of the file or folder ``part``.

        Raises:
            RunFolderError: as :meth:`read_report`, or a listed file is a link, a pipe or the like.
        """
        return self._checksums.damage(self.read_report().get("files", {}), part)

    def refuse_damage(self, key: str, part: str = "", but: str | None = None) -> None:
        """Refuse a folder whose files differ from ``report.json``.

        Args:
            key: under which a user named the folder, for the message.
            part: check that file or folder only.
            but: name of a result whose network may be damaged.

        Raises:
            RunFolderError: names the first file that is gone or changed.
        """
        for found in self.damage(part):
            if but is None or not found.name.startswith(f"models/{but}/"):
                job, again = self.read_report().get("job"), typed("resume", self.place)
                cure = self.cure(found) or f"make it again: gfs {job} {again}"
                raise RunFolderError(self.damage_text(key, found, cure))

    def damage_text(self, key: str, found: Damage, cure: str) -> str:
        """A message on a damaged file of the folder that a user named under ``key``."""
        return f"{key}: {below(self.place, found.name)} {found.words}; bring it back, or {cure}"

    def cure(self, found: Damage) -> str | None:
        """Advice on a damaged file that resuming the run does not mend; None where it does.

        Resuming makes again neither the inputs of the run nor the results of ``gfs cut``, and
        keeps a path that was changed: it may be the file of another run.
        """
        if found.result is None:
            return "start a new run"
        rows = self.read_report().get("results") or []
        row = next((row for row in rows if row["name"] == found.result), None)
        # Cut from the paths of another result: its path is not the one of its own name.
        paths = (None, f"paths/{found.result}", f"paths/{found.result}.json")
        if row is not None and row.get("path") not in paths:
            again = f"gfs cut {typed_place('path', self.place)} {typed('name', row['name'])}"
            return f"make it again: {again} with its budget, {row['budget']}"
        if found.name.startswith("paths/") and not found.gone:
            return f"remove it and have it searched again: gfs prune {typed('resume', self.place)}"
        return None

    def relative(self, path: Path) -> str:
        """A path in this folder as reports write it."""
        return path.relative_to(self.path).as_posix()

    def inside(self, relative: str) -> Path:
        """The path that a report calls ``relative``.

        Raises:
            RunFolderError: it leads out of the run folder.
        """
        return inside(self.path, relative)

    def read_paths(self, results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, PathFile]]:
        """Greedy paths by name of the result, and of each by layer.

        Raises:
            RunFolderError: a result names a file elsewhere.
            CheckpointError: a path cannot be read.
        """
        by_result = {}
        for row in results:
            if row.get("path"):
                place = self.inside(row["path"])
                files = sorted(place.glob("*.json")) if place.is_dir() else [place]
                whole = [file for file in files if not file.stem.endswith(".partial")]
                stored = [(file.stem, read_path(read_json(file))) for file in whole]
                by_result[row["name"]] = {path.get("layer", stem): path for stem, path in stored}
        return by_result

    def append_event(self, row: Event) -> None:
        atomic.append_line(self.events, atomic.json_text(row))
        self.written()

    def _named(self, kind: str, name: str, suffix: str = "") -> Path:
        parts = name.split("/")
        if not all(_NAME.fullmatch(part) for part in parts):
            raise RunFolderError(
                f"{self.path}: {name!r} cannot name a file; accepted are letters, digits, "
                f"_ . = + -, at most {MAX_NAME}"
            )
        return self._folder("/".join([kind, *parts[:-1]])) / (parts[-1] + suffix)

    def _folder(self, name: str) -> Path:
        folder = self.inside(name)
        if self._lock is not None:
            with atomic.storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
        return folder

    @staticmethod
    def name_of(text: str) -> str:
        """``text`` with the characters replaced that the name of a result cannot hold."""
        return re.sub("^[^A-Za-z0-9_]|[^A-Za-z0-9_.=+-]", "_", text)[:MAX_NAME] or "_"

    @staticmethod
    def _refuse_full(place: Path | str, names: Iterable[str]) -> None:
        ours = (LOCK, atomic.PREFIX)  # leftovers of a run that died at once
        found = sorted(name for name in names if not name.startswith(ours))
        if found:
            raise RunFolderError(
                f"out: {place} exists and is not empty ({found[0]}); choose another, "
                f"or continue it with {typed('resume', str(place))}"
            )


def _names(path: Path) -> list[str]:
    return [item.name for item in path.iterdir()]
