"""The run folder of a job: opened as its configuration says."""

from __future__ import annotations

from gfs_dist.files import RunFolder
from gfs_dist.jobs import config as schema
from gfs_dist.jobs.compose import to_yaml


def open_folder(config: schema.Pretrain | schema.Finetune | schema.Prune) -> RunFolder:
    """The one to continue, or a new one.

    Raises:
        RunFolderError: it is in use, a new one is not empty, an old one holds no run.
        ConfigError: a URL that cannot be reached, read or written.
    """
    if config.resume is not None:
        return RunFolder.resume(config.resume)
    return RunFolder.create(config.out, to_yaml(config))
