from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gfs_dist import data
from gfs_dist.data import DataSpec, Images, image_folder
from gfs_dist.data.balanced import balanced_rows
from gfs_dist.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "data" / "tinyimagenet50" / "tinyimagenet50.npz"
COLOURS = {"cat": (200, 10, 30), "dog": (20, 150, 60), "zebra": (90, 90, 90)}


def picture(path: Path, colour: Any, size: tuple[int, int] = (9, 7), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes, four training images and one validation image of each."""
    for name, colour in COLOURS.items():
        for number in range(4):
            picture(tmp_path / "train" / name / f"{number}.png", colour)
        picture(tmp_path / "val" / name / "a.PNG", colour)
    return tmp_path


def load(root: Path, size: int = 4, **keys: Any) -> Images:
    return data.load_images(DataSpec("imagefolder", root=str(root), size=size, **keys))


def test_classes_are_folders_in_the_order_of_their_names(root: Path) -> None:
    (root / "train" / ".DS_Store").write_bytes(b"")
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    found = load(root)
    assert (found.x_train.shape, found.x_train.dtype) == ((12, 3, 4, 4), torch.uint8)
    assert found.labels_train.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert found.labels_test.tolist() == [0, 1, 2]
    for label, colour in enumerate(COLOURS.values()):
        assert found.x_test[label].flatten(1).unique(dim=1).flatten().tolist() == list(colour)


def test_the_shorter_side_is_resized_and_the_middle_is_kept(tmp_path: Path) -> None:
    """Left to right red 0, 10, ..., 110 on 12 x 4 pixels: the middle of it stays."""
    ramp = np.zeros((4, 12, 3), np.uint8)
    ramp[:, :, 0] = np.arange(12) * 10
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(ramp).save(tmp_path / split / name / "x.png")
    assert load(tmp_path, 4).x_train[0, 0, 0].tolist() == [40, 50, 60, 70]
    assert load(tmp_path, 2, resize=4).x_train[0, 0, 0].tolist() == [50, 60]
    halved = load(tmp_path, 2).x_train[0, 0, 0].tolist()
    assert halved == pytest.approx([45, 65], abs=3)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGBA", "LA"])
def test_images_of_any_kind_become_rgb(root: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    (root / "val" / "zebra" / "a.PNG").unlink()
    picture(root / "val" / "zebra" / f"a.{suffix}", COLOURS["zebra"], mode=mode)
    found = load(root).x_test[2].double().mean()
    assert float(found) == pytest.approx(90, abs=40 if mode == "1" else 4)


def test_only_the_images_asked_for_are_decoded(root: Path) -> None:
    chosen = load(root, samples=6)
    assert torch.bincount(chosen.labels_train).tolist() == [2, 2, 2]
    labels = torch.arange(3).repeat_interleave(4)
    unused = set(range(12)) - set(balanced_rows(labels, 6, 0).tolist())
    files = sorted((root / "train").glob("*/*.png"))
    for row in unused:
        files[row].write_bytes(b"damaged")
    assert len(load(root, samples=6).x_train) == 6
    with pytest.raises(DataError, match="cannot be read as an image"):
        load(root)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_a_damaged_image_is_named(root: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = root / "train" / "dog" / f"2a.{suffix}"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    assert len(load(root).x_train) == 13
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=rf"dog/2a.{suffix}: cannot be read as an image"):
        load(root)


def test_what_is_no_file_or_grows_too_large_is_refused_before_it_is_decoded(root: Path) -> None:
    odd = root / "train" / "cat" / "odd.png"
    os.mkfifo(odd)
    with pytest.raises(DataError, match=r"odd.png: found no regular file"):
        image_folder.read_image(odd, 8, 8)
    odd.unlink()
    picture(odd, (1, 2, 3), (1, 60_000))
    with pytest.raises(DataError, match=r"1 x 60000 pixels, too many once the shorter side"):
        image_folder.read_image(odd, 224, 256)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_class_folder_is_named(root: Path, split: str) -> None:
    for file in (root / split / "dog").iterdir():
        file.rename(file.with_suffix(".gif"))
    with pytest.raises(DataError, match=rf"{split}/dog: found no images, accepted .jpg, .jpeg, .p"):
        load(root)


def test_folders_that_do_not_fit_are_refused_by_name(root: Path) -> None:
    picture(root / "val" / "wolf" / "a.png", (0, 0, 0))
    with pytest.raises(DataError, match=r"val/wolf: found a class that the training images do not"):
        load(root)
    (root / "val" / "wolf").rename(root / "train" / "wolf")
    with pytest.raises(DataError, match=r"val/wolf: found no such folder, accepted one for each"):
        load(root)
    (root / "val").rename(root / "valid")
    with pytest.raises(DataError, match=r"data.root: found no folder val or test in"):
        load(root)
    with pytest.raises(DataError, match=r"data.root: found no folder train in"):
        load(root / "train")
    (root / "empty" / "train").mkdir(parents=True)
    (root / "empty" / "val").mkdir()
    with pytest.raises(DataError, match=r"train: found no folders in it, accepted one for each"):
        load(root / "empty")


def test_test_images_that_are_not_asked_for_are_not_read(root: Path) -> None:
    for name in COLOURS:
        picture(root / "val" / name / "b.png", COLOURS[name])
    labels = load(root).labels_test
    chosen = balanced_rows(labels, 3, 0).tolist()
    files = sorted((root / "val").rglob("*.[pP]*"))
    for row in set(range(6)) - set(chosen):
        files[row].write_bytes(b"damaged")
    found = load(root, test_samples=3)
    assert (found.labels_test.tolist(), len(found.x_train)) == ([0, 1, 2], 12)


def test_more_than_memory_holds_is_refused_before_reading(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_folder, "free_memory_bytes", lambda: 14 * 3 * 2**24)
    with pytest.raises(DataError, match=r"12 training and 3 test images of 4096 pixels take 0.7 "):
        load(root, 4096)
    (root / "train" / "cat" / "0.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"with data.samples and data.test_samples, or a smaller"):
        load(root, 4096)


def test_sizes_that_do_not_fit_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"data.resize: found 3, accepted data.size=4 or more"):
        load(root, 4, resize=3)
    with pytest.raises(DataError, match=r"data.root: data=imagefolder needs the folder"):
        data.load_images(DataSpec("imagefolder"))


@pytest.mark.skipif(not REAL.is_file(), reason="the real file is not beside this repository")
def test_real_jpegs_are_decoded_as_they_are(tmp_path: Path) -> None:
    with np.load(REAL) as content:
        blob, ends = content["val_jpeg"].tobytes(), content["val_offsets"].tolist()
        labels = content["val_labels"]
    for row in range(0, len(labels), 10):  # two of each class
        for split in ("train", "val"):
            path = tmp_path / split / f"n{labels[row]:02}" / f"{row:04}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(blob[ends[row] : ends[row + 1]])
    found = load(tmp_path, 64)
    assert (found.x_test.shape, found.num_classes) == ((100, 3, 64, 64), 50)
    assert found.labels_test.tolist() == labels[::10].tolist()
    for image, row in zip(found.x_test, range(0, len(labels), 10), strict=True):
        with Image.open(io.BytesIO(blob[ends[row] : ends[row + 1]])) as expected:
            assert np.array_equal(
                image.permute(1, 2, 0).numpy(), np.asarray(expected.convert("RGB"))
            )
