"""Parts of a dataset with equal classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from gfs_dist.data.spec import DataSpec, Labelled, Splits
from gfs_dist.errors import DataError

AnyLabelled = TypeVar("AnyLabelled", bound=Labelled)


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


def divided(found: AnyLabelled, spec: DataSpec) -> AnyLabelled:
    """With ``data.validation`` of the training rows held out, ``data.prune_samples`` of the rest
    chosen to prune on.

    Both are the same for any command, since ``data.seed`` and the labels alone decide. Regression
    targets count as one class.

    Raises:
        DataError: there are not enough rows for one of them; names the key.
    """
    if spec.validation is not None:
        held = validation_rows(_classes(found.labels_train), spec.validation, spec.seed)
        kept = torch.ones(len(found.labels_train), dtype=torch.bool).index_fill(0, held, False)
        found = replace(
            found,
            x_train=found.x_train[kept],
            labels_train=found.labels_train[kept],
            x_validation=found.x_train[held],
            labels_validation=found.labels_train[held],
        )
    if spec.prune_samples is not None:
        labels, key = _classes(found.labels_train), "data.prune_samples"
        rows = balanced_rows(labels, spec.prune_samples, spec.seed, key)
        found = replace(found, prune_rows=rows)
    return found


def validation_rows(labels: Tensor, share: float, seed: int) -> Tensor:
    """Rows to hold out: ``share`` of each class, rounded.

    Args:
        labels: int64 (m,).
        share: above 0, below 1.
        seed: chooses which.

    Returns:
        Sorted rows, int64.

    Raises:
        DataError: a class would have no row on one of both sides; names it.
    """
    held = []
    for rows in _shuffled_classes(labels, seed):
        count = round(share * len(rows))
        if not 0 < count < len(rows):
            raise DataError(
                f"data.validation: {share:g} of the {len(rows)} samples of class "
                f"{int(labels[rows[0]])} are {count}, accepted 1 to {len(rows) - 1}"
            )
        held.append(rows[:count])
    return torch.cat(held).sort().values


def calibration_rows(labels: Tensor, samples: int, seed: int, pool: Tensor | None = None) -> Tensor:
    """Rows to calibrate on, dealt class by class so that every stretch of them is balanced.

    A class that has run out is passed over; where there are fewer than ``samples``, all are
    taken. The first n rows are the n rows that the same seed gives for ``samples=n``, so they are
    not sorted: consecutive mini-batches have equal classes even where a file is sorted by class.

    Args:
        labels: int64 (m,).
        samples: how many, at least 1.
        seed: chooses which.
        pool: sorted rows to choose from; None for all.

    Returns:
        Distinct rows, int64 (min(samples, m),), m counting those of ``pool``.

    Raises:
        DataError: fewer than one.
    """
    if samples < 1:
        raise DataError(f"calibration.samples: found {samples}, accepted 1 or more")
    if pool is None:
        return _interleaved(labels, seed)[:samples]
    return pool[_interleaved(labels[pool], seed)[:samples]]


def seeded(seed: int, stream: int) -> torch.Generator:
    """One of the streams of random numbers of a seed."""
    return torch.Generator().manual_seed((seed * 1_000_003 + stream) % 2**63)


def _interleaved(labels: Tensor, seed: int) -> Tensor:
    """All rows: one of each class in ascending order, then the next of each, and so on."""
    rows = _shuffled_classes(labels, seed)
    turns = torch.cat([torch.arange(len(own)) for own in rows])
    return torch.cat(rows)[turns.argsort(stable=True)]


def _shuffled_classes(labels: Tensor, seed: int) -> list[Tensor]:
    """The rows of each class, in an order of its own."""
    classes = [(labels == label).nonzero().flatten() for label in torch.unique(labels)]
    return [
        own[torch.randperm(len(own), generator=seeded(seed, position))]
        for position, own in enumerate(classes)
    ]


def _classes(labels: Tensor) -> Tensor:
    return torch.zeros(len(labels), dtype=torch.int64) if labels.is_floating_point() else labels
