"""What the configuration says of the process and its ranks: threads, device, runtime, data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

import torch

from gfs_dist.config import commands as schema
from gfs_dist.data import DataSpec
from gfs_dist.errors import ConfigError
from gfs_dist.files import RunFolder
from gfs_dist.files.untrusted import load_json
from gfs_dist.runtime import RuntimeSpec
from gfs_dist.selection.partition import KINDS, Partition, make_partition

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Let torch use so many threads inside the block; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def local_device(device: str) -> torch.device:
    """The device of this process for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: ``cuda`` where torch sees no GPU.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: found cuda, accepted here auto, cpu (torch sees no GPU)")
    return torch.device(device)


def own_device(device: str) -> torch.device:
    """A device for what this process does itself.

    Where ranks of other machines have GPUs, this process may have none: then it works without.
    """
    return local_device("cpu" if device == "cpu" else "auto")


def check_device(
    config: schema.Pretrain | schema.Finetune | schema.Prune | schema.Benchmark | schema.Reproduce,
) -> None:
    """Refuse a GPU that this machine has not, where its ranks are; Ray asks those of a cluster.

    Raises:
        ConfigError: names ``device``.
    """
    address = getattr(config.runtime, "address", None) or os.environ.get("RAY_ADDRESS")
    if config.runtime.kind != "ray" or not address:
        local_device(config.device)


def runtime_spec(
    config: schema.Pretrain | schema.Finetune | schema.Prune | schema.Reproduce, folder: RunFolder
) -> RuntimeSpec:
    """The ranks of a job; their logs go into its folder."""
    known = {key: value for key, value in vars(config.runtime).items() if key != "kind"}
    return RuntimeSpec(
        kind=config.runtime.kind,
        workers=config.workers,
        device=config.device,
        threads=config.threads,
        graph=read_graph(config.graph) if isinstance(config, schema.Prune) else None,
        log_folder=str(folder.logs),
        **known,
    )


def given_keys(config: object, spec: type[DataclassInstance]) -> dict[str, Any]:
    """The keys of a configuration that ``spec`` has too and that are not null."""
    names = {field.name for field in fields(spec)}
    return {key: value for key, value in vars(config).items() if value is not None and key in names}


def data_spec(config: schema.Data) -> DataSpec:
    """The dataset that a configuration asks for."""
    given = given_keys(config, DataSpec)
    lists = {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
    return DataSpec(**given | lists)


def read_partition(word: str, num_candidates: int, workers: int) -> Partition:
    """``partition=``: a kind, or a file with the candidates of each rank.

    Raises:
        ConfigError: the file cannot be read, or names another number of candidates.
    """
    if word in KINDS:
        return make_partition(word, num_candidates, workers)
    parts = _read_lists("partition", word, f"{', '.join(KINDS)} or a JSON file of lists")
    partition = Partition(parts)
    if partition.num_candidates != num_candidates:
        raise ConfigError(
            f"partition: {word} names {partition.num_candidates} neurons, accepted {num_candidates}"
        )
    return partition.over(workers)


def read_graph(word: str) -> str | list[tuple[int, int]] | None:
    """``graph=``: a name, the edges in a file, or None for collectives.

    Raises:
        ConfigError: the file cannot be read.
    """
    if not word.endswith(".json"):
        return None if word == "none" else word
    lists = _read_lists("graph", word, "a JSON file of [rank, rank] pairs")
    return cast(list[tuple[int, int]], [tuple(edge) for edge in lists])


def _read_lists(key: str, word: str, accepted: str) -> list[list[int]]:
    try:
        lists = load_json(word)
    except OSError as error:
        raise ConfigError(f"{key}: found {word!r}, accepted {accepted}") from error
    except ValueError as error:
        raise ConfigError(f"{key}: {word} is not JSON ({error}), accepted {accepted}") from error
    fits = isinstance(lists, list) and all(
        isinstance(part, list) and all(type(i) is int for i in part) for part in lists
    )
    if not fits:
        raise ConfigError(f"{key}: {word} holds no lists of whole numbers, accepted {accepted}")
    return lists
