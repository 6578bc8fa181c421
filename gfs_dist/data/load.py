"""One door to all data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gfs_dist.data.digits import load_digits
from gfs_dist.data.mnist import load_mnist
from gfs_dist.data.spec import Dataset, DataSpec, check_classes
from gfs_dist.data.synthetic import load_synthetic
from gfs_dist.errors import DataError

DATASETS = ("digits", "mnist", "synthetic")


def load(
    spec: DataSpec,
    *,
    width: int = 1000,
    activation: Callable[[Tensor], Tensor] = torch.tanh,
) -> Dataset:
    """Load what ``spec`` names.

    Args:
        spec: which data.
        width: neurons of the planted network (synthetic only).
        activation: of the planted network (synthetic only).

    Raises:
        DataError: unknown, missing, damaged, empty, of one class, or fewer than asked for.
    """
    if spec.name == "digits":
        dataset = load_digits(spec)
    elif spec.name == "mnist":
        dataset = load_mnist(spec)
    elif spec.name == "synthetic":
        dataset = load_synthetic(spec, width, activation)
    else:
        raise DataError(
            f"data: found {spec.name!r}, accepted {', '.join(DATASETS)} for two-layer networks"
        )
    check_classes(dataset.labels_train, spec.name)
    return dataset
