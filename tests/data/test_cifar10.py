from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gfs_dist import data
from gfs_dist.data import DataSpec, Images, reading
from gfs_dist.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "data"
NAMES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
COUNT = 12


def pixels(batch: int) -> np.ndarray:
    """uint8 (COUNT, 3, 32, 32), other ones in each batch."""
    rng = np.random.default_rng(batch)
    return rng.integers(0, 256, (COUNT, 3, 32, 32), dtype=np.uint8)


def labels(batch: int) -> np.ndarray:
    return (np.arange(COUNT, dtype=np.uint8) + batch) % 10


def bin_file(batch: int) -> bytes:
    rows = np.concatenate([labels(batch)[:, None], pixels(batch).reshape(COUNT, -1)], axis=1)
    return rows.tobytes()


def strip(images: np.ndarray) -> bytes:
    """Images (m, 3, 32, 32) side by side as lossless WebP."""
    picture = images.transpose(2, 0, 3, 1).reshape(images.shape[2], -1, 3)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", lossless=True)
    return file.getvalue()


def zip_file(parts: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype.kind == "O")
    return file.getvalue()


def parts(batch: int) -> dict[str, bytes]:
    """What is in the zip of one batch: two strips, not written in their order."""
    x = pixels(batch)
    return {"01.webp": strip(x[8:]), "labels.npy": npy(labels(batch)), "00.webp": strip(x[:8])}


@pytest.fixture(params=[".bin", ".zip"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny CIFAR-10 of either kind."""
    for batch, name in enumerate(NAMES):
        content = bin_file(batch) if request.param == ".bin" else zip_file(parts(batch))
        (tmp_path / (name + request.param)).write_bytes(content)
    return tmp_path


def load(root: Path, samples: int | None = None) -> Images:
    return data.load_images(DataSpec("cifar10", root=str(root), samples=samples))


def test_batches_of_both_kinds_are_read_in_order(root: Path) -> None:
    found = load(root)
    expected = np.concatenate([pixels(batch) for batch in range(5)])
    assert np.array_equal(found.x_train.numpy(), expected)
    assert np.array_equal(found.x_test.numpy(), pixels(5))
    assert found.labels_train.tolist() == [int(i) for batch in range(5) for i in labels(batch)]
    assert found.labels_test.tolist() == labels(5).tolist()
    assert (found.num_classes, found.labels_train.dtype) == (10, torch.int64)


def test_a_balanced_part_is_taken(root: Path) -> None:
    found = load(root, samples=20)
    assert torch.bincount(found.labels_train).tolist() == [2] * 10
    assert len(found.x_test) == COUNT


def test_a_balanced_part_of_the_test_split_is_taken(root: Path) -> None:
    whole = load(root)
    found = data.load_images(DataSpec("cifar10", root=str(root), test_samples=10))
    assert torch.bincount(found.labels_test).tolist() == [1] * 10
    assert torch.equal(found.x_train, whole.x_train)
    assert all(any(torch.equal(x, other) for other in whole.x_test) for x in found.x_test)


@pytest.mark.parametrize("folder", ["cifar10", "cifar-10-batches-bin"])
def test_usual_folders_are_looked_into(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    for batch, name in enumerate(NAMES):
        (tmp_path / folder / f"{name}.bin").write_bytes(bin_file(batch))
    assert len(load(tmp_path).x_train) == 5 * COUNT


def test_a_missing_batch_is_named(root: Path) -> None:
    (gone,) = root.glob("data_batch_3.*")
    gone.unlink()
    with pytest.raises(DataError, match=f"data.root: found no {gone.name} in"):
        load(root)


def test_a_folder_without_batches_and_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no data_batch_1.bin or data_batch_1.zip in"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"data.root: data=cifar10 needs the folder"):
        data.load_images(DataSpec("cifar10"))


@pytest.mark.parametrize("name", ["data_batch_1", "cifar-10-batches-py/data_batch_1"])
def test_pickled_batches_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(pickle.dumps({b"data": [], b"labels": []}))
    with pytest.raises(DataError, match="pickle can run code; accepted the binary version"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found 0 bytes, accepted a multiple of 3073"),
        (bin_file(0)[:-1], "found 36,875 bytes, accepted a multiple of 3073"),
        (b"\x0a" + bin_file(0)[1:], "found label 10 at index 0, accepted 0 to 9"),
    ],
)
def test_damaged_binary_batches_are_refused_by_name(
    tmp_path: Path, content: bytes, message: str
) -> None:
    for batch, name in enumerate(NAMES):
        (tmp_path / f"{name}.bin").write_bytes(bin_file(batch))
    (tmp_path / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(DataError, match=rf"data_batch_2.bin: {message}"):
        load(tmp_path)


def test_a_batch_larger_than_memory_is_not_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "free_memory_bytes", lambda: 100)
    with pytest.raises(DataError, match=r"data_batch_1\..*: holds 0.0 GiB unpacked"):
        load(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no zip", "cannot be read: File is not a zip file"),
        (zip_file(parts(0))[:-30], "cannot be read"),
        (zip_file({"labels.npy": npy(labels(0))}), "found no strips in it"),
        (zip_file({"00.webp": strip(pixels(0))}), "cannot be read: .*labels.npy"),
        (zip_file({**parts(0), "00.webp": b"RIFF"}), "cannot be read: cannot identify image"),
        (zip_file({**parts(0), "00.webp": strip(pixels(0)[:, :, :31])}), "found 31 x 384 pixels"),
        (zip_file({**parts(0), "labels.npy": npy(labels(0)[1:])}), r"uint8 \(11,\), accepted"),
        (zip_file({**parts(0), "labels.npy": npy(labels(0) + 0.5)}), r"float64 \(12,\), accepted"),
        (zip_file({**parts(0), "labels.npy": npy(labels(0) + 5)}), "found label 10 at index"),
        (
            zip_file({**parts(0), "labels.npy": npy(np.array([{}] * COUNT))}),
            "cannot be read: Object arrays cannot be loaded",
        ),
    ],
)
def test_damaged_zips_are_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    for batch, name in enumerate(NAMES):
        (tmp_path / f"{name}.zip").write_bytes(zip_file(parts(batch)))
    (tmp_path / "test_batch.zip").write_bytes(content)
    with pytest.raises(DataError, match=rf"test_batch.zip: .*{message}"):
        load(tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not beside this repository")
def test_the_real_files_are_read() -> None:
    found = load(REAL, samples=100)
    assert (found.x_train.shape, found.x_test.shape) == ((100, 3, 32, 32), (10_000, 3, 32, 32))
    assert torch.bincount(found.labels_test).tolist() == [1000] * 10
    # The published means of the test images: red, green, blue.
    means = found.x_test.double().mean(dim=(0, 2, 3)) / 255
    assert means.tolist() == pytest.approx([0.4942, 0.4851, 0.4504], abs=1e-4)
