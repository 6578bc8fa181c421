"""Parts of a dataset with equal classes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gfs_dist.data.spec import DataSpec, Splits
from gfs_dist.errors import DataError


def balanced_rows(
    labels: Tensor, samples: int | None, seed: int, key: str = "data.samples"
) -> Tensor:
    """Rows of a sub-dataset with as many of each class as of any other.

    What does not divide evenly goes to the lowest classes, one each. Sub-datasets of one seed
    are nested: a larger one holds all rows of a smaller one. All samples are always accepted,
    however uneven.

    Args:
        labels: int64 (m,).
        samples: how many; None for all.
        seed: chooses which.
        key: that asks for them.

    Returns:
        Sorted rows, int64 (samples,).

    Raises:
        DataError: fewer than one, or more than the classes hold; names both counts.
    """
    if samples is None or samples == len(labels):
        return torch.arange(len(labels))
    classes, counts = torch.unique(labels, return_counts=True)
    if samples < 1:
        raise DataError(f"{key}: found {samples}, accepted 1 to {len(labels)}")
    share, rest = divmod(samples, len(classes))
    for position, (label, count) in enumerate(zip(classes, counts, strict=True)):
        wanted = share + (position < rest)
        if wanted > count:
            raise DataError(
                f"{key}: {samples} needs {wanted} of class {int(label)}, found "
                f"{int(count)}; accepted 1 to {int(counts.min()) * len(classes)}, or all "
                f"{len(labels)}"
            )
    return _interleaved(labels, seed)[:samples].sort().values


def balanced_splits(found: Splits, spec: DataSpec) -> Splits:
    """The rows of both splits that ``spec`` asks for; nothing is copied where all are taken."""
    rows = balanced_rows(found.labels_train, spec.samples, spec.seed)
    if len(rows) < len(found.labels_train):
        found = replace(found, x_train=found.x_train[rows], labels_train=found.labels_train[rows])
    rows = balanced_rows(found.labels_test, spec.test_samples, spec.seed, "data.test_samples")
    if len(rows) < len(found.labels_test):
        found = replace(found, x_test=found.x_test[rows], labels_test=found.labels_test[rows])
    return found


def calibration_rows(labels: Tensor, samples: int, seed: int) -> Tensor:
    """Rows to calibrate on, dealt class by class so that every stretch of them is balanced.

    A class that has run out is passed over; where there are fewer than ``samples``, all are
    taken. The first n rows are the n rows that the same seed gives for ``samples=n``, so they are
    not sorted: consecutive mini-batches have equal classes even where a file is sorted by class.

    Args:
        labels: int64 (m,).
        samples: how many, at least 1.
        seed: chooses which.

    Returns:
        Distinct rows, int64 (min(samples, m),).

    Raises:
        DataError: fewer than one.
    """
    if samples < 1:
        raise DataError(f"calibration.samples: found {samples}, accepted 1 or more")
    return _interleaved(labels, seed)[:samples]


def seeded(seed: int, stream: int) -> torch.Generator:
    """One of the streams of random numbers of a seed."""
    return torch.Generator().manual_seed((seed * 1_000_003 + stream) % 2**63)


def _interleaved(labels: Tensor, seed: int) -> Tensor:
    """All rows: one of each class in ascending order, then the next of each, and so on."""
    rows, turns = [], []
    for position, label in enumerate(torch.unique(labels)):
        own = (labels == label).nonzero().flatten()
        rows.append(own[torch.randperm(len(own), generator=seeded(seed, position))])
        turns.append(torch.arange(len(own)))
    return torch.cat(rows)[torch.cat(turns).argsort(stable=True)]
