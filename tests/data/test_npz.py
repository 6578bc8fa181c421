from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gfs_dist import data
from gfs_dist.data import DataSpec, Images, reading
from gfs_dist.errors import DataError

X = np.random.default_rng(0).integers(0, 256, (12, 3, 5, 6), dtype=np.uint8)
Y = np.arange(12) % 4
GOOD: dict[str, Any] = {"x_train": X, "y_train": Y, "x_test": X[:5], "y_test": Y[:5]}
NAN = np.where(np.arange(12 * 7).reshape(12, 7) == 9, np.nan, 0.5)


def write(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


def load(path: Path, **keys: Any) -> Images:
    return data.load_images(DataSpec("npz", path=str(path), **keys))


def test_images_of_bytes_stay_bytes(tmp_path: Path) -> None:
    found = load(write(tmp_path / "d.npz", GOOD), mean=(0.5,), std=(0.5, 1.0, 2.0))
    assert np.array_equal(found.x_train.numpy(), X)
    assert (found.x_train.dtype, found.num_classes) == (torch.uint8, 4)
    assert found.labels_test.tolist() == Y[:5].tolist()
    assert (found.mean, found.std) == ((0.5,), (0.5, 1.0, 2.0))


def test_parts_of_both_splits_are_taken(tmp_path: Path) -> None:
    found = load(write(tmp_path / "d.npz", GOOD), samples=8, test_samples=4)
    assert torch.bincount(found.labels_train).tolist() == [2, 2, 2, 2]
    assert np.array_equal(found.x_test.numpy()[1:], X[1:4])
    assert found.labels_test.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f8"])
@pytest.mark.parametrize("shape", [(12, 3, 2, 2), (12, 7)])
def test_floating_inputs_are_taken_as_they_are(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    x = (np.arange(np.prod(shape)).reshape(shape) / 4 - 3).astype(dtype)
    found = load(write(tmp_path / "d.npz", {**GOOD, "x_train": x, "x_test": x[:5]}))
    assert found.x_train.dtype == torch.float32
    assert np.array_equal(found.inputs(found.x_train).numpy(), x.astype("float32"))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint64", ">i4"])
def test_labels_are_any_whole_numbers(tmp_path: Path, dtype: str) -> None:
    arrays = {**GOOD, "y_train": Y.astype(dtype), "y_test": Y[:5].astype(dtype)}
    assert load(write(tmp_path / "d.npz", arrays)).labels_train.tolist() == Y.tolist()


def test_classes_can_be_more_than_the_labels_show(tmp_path: Path) -> None:
    path = write(tmp_path / "d.npz", {**GOOD, "y_test": Y[:5] + 4})
    assert load(path, classes=10).num_classes == 10
    with pytest.raises(DataError, match=r"y_test: found label 4 at index 0, accepted 0 to 3"):
        load(path)
    with pytest.raises(DataError, match=r"y_train: found label 3 at index 3, accepted 0 to 2"):
        load(path, classes=3)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("x_train", X.transpose(0, 2, 3, 1).repeat(2, 1)[:, :6], "channels last; accepted"),
        ("x_train", X[:, 0], r"found shape \(12, 5, 6\), accepted \(N, C, H, W\) or \(N, features"),
        ("x_train", X.astype("int64"), "found int64, accepted uint8 or floating point"),
        ("x_train", X > 3, "found bool, accepted uint8"),
        ("x_train", X[:0], r"found shape \(0, 3, 5, 6\)"),
        ("x_train", NAN, r"found nan at index \(1, 2\), accepted numbers that float32 can hold"),
        ("x_train", NAN[:, :2] + 1e300, r"found 1e\+300 at index \(0, 0\)"),
        ("x_test", X[:5, :2], r"found \(5, 2, 5, 6\), accepted \(N, 3, 5, 6\) as in x_train"),
        ("x_test", X[:5].reshape(5, -1), r"accepted \(N, 3, 5, 6\) as in x_train"),
        ("y_train", Y[1:], r"found int64 \(11,\), accepted whole numbers \(12,\), one for each"),
        ("y_train", Y[:, None], r"found int64 \(12, 1\), accepted whole numbers \(12,\)"),
        ("y_train", Y + 0.0, r"found float64 \(12,\), .*; networks without classes"),
        ("y_train", Y - 1, "found label -1 at index 0, accepted 0 to"),
        ("y_train", Y.astype("uint64") + 2**63, "found label 9223372036854775808 at index 0"),
        ("y_test", np.full(5, 4), "found label 4 at index 0, accepted 0 to 3"),
        ("y_test", np.array([{}] * 5), "cannot be read: Object arrays cannot be loaded"),
        ("x_test", np.array([None] * 5), "cannot be read: Object arrays cannot be loaded"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused_by_name(
    tmp_path: Path, name: str, array: np.ndarray, message: str
) -> None:
    path = write(tmp_path / "d.npz", {**GOOD, name: array})
    with pytest.raises(DataError, match=rf"d.npz: {name}:? .*{message}"):
        load(path)


def test_channels_last_is_told_as_such(tmp_path: Path) -> None:
    x = np.zeros((12, 8, 8, 3), np.uint8)
    path = write(tmp_path / "d.npz", {**GOOD, "x_train": x, "x_test": x[:5]})
    with pytest.raises(DataError, match=r"found shape \(12, 8, 8, 3\), channels last; accepted"):
        load(path)


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_array_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "d.npz", {k: v for k, v in GOOD.items() if k != name})
    with pytest.raises(DataError, match=f"d.npz: has no {name}; found (x|y)_t"):
        load(path)


def test_what_is_no_npz_is_refused_by_name(tmp_path: Path) -> None:
    whole = write(tmp_path / "d.npz", GOOD).read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "cannot be read"),
        (whole.replace(X.tobytes()[:200], bytes(200), 1), "x_train: cannot be read: Bad CRC"),
        (b"", "cannot be read"),
        (b"\x80\x04K\x03.", "cannot be read: .*pickle"),
    ):
        (tmp_path / "e.npz").write_bytes(content)
        with pytest.raises(DataError, match=rf"e.npz: .*{message}"):
            load(tmp_path / "e.npz")
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(DataError, match=r"one.npy: found one array, accepted an .npz of x_train"):
        load(tmp_path / "one.npy")
    with pytest.raises(DataError, match=r"data.path: found no file .*nothing.npz"):
        load(tmp_path / "nothing.npz")
    with pytest.raises(DataError, match=r"data.path: data=npz needs the .npz file"):
        data.load_images(DataSpec("npz"))


def test_what_is_no_array_and_what_is_larger_than_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "d.npz", {k: v for k, v in GOOD.items() if k != "y_test"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y_test.npy", b"no array")
    with pytest.raises(DataError, match=r"d.npz: y_test: found no array"):
        load(path)
    monkeypatch.setattr(reading, "free_memory_bytes", lambda: 100)
    with pytest.raises(DataError, match=r"d.npz: holds 0.0 GiB unpacked, found 0.0 GiB free"):
        load(path)


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


@pytest.mark.parametrize(
    ("name", "header", "message"),
    [
        ("x_train", "{'descr': '|u1', 'fortran_order': False, 'shape': (12, 3, 5, 2**40)}", "read"),
        (
            "x_train",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776, 3)}",
            r"found 4 bytes, accepted 3,298,534,883,328 for its shape \(\d+, 3\) of uint8",
        ),
        (
            "y_train",
            "{'descr': '<i8', 'fortran_order': False, 'shape': (12,)}",
            r"found 4 bytes, accepted 96 for its shape \(12,\) of int64",
        ),
    ],
)
def test_numbers_that_a_header_only_promises_are_refused(
    tmp_path: Path, name: str, header: str, message: str
) -> None:
    path = write(tmp_path / "d.npz", {k: v for k, v in GOOD.items() if k != name})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{name}.npy", npy(header, bytes(4)))
    with pytest.raises(DataError, match=rf"d.npz: {name}:? .*{message}"):
        load(path)


def test_nothing_is_unpacked_of_a_file_that_grows_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = np.zeros((12, 2**15), np.uint8)
    np.savez_compressed(tmp_path / "d.npz", **{**GOOD, "x_train": zeros, "x_test": zeros[:5]})
    assert load(tmp_path / "d.npz").x_train.shape == (12, 2**15)
    monkeypatch.setattr(reading, "SMALL_BYTES", 2**18)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(DataError, match=r"d.npz: its .* bytes unpack to 55\d,\d{3}, accepted"):
        load(tmp_path / "d.npz")


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_the_copy_that_floating_numbers_need_counts_as_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type
) -> None:
    x = np.zeros((12, 100), dtype)
    path = write(tmp_path / "d.npz", {**GOOD, "x_train": x, "x_test": x[:5]})
    stored = x.nbytes + x[:5].nbytes + 17 * 8 + 4 * 128
    monkeypatch.setattr(reading, "free_memory_bytes", lambda: stored)
    if dtype is np.uint8:
        assert len(load(path).x_train) == 12
        return
    with pytest.raises(DataError, match=r"d.npz: holds 0.0 GiB unpacked, found 0.0 GiB free"):
        load(path)


def test_normalisation_of_another_number_of_channels_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "d.npz", GOOD)
    with pytest.raises(DataError, match=r"data.mean: found 2 numbers for 3 channels, accepted 1 o"):
        load(path, mean=(0.5, 0.5))


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint16"])
def test_numbers_of_tokens_stay_whole(tmp_path: Path, dtype: str) -> None:
    tokens = np.arange(12 * 5).reshape(12, 5).astype(dtype)
    found = load(write(tmp_path / "d.npz", {**GOOD, "x_train": tokens, "x_test": tokens[:5]}))
    assert found.x_train.dtype == torch.int64
    assert found.inputs(found.x_test).tolist() == tokens[:5].tolist()


def test_numbers_below_zero_are_no_tokens(tmp_path: Path) -> None:
    tokens = np.full((12, 5), 3)
    tokens[2, 1] = -1
    with pytest.raises(DataError, match="x_train: found token -1 at index 11, accepted 0 to"):
        load(write(tmp_path / "d.npz", {**GOOD, "x_train": tokens, "x_test": tokens[:5]}))
