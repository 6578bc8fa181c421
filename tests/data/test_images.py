from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gfs_dist import data
from gfs_dist.data import DataSpec, Images
from gfs_dist.errors import DataError
from tests.data.test_mnist import images, labels

UNEVEN = torch.tensor([0] * 5 + [1] * 50 + [3] * 20)


def test_digits_are_images_of_the_same_rows() -> None:
    loaded, vectors = data.load_images(DataSpec(samples=100)), data.load(DataSpec(samples=100))
    assert loaded.x_train.shape == (100, 1, 8, 8)
    assert loaded.x_train.dtype == torch.float32
    assert torch.equal(loaded.x_train.flatten(1).double(), vectors.x_train)
    assert torch.equal(loaded.labels_test, vectors.labels_test)
    assert torch.equal(loaded.inputs(loaded.x_test), loaded.x_test)
    assert loaded.num_classes == 10


def test_mnist_are_images_of_28_by_28_bytes(tmp_path: Path) -> None:
    for split in ("train", "t10k"):
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(images())
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(labels())
    spec = DataSpec("mnist", root=str(tmp_path))
    loaded, vectors = data.load_images(spec), data.load(spec)
    assert (loaded.x_train.shape, loaded.x_train.dtype) == ((20, 1, 28, 28), torch.uint8)
    found = loaded.inputs(loaded.x_train)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.flatten(1).double(), vectors.x_train, rtol=1e-6, atol=0)


def make(x: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Images:
    labels = torch.arange(len(x)) % 2
    return Images(x, labels, x, labels, 2, mean, std)


def test_bytes_are_scaled_then_each_channel_is_normalised() -> None:
    x = torch.randint(256, (4, 3, 5, 6), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (1.0, 2.0, 4.0)
    found = make(x, mean, std).inputs(x[1:3])
    expected = x[1:3].numpy() / 255
    for channel in range(3):
        expected[:, channel] = (expected[:, channel] - mean[channel]) / std[channel]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mean", [(0.5,), (0.5, 0.5, 0.5)])
def test_features_are_normalised_by_one_number_or_one_each(mean: tuple[float, ...]) -> None:
    x = torch.rand(4, 3)
    torch.testing.assert_close(make(x, mean, (2.0,)).inputs(x), (x - 0.5) / 2)


def test_the_fingerprint_knows_data_labels_and_normalisation() -> None:
    x = torch.randint(256, (4, 3, 5, 6), dtype=torch.uint8)
    same = make(x, (0.1,), (1.0,)), make(x.clone(), (0.1,), (1.0,))
    other = make(x, (0.2,), (1.0,)), make(x, (0.1,), (2.0,)), make(x.flip(0), (0.1,), (1.0,))
    assert same[0].fingerprint == same[1].fingerprint
    assert len({images.fingerprint for images in (same[0], *other)}) == 4


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.1, 0.2), None, "data.mean: found 2 numbers for 1 channels, accepted 1"),
        (None, (1.0, 1.0, 1.0), "data.std: found 3 numbers for 1 channels"),
        (None, (0.0,), "data.std: found 0.0, accepted finite numbers, std above 0"),
        (None, (-1.0,), "data.std: found -1.0"),
        ((float("nan"),), None, "data.mean: found nan"),
        ((), None, "data.mean: found 0 numbers"),
    ],
)
def test_normalisations_that_do_not_fit_are_refused(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        data.load_images(DataSpec(mean=mean, std=std))


@pytest.mark.parametrize("name", ["synthetic", "cifar100"])
def test_what_is_no_images_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=f"data: found '{name}', accepted cifar10, digits, .* npz"):
        data.load_images(DataSpec(name))


def test_one_class_is_refused_as_images() -> None:
    with pytest.raises(DataError, match=r"data=digits: found 1 classes in 1 training images"):
        data.load_images(DataSpec(samples=1))


class TestCalibrationRows:
    @pytest.mark.parametrize("samples", [1, 3, 12, 15, 40, 75])
    def test_classes_are_as_equal_as_there_are_samples(self, samples: int) -> None:
        rows = data.calibration_rows(UNEVEN, samples, 0)
        counts = torch.bincount(UNEVEN[rows], minlength=4)[[0, 1, 3]]
        assert len(set(rows.tolist())) == samples == int(counts.sum())
        # No class has less than another unless all of it is taken; the lowest get the rest.
        available = torch.bincount(UNEVEN)[[0, 1, 3]]
        assert ((counts == available) | (counts >= counts.max() - 1)).all()

    def test_every_stretch_is_balanced_although_the_labels_are_sorted(self) -> None:
        labels = torch.arange(10).repeat_interleave(30)
        for batch in labels[data.calibration_rows(labels, 200, 0)].split(20):
            assert torch.bincount(batch, minlength=10).tolist() == [2] * 10

    def test_fewer_rows_are_the_first_of_more(self) -> None:
        few, many = (data.calibration_rows(UNEVEN, n, 3).tolist() for n in (11, 60))
        assert many[:11] == few
        assert data.calibration_rows(UNEVEN, 60, 3).tolist() == many
        assert data.calibration_rows(UNEVEN, 60, 4).tolist() != many

    def test_more_than_there_are_is_all_of_them(self) -> None:
        assert sorted(data.calibration_rows(UNEVEN, 1024, 0).tolist()) == list(range(75))

    def test_fewer_than_one_is_refused(self) -> None:
        with pytest.raises(DataError, match=r"calibration.samples: found 0, accepted 1 or more"):
            data.calibration_rows(UNEVEN, 0, 0)
