from __future__ import annotations

import pytest
import torch

from gfs_dist import data
from gfs_dist.data import DataSpec, balanced
from gfs_dist.data.spec import check_classes
from gfs_dist.errors import DataError

CLASSES = torch.arange(10)


def test_digits_split_by_every_fifth_row() -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    found = data.load(DataSpec())
    assert (len(found.x_train), len(found.x_test), found.features) == (1437, 360, 64)
    assert torch.equal(found.x_test, torch.tensor(images[::5] / 16))
    assert found.labels_test.tolist() == labels[::5].tolist()
    assert found.labels_train[:4].tolist() == labels[1:5].tolist()
    assert found.x_train.dtype == torch.float64
    assert (found.x_train.min(), found.x_train.max()) == (0, 1)


def test_targets_follow_the_objective() -> None:
    labels = torch.tensor([4, 5, 0, 9])
    assert data.target(labels, "squared").tolist() == [-1, 1, -1, 1]
    assert data.target(labels, "bce").tolist() == [0, 1, 0, 1]
    assert data.target(labels, "bce").dtype == torch.float64
    regression = torch.tensor([-0.5, 0.25])
    assert data.target(regression, "squared").tolist() == [-0.5, 0.25]
    assert data.target(regression, "bce").tolist() == [0, 1]
    with pytest.raises(DataError, match="objective: found 'hinge', accepted squared, bce"):
        data.target(labels, "hinge")


@pytest.mark.parametrize("samples", [10, 57, 1000])
def test_a_part_has_equal_classes_the_rest_goes_to_the_lowest(samples: int) -> None:
    found = data.load(DataSpec(samples=samples))
    counts = torch.bincount(found.labels_train, minlength=10)
    assert counts.tolist() == (samples // 10 + (samples % 10 > CLASSES)).tolist()
    assert len(found.x_test) == 360


@pytest.mark.parametrize("samples", [1, 57, 260])
def test_a_part_of_the_test_split_is_balanced_too(samples: int) -> None:
    found, whole = data.load(DataSpec(test_samples=samples)), data.load(DataSpec())
    counts = torch.bincount(found.labels_test, minlength=10)
    assert counts.tolist() == (samples // 10 + (samples % 10 > CLASSES)).tolist()
    rows = balanced.balanced_rows(whole.labels_test, samples, 0)
    assert torch.equal(found.x_test, whole.x_test[rows])
    assert torch.equal(found.x_train, whole.x_train)
    other = data.load(DataSpec(test_samples=samples, seed=1))
    assert not torch.equal(found.x_test, other.x_test)
    assert found.fingerprint != whole.fingerprint


def test_more_test_samples_than_there_are_are_refused_by_their_key() -> None:
    with pytest.raises(DataError, match="^data.test_samples: 361 needs 36 of class 1, found 28"):
        data.load(DataSpec(test_samples=361))
    with pytest.raises(DataError, match="^data.test_samples: found 0, accepted 1 or more"):
        data.load(DataSpec("synthetic", test_samples=0))
    assert len(data.load(DataSpec("synthetic", samples=30, test_samples=7)).x_test) == 7


def test_parts_are_nested_repeatable_and_depend_on_the_seed() -> None:
    labels = data.load(DataSpec()).labels_train
    small, large = (balanced.balanced_rows(labels, n, 3).tolist() for n in (123, 456))
    assert set(small) < set(large)
    assert small == sorted(small) == balanced.balanced_rows(labels, 123, 3).tolist()
    assert small != balanced.balanced_rows(labels, 123, 4).tolist()


def test_all_samples_are_accepted_however_uneven() -> None:
    assert data.load(DataSpec(samples=1437)).fingerprint == data.load(DataSpec()).fingerprint
    assert data.load(DataSpec(samples=1000)).fingerprint != data.load(DataSpec()).fingerprint


def test_more_than_the_classes_hold_is_refused_with_counts() -> None:
    with pytest.raises(
        DataError, match=r"1436 needs 144 of class 0, found 136; accepted 1 to 1330, or all 1437"
    ):
        data.load(DataSpec(samples=1436))
    with pytest.raises(DataError, match=r"data.samples: 5000 needs 500 of class 0, found 136"):
        data.load(DataSpec(samples=5000))


@pytest.mark.parametrize("samples", [0, -3])
def test_fewer_than_one_sample_is_refused(samples: int) -> None:
    with pytest.raises(DataError, match=f"data.samples: found {samples}, accepted 1 to 1437"):
        data.load(DataSpec(samples=samples))


@pytest.mark.parametrize("samples", [1, 5])
def test_one_class_is_refused(samples: int) -> None:
    with pytest.raises(DataError, match=f"data=digits: all {samples} samples are of one class"):
        data.load(DataSpec(samples=samples))
    assert len(data.load(DataSpec(samples=6)).x_train) == 6


def test_no_samples_are_refused() -> None:
    with pytest.raises(DataError, match="data=digits: no samples"):
        check_classes(torch.zeros(0, dtype=torch.int64), "digits")


def test_unknown_data_is_refused() -> None:
    with pytest.raises(
        DataError, match="found 'cifar100', accepted digits, mnist, synthetic for two-l"
    ):
        data.load(DataSpec("cifar100"))
