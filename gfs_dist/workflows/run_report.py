"""The run folder of a job: opened as its configuration says, its report, how the job ended."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from gfs_dist import report as pages
from gfs_dist.config import commands as schema
from gfs_dist.config.compose import to_yaml
from gfs_dist.errors import ConfigError, RunFolderError, StorageError
from gfs_dist.files import RunFolder, atomic
from gfs_dist.files.lock import LOCK
from gfs_dist.records import FORMAT, Measured, Report, ResultRow, Status, Timing
from gfs_dist.runtime import Peers, Runtime, Tick
from gfs_dist.training import loss_rise_warning
from gfs_dist.urls import below, is_url
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_events import RunEvents


def open_folder(
    config: schema.Pretrain | schema.Finetune | schema.Prune | schema.Advise | schema.Reproduce,
    reporter: Reporter,
) -> RunFolder:
    """The run folder to continue (``resume``), or a new one (``out``).

    Damaged results of one to continue are removed, as far as the run makes them again.

    Raises:
        RunFolderError: it is in use, a new one is not empty, an old one holds no run, or a file of
            it has changed and cannot be made again.
        ConfigError: a URL that cannot be reached, read or written.
    """
    if config.resume is None:
        return RunFolder.create(config.out, to_yaml(config))
    folder = RunFolder.resume(config.resume)
    try:
        damage = folder.damage()
        for found in damage:
            if cure := folder.cure(found):
                raise RunFolderError(folder.damage_text("resume", found, cure))
        for found in damage:
            place = below(folder.place, found.name)
            reporter.note(f"{place} {found.words}: it is made again")
            if found.name.startswith(("models/", "finetune/")):
                with atomic.storage_errors(folder.path):
                    atomic.remove(folder.path.joinpath(*Path(found.name).parts[:2]))
    except BaseException:
        folder.close()
        raise
    return folder


class RunReport:
    """``report.json`` of a run, and the pages beside it.

    Args:
        folder: of the run.
        job: the command.
        continued: results and faults of earlier runs in this folder stay. A result of which a file
            is gone or changed is none.
        timed: report the times of ``events``; else those of the run before stay.

    Attributes:
        events: of the run's ranks; give the timing and the faults.
        content: what ``report.json`` holds.
        notes: sentences for the summary.
        tables: rows by title, shown after the results.
        more: further keys of ``report.json``.
        timing: seconds that ``events`` do not have.
        dense: of a run whose results do not name their dense network.
        losses: of the checkpoints of a training that ends with them, by iteration.
        lr: step size of that training.
    """

    def __init__(
        self,
        folder: RunFolder,
        job: str,
        reporter: Reporter,
        *,
        continued: bool = False,
        timed: bool = True,
    ) -> None:
        self.folder, self.job, self.events = folder, job, RunEvents(folder, reporter)
        self.content: Report
        self.notes: list[str] = []
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.more: dict[str, Any] = {}
        self.timing: Timing = {}
        self.dense: Measured | None = None
        self.losses: dict[int, float] = {}
        self.lr = math.nan
        self._timed = timed
        self._began = time.perf_counter()
        self._before = folder.read_report() if continued else cast(Report, {})
        self._lost = lost_results(folder) if continued else set()
        self._rows: list[ResultRow] = [*(self._before.get("results") or [])]

    @property
    def status(self) -> Status:
        """How the run before ended in this folder."""
        return self._before.get("status", "finished")

    @property
    def rows(self) -> list[ResultRow]:
        """The results that are whole."""
        return [row for row in self._rows if row["name"] not in self._lost]

    def row(self, name: str) -> ResultRow | None:
        return next((row for row in self.rows if row["name"] == name), None)

    def put(self, row: ResultRow) -> None:
        """Add a result, or write another row in its place."""
        names = [known["name"] for known in self._rows]
        if row["name"] in names:
            self._rows[names.index(row["name"])] = row
        else:
            self._rows.append(row)
        self._lost.discard(row["name"])

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        with failure_reported(self.write):
            yield
        self.write("finished")

    def write(self, status: Status, error: BaseException | None = None) -> None:
        """Write ``report.json`` and, once there are results, the pages and plots."""
        rows, before = self.rows, self._before
        timing = self.events.timing() if self._timed else before.get("timing") or {}
        faults = self.events.faults if self._timed else []
        said = loss_rise_warning(self.losses, self.lr)
        chosen = [f"{row['name']}: {row['sizing']['reason']}" for row in rows if "sizing" in row]
        content: Report = {
            "format": FORMAT,
            "job": self.job,
            "status": status,
            "dense": next((row["dense"] for row in reversed(rows) if row.get("dense")), self.dense),
            "results": rows,
            "timing": {
                "total_s": time.perf_counter() - self._began,
                **timing,
                **self.timing,
            },
            "faults": [*(before.get("faults") or []), *faults],
            "notes": [*self.notes, *([said] if said else []), *chosen],
            "machine": pages.machine(),
            "versions": pages.versions(),
        }
        content |= cast(Report, {**self.more, **({"tables": self.tables} if self.tables else {})})
        if error is not None:
            content["error"] = str(error) or type(error).__name__
        self.content = self.folder.write_report(content)
        if rows:
            pages.write(self.folder.path, self.content, self.folder.read_paths(rows))
        self.folder.written()


@contextlib.contextmanager
def failure_reported(write: Callable[[Status, BaseException], object]) -> Iterator[None]:
    """Write the report of a job that fails or is stopped: calls ``write(status, error)``.

    The error is raised again. An error while writing is dropped: a full disk may have ended the
    job, and the job's own error is the one to tell.
    """
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        with contextlib.suppress(StorageError):
            write("stopped" if stopped else "failed", error)
        raise


def lost_results(folder: RunFolder) -> set[str]:
    """Names of the results of which a file is gone or changed.

    Raises:
        RunFolderError, CheckpointError: ``report.json`` cannot be read.
    """
    return {found.result for found in folder.damage() if found.result is not None}


def check_reach(folder: RunFolder, runtime: Runtime) -> None:
    """Refuse ranks that do not see the working copy of a URL, where they would read and write.

    A path is on storage that all machines share, as its user knows.

    Raises:
        ConfigError: some do not; says what can be done.
    """
    if not is_url(folder.place):
        return
    lock = folder.path / LOCK
    if not runtime.run_group(_Sees(str(lock), lock.read_text())).value:
        raise ConfigError(
            f"out: found {folder.place} with ranks that do not see {folder.path}, where a deep "
            "network's run works; accepted are ranks on the machine of the driver, a path that "
            "all machines see, or XDG_STATE_HOME set to one"
        )


@dataclass(frozen=True)
class _Sees:
    """Whether every rank reads ``text`` in ``file``: another machine may have one of that name."""

    file: str
    text: str

    def run(self, peers: Peers, device: torch.device, tick: Tick) -> bool:
        file = Path(self.file)
        seen = file.is_file() and file.read_text() == self.text
        share = torch.tensor(float(seen), device=device)
        peers.average([share])
        return float(share) == 1.0
