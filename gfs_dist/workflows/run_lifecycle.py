"""The run folder of a job: opened as its configuration says, whole, and seen by all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from gfs_dist.config import commands as schema
from gfs_dist.config.compose import to_yaml
from gfs_dist.errors import ConfigError, RunFolderError, StorageError
from gfs_dist.files import RunFolder, atomic
from gfs_dist.files.lock import NAME as LOCK
from gfs_dist.runtime import Runtime
from gfs_dist.runtime.spec import Peers, Tick
from gfs_dist.urls import below, is_url
from gfs_dist.workflows.reporter import Reporter


@contextmanager
def failure_reported(write: Callable[[str, BaseException], object]) -> Iterator[None]:
    """Around the work of a job: ``write(status, error)`` if it fails or is stopped.

    The error is raised again. An error while writing is dropped: a full disk may have ended the
    job, and the job's own error is the one to tell.
    """
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        with suppress(StorageError):
            write("stopped" if stopped else "failed", error)
        raise


def open_folder(
    config: schema.Pretrain | schema.Finetune | schema.Prune, reporter: Reporter
) -> RunFolder:
    """The one to continue, or a new one.

    Of one to continue the results that are damaged are removed, as far as the run makes them
    again.

    Raises:
        RunFolderError: it is in use, a new one is not empty, an old one holds no run, or a file of
            it is not what it was and cannot be made again.
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


def lost_results(folder: RunFolder) -> set[str]:
    """Names of the results of which something is gone, or not what it was.

    Raises:
        RunFolderError, CheckpointError: ``report.json`` cannot be read.
    """
    return {found.result for found in folder.damage() if found.result is not None}


def check_reach(folder: RunFolder, runtime: Runtime) -> None:
    """Refuse ranks that do not see the working copy of a URL, where they would read and write.

    A path is on storage that all machines share, as who named it knows.

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
