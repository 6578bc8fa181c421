"""What is wrong with the places and words of a job, told before torch and Ray are loaded.

Jobs check the same again once they read and write; who calls them from Python has only that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gfs_dist.config.cluster import SUBMITTED
from gfs_dist.config.groups import value_of
from gfs_dist.config.overrides import nearest
from gfs_dist.config.paths import unseen_inputs
from gfs_dist.config.stored import CONFIG, read_stored
from gfs_dist.errors import ConfigError
from gfs_dist.files import RunFolder
from gfs_dist.files.find import find_checkpoints, find_report
from gfs_dist.urls import check_ray_address, is_url

WRITES_ON = ("cut", "report")
"""Commands that write into the run folder they are given."""

PARTITIONS = ("contiguous", "strided")
GRAPHS = ("none", "line", "ring", "star", "tree", "random:SEED")
"""Words beside files; written out because they are checked before torch loads."""


def check_job(command: str, config: Any) -> None:
    """Refuse a job that would end at once: its inputs, and where it writes.

    Args:
        command: that is about to run, a key of ``COMMANDS``.
        config: its configuration, composed.

    Raises:
        InputError: as :func:`check_inputs`, or its run folder cannot be written or is not empty,
            or nothing answers at ``runtime.address``.
    """
    check_inputs(command, config)
    address = value_of(config, "runtime.address")
    if address is not None:
        check_ray_address(address)
    key = "path" if command in WRITES_ON else "resume"
    place = getattr(config, key, None)
    if place is not None and not is_url(place):
        RunFolder.check_writable(key, Path(place))
    elif place is None and command in SUBMITTED:
        RunFolder.check_new(config.out)


def check_inputs(command: str, config: Any) -> None:
    """Refuse a job whose inputs are not there, or not what it takes.

    Args:
        command, config: as :func:`check_job`.

    Raises:
        InputError: names the key, what was found and what is accepted.
    """
    if getattr(config, "checkpoint", None) is not None:
        find_checkpoints(config.checkpoint)
    if hasattr(config, "path"):
        _check_path(command, Path(config.path))
    if unseen := unseen_inputs(config):
        raise ConfigError(f"{unseen[0]} does not exist")
    if command == "prune":
        _check_word("partition", config.partition, PARTITIONS)
        _check_word("graph", config.graph, GRAPHS)


def _check_path(command: str, path: Path) -> None:
    """What ``gfs COMMAND PATH`` works on."""
    if command == "cut":
        read_stored("prune", str(path), "path")
    elif command == "report":
        find_report(path)
    elif command != "evaluate" or not (path / CONFIG).is_file():
        find_checkpoints(path, "path")


def _check_word(key: str, found: str, accepted: Sequence[str]) -> None:
    """A word, with what may follow a colon, or a file."""
    names = [word.partition(":")[0] for word in accepted]
    if found.partition(":")[0] not in names and not Path(found).is_file():
        raise ConfigError(
            f"{key}: found {found!r}, accepted {', '.join(accepted)} or a JSON file"
            + nearest(found, names)
        )
