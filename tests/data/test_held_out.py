"""``data.validation`` and ``data.prune_samples``: which rows they take."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gfs_dist.data import DataSpec, calibration_rows, load, load_images
from gfs_dist.data.balanced import divided, validation_rows
from gfs_dist.data.spec import Labelled
from gfs_dist.errors import DataError


def rows_of(x: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row.tolist()) for row in x.flatten(1)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("read", [load, load_images])
def test_held_out_rows_are_balanced_and_met_nowhere_else(read, seed: int) -> None:
    spec = DataSpec(samples=200, prune_samples=50, validation=0.1, seed=seed)
    whole, found = read(DataSpec(samples=200, seed=seed)), read(spec)
    x, labels = found.validation
    assert labels.bincount().tolist() == 10 * [2]
    assert found.labels_train.bincount().tolist() == 10 * [18]
    assert rows_of(x) | rows_of(found.x_train) == rows_of(whole.x_train)
    assert not rows_of(x) & rows_of(found.x_train)
    x, labels = found.pruned_on
    assert labels.bincount().tolist() == 10 * [5]
    assert torch.equal(x, found.x_train[found.prune_rows])
    assert torch.equal(found.x_test, whole.x_test)


def test_vectors_and_images_take_the_same_rows_and_the_seed_chooses() -> None:
    spec = DataSpec(prune_samples=100, validation=0.25)
    vectors, images = load(spec), load_images(spec)
    assert torch.equal(vectors.labels_train, images.labels_train)
    assert torch.equal(vectors.prune_rows, images.prune_rows)
    other = load(DataSpec(prune_samples=100, validation=0.25, seed=1))
    assert rows_of(other.x_validation) != rows_of(vectors.x_validation)
    assert rows_of(other.pruned_on[0]) != rows_of(vectors.pruned_on[0])


def test_what_is_held_out_does_not_depend_on_what_is_pruned_on() -> None:
    one, two = load(DataSpec(validation=0.1)), load(DataSpec(validation=0.1, prune_samples=60))
    assert torch.equal(one.x_validation, two.x_validation)
    assert torch.equal(one.x_train, two.x_train)


def test_of_uneven_classes_each_gives_its_share() -> None:
    labels = torch.tensor(30 * [0] + 10 * [1] + 4 * [2])
    rows = validation_rows(labels, 0.3, seed=2)
    assert labels[rows].bincount().tolist() == [9, 3, 1]
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_regression_is_divided_too() -> None:
    found = load(DataSpec("synthetic", samples=100, validation=0.2, prune_samples=30), width=20)
    assert [len(t) for t in (found.x_train, found.x_validation, found.pruned_on[1])] == [80, 20, 30]
    assert not rows_of(found.x_validation) & rows_of(found.x_train)


def test_calibration_images_come_from_the_pool() -> None:
    labels, pool = torch.arange(100) % 5, torch.arange(3, 100, 3)
    rows = calibration_rows(labels, 20, 0, pool)
    assert set(rows.tolist()) < set(pool.tolist())
    assert labels[rows].bincount().tolist() == 5 * [4]
    assert sorted(calibration_rows(labels, 90, 0, pool).tolist()) == pool.tolist()


def test_fingerprints_change_with_what_is_taken_and_only_then() -> None:
    plain = load(DataSpec(samples=100))
    found = [
        load(DataSpec(samples=100, **keys)).fingerprint
        for keys in ({}, {"prune_samples": 50}, {"prune_samples": 60}, {"validation": 0.1})
    ]
    assert found[0] == plain.fingerprint
    assert len(set(found)) == 4


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"prune_samples": 300},
            "data.prune_samples: 300 needs 30 of class 0, found 20; accepted 1",
        ),
        (
            {"prune_samples": 190, "validation": 0.1},
            "data.prune_samples: 190 needs 19 of class 0, found 18; accepted 1 to 180, or all 180",
        ),
        ({"prune_samples": 2}, "all 2 samples are of one class .*; take more with data.prune_samp"),
        (
            {"validation": 0.01},
            "data.validation: 0.01 of the 20 samples of class 0 are 0, accepted 1",
        ),
        (
            {"validation": 0.99},
            "data.validation: 0.99 of the 20 samples of class 0 are 20, accepted",
        ),
    ],
)
def test_too_few_rows_are_refused(keys, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(DataSpec(samples=200, **keys))


def test_nothing_is_copied_where_nothing_is_asked_for() -> None:
    x, labels = torch.zeros(4, 2), torch.arange(4)
    given = Labelled(x, labels, x, labels)
    assert divided(given, DataSpec()) is given
    assert given.pruned_on[0].data_ptr() == x.data_ptr()
