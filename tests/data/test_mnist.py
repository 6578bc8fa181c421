from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
import torch

from gfs_dist import data
from gfs_dist.data import DataSpec
from gfs_dist.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "data"
COUNT = 20
IMAGES = bytes(index % 256 for index in range(COUNT * 784))
LABELS = bytes(index % 10 for index in range(COUNT))


def images(count: int = COUNT, pixels: bytes = IMAGES, magic: int = 2051, side: int = 28) -> bytes:
    return struct.pack(">4I", magic, count, side, side) + pixels


def labels(count: int = COUNT, content: bytes = LABELS, magic: int = 2049) -> bytes:
    return struct.pack(">2I", magic, count) + content


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tiny MNIST: training split plain, test split gzipped."""
    (tmp_path / "train-images-idx3-ubyte").write_bytes(images())
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels())
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images()))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels()))
    return tmp_path


def load(root: Path, samples: int | None = None) -> data.Dataset:
    return data.load(DataSpec("mnist", root=str(root), samples=samples))


def test_plain_and_gzipped_files_are_read(root: Path) -> None:
    found = load(root)
    assert found.x_train.shape == (COUNT, 784)
    assert found.x_train.dtype == torch.float64
    assert torch.equal(found.x_train, found.x_test)
    assert found.x_train[0, :3].tolist() == [0, 1 / 255, 2 / 255]
    assert found.labels_test.tolist() == list(LABELS)
    assert len(load(root, samples=10).x_train) == 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images-idx3", images(magic=2049), "magic 2049, not 2051"),
        ("images-idx3", images(pixels=IMAGES[:-1]), "holds less than the 20 items"),
        ("images-idx3", images(pixels=IMAGES + b"0"), "holds more than the 20 items"),
        ("images-idx3", images(count=2**31), "found counts"),
        ("images-idx3", images(count=0, pixels=b""), "found counts"),
        ("images-idx3", images(count=COUNT * 4, side=14), r"found images of \(14, 14\)"),
        ("images-idx3", images()[:7], "truncated, its header has 7 bytes"),
        ("images-idx3", b"", "truncated, its header has 0 bytes"),
        ("labels-idx1", labels(count=19, content=LABELS[1:]), "found 19 labels for 20 images"),
        ("labels-idx1", labels(content=b"\x0a" * COUNT), "found label 10 at index 0, accepted"),
        ("labels-idx1", labels(content=b"\x07" * COUNT), "all 20 samples are of one class"),
    ],
)
def test_damaged_files_are_refused_by_name(
    root: Path, name: str, content: bytes, message: str
) -> None:
    (root / f"train-{name}-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load(root)
    assert f"train-{name}-ubyte" in str(caught.value) or "one class" in message


@pytest.mark.parametrize("content", [gzip.compress(images())[:-200], b"no gzip"])
def test_a_damaged_gzip_file_is_refused(root: Path, content: bytes) -> None:
    (root / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.gz: cannot be read"):
        load(root)


def test_a_missing_file_is_named(root: Path) -> None:
    (root / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"found no t10k-labels-idx1-ubyte or t10k-labels.*\.gz in"):
        load(root)
    with pytest.raises(DataError, match=r"data.root: data=mnist needs the folder"):
        data.load(DataSpec("mnist"))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not beside this repository")
def test_the_real_files_are_read_and_halved() -> None:
    found = load(REAL, samples=5000)
    assert torch.bincount(found.labels_train).tolist() == [500] * 10
    assert found.x_test.shape == (10_000, 784)
    assert torch.bincount(found.labels_test)[:3].tolist() == [980, 1135, 1032]
    assert float(found.x_test.square().mean()) == pytest.approx(0.114, abs=1e-3)
    with pytest.raises(DataError, match=r"6000 of class 0, found 5923"):
        load(REAL, samples=59_999)
