"""The run folder of a job: opened as its configuration says, and whether all ranks see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from gfs_dist.errors import ConfigError
from gfs_dist.files import RunFolder
from gfs_dist.files.lock import NAME as LOCK
from gfs_dist.jobs import config as schema
from gfs_dist.jobs.compose import to_yaml
from gfs_dist.runtime import Runtime
from gfs_dist.runtime.peers import Peers
from gfs_dist.runtime.spec import Tick
from gfs_dist.urls import is_url


def open_folder(config: schema.Pretrain | schema.Finetune | schema.Prune) -> RunFolder:
    """The one to continue, or a new one.

    Raises:
        RunFolderError: it is in use, a new one is not empty, an old one holds no run.
        ConfigError: a URL that cannot be reached, read or written.
    """
    if config.resume is not None:
        return RunFolder.resume(config.resume)
    return RunFolder.create(config.out, to_yaml(config))


def check_reach(folder: RunFolder, runtime: Runtime) -> None:
    """Refuse ranks that do not see the working copy of a URL, where they would read and write.

    A path is on storage that all machines share, as who named it knows.

    Raises:
        ConfigError: some do not; says what can be done.
    """
    if not is_url(folder.place):
        return
    lock = folder.path / LOCK
    if not runtime.together(_Sees(str(lock), lock.read_text())).value:
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
