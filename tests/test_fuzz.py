"""Damaged files of every kind that is read: refused in one line, or whole; nothing else happens."""

from __future__ import annotations

import gzip
import json
import random
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gfs_dist import data, networks
from gfs_dist.config.compose import compose, compose_stored, to_yaml
from gfs_dist.data import DataSpec
from gfs_dist.errors import GfsError
from gfs_dist.files import RunFolder, checkpoint
from gfs_dist.networks import TwoLayer
from gfs_dist.runtime import resources as memory
from gfs_dist.selection.path import GreedyPath
from gfs_dist.workflows.path_files import PathFiles
from tests.mutations import damaged
from tests.networks import nets

MOST_MEMORY_BYTES = 400 * 2**20
TENSORS = {"hidden.weight": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}
RUNS_SOMETHING = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen")
CHANGES_SOMETHING = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.chmod")


class Witness:
    """Notes what a process does that no reader should; a hook cannot be taken out again."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in RUNS_SOMETHING or event in CHANGES_SOMETHING:
            self.seen.append(f"{event} {arguments}")
        elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            self.seen.append(f"open {arguments}")

    @contextmanager
    def watching(self, folder: Path) -> Iterator[None]:
        self.folder, self.seen = folder, []
        try:
            yield
        finally:
            self.folder = None


WITNESS = Witness()
sys.addaudithook(WITNESS)


def write_checkpoint(folder: Path) -> None:
    checkpoint.save(folder / "c", TENSORS, {"iteration": 7}, {"velocity": torch.zeros(3)})


def write_pickle(folder: Path) -> None:
    torch.save(TENSORS, folder / "w.pt")


def write_old_pickle(folder: Path) -> None:
    torch.save(TENSORS, folder / "w.pt", _use_new_zipfile_serialization=False)


def write_graph(folder: Path) -> None:
    networks.save(folder / "m", nets.Shared(), example=torch.randn(2, 12))


def write_two_layer(folder: Path) -> None:
    networks.save(folder / "m", TwoLayer(4, 3))


def write_of_catalog(folder: Path) -> None:
    network = networks.make("resnet20_cifar", 4, 3)
    facts = {"format": 1, "model": "resnet20_cifar", "num_classes": 4, "in_channels": 3}
    facts["removals"] = {"sizes": {"linear": {"in_features": 64}}, "shapes": {"linear.bias": [4]}}
    (folder / "architecture.json").write_text(json.dumps(facts))
    checkpoint.write_tensors(folder / "model.safetensors", network.state_dict())


def picks(folder: Path) -> PathFiles:
    facts: dict[str, Any] = {"objective": "squared", "inputs": {"data": "ab"}}
    return PathFiles(RunFolder(folder), "step_1", facts)


def write_picks(folder: Path) -> None:
    path = GreedyPath(5)
    for pick, loss in ((3, 0.5), (1, 0.25), (3, 0.2)):
        path.append(pick, loss, 1.0 / (len(path) + 1))
    (folder / "paths").mkdir()
    picks(folder).write(path)


def write_run(folder: Path) -> None:
    (folder / "config.yaml").write_text(to_yaml(compose("prune", ["steps=3"])))


def write_npz(folder: Path) -> None:
    x, y = np.arange(12 * 8, dtype=np.uint8).reshape(12, 2, 2, 2), np.arange(12) % 3
    np.savez(folder / "d.npz", x_train=x, y_train=y, x_test=x / 255, y_test=y)


def write_idx(folder: Path) -> None:
    for name in ("train", "t10k"):
        images = struct.pack(">4I", 2051, 4, 28, 28) + bytes(range(256)) * 12 + bytes(64)
        labels = struct.pack(">2I", 2049, 4) + bytes([1, 2, 3, 9])
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels)


def write_bins(folder: Path) -> None:
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        (folder / f"{name}.bin").write_bytes(b"".join(bytes([n]) + bytes(3072) for n in (1, 2)))


def write_strips(folder: Path) -> None:
    Image.new("RGB", (64, 32), (9, 8, 7)).save(folder / "strip.webp", lossless=True)
    np.save(folder / "labels.npy", np.array([1, 2], np.uint8))
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.write(folder / "strip.webp", "00.webp")
            archive.write(folder / "labels.npy", "labels.npy")
    for name in ("strip.webp", "labels.npy"):
        (folder / name).unlink()


def write_images(folder: Path) -> None:
    for split in ("train", "val"):
        for name, end in (("a", "png"), ("b", "jpg")):
            (folder / split / name).mkdir(parents=True)
            Image.new("RGB", (9, 8), (1, 2, 3)).save(folder / split / name / f"0.{end}")


def reads_data(name: str, **keys: Any) -> Callable[[Path], Any]:
    return lambda folder: data.load_images(DataSpec(name, root=str(folder), **keys))


Reader = tuple[Callable[[Path], None], Callable[[Path], Any]]
READERS: dict[str, Reader] = {
    "checkpoint": (write_checkpoint, lambda folder: checkpoint.load(folder / "c")),
    "pickle": (write_pickle, lambda folder: checkpoint.load(folder / "w.pt")),
    "old pickle": (write_old_pickle, lambda folder: checkpoint.load(folder / "w.pt")),
    "graph": (write_graph, lambda folder: networks.load(folder / "m")),
    "two layers": (write_two_layer, lambda folder: networks.load(folder / "m")),
    "catalog": (write_of_catalog, networks.load),
    "path": (write_picks, lambda folder: picks(folder).read(5)),
    "resumed": (write_run, lambda folder: compose("prune", [f"resume={folder}"])),
    "cut": (write_run, lambda folder: compose_stored("prune", str(folder))),
    "npz": (write_npz, lambda f: data.load_images(DataSpec("npz", path=str(f / "d.npz")))),
    "mnist": (write_idx, reads_data("mnist")),
    "cifar10 bin": (write_bins, reads_data("cifar10")),
    "cifar10 zip": (write_strips, reads_data("cifar10")),
    "imagefolder": (write_images, reads_data("imagefolder", size=4)),
}


@pytest.mark.parametrize("name", ["checkpoint", "graph", "cut", "npz"])
def test_damage_is_refused_or_harmless(tmp_path: Path, name: str) -> None:
    damage_and_read(tmp_path, name, rounds=20)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_much_damage_is_refused_or_harmless(tmp_path: Path, name: str) -> None:
    damage_and_read(tmp_path, name, rounds=200)


def damage_and_read(folder: Path, name: str, rounds: int) -> None:
    write, read = READERS[name]
    write(folder)
    read(folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    whole = {file: file.read_bytes() for file in files}
    chance, said, before = random.Random(name), list[str](), memory.forget_peak()
    for done in range(rounds):
        file = chance.choice(files)
        content = damaged(whole[file], chance)
        file.write_bytes(content)
        with WITNESS.watching(folder):
            try:
                read(folder)
            except GfsError as error:
                said.append(str(error))
            except BaseException as error:
                raise AssertionError(f"{file.name} in round {done}: {content[:2000]!r}") from error
        assert WITNESS.seen == []
        file.write_bytes(whole[file])
    assert said
    assert all(words.strip() for words in said)
    assert memory.peak_bytes() - before < MOST_MEMORY_BYTES
    read(folder)
