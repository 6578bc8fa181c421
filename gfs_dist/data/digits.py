"""scikit-learn's digits: 1,797 images of 8 x 8, in the package itself."""

from __future__ import annotations

import torch

from gfs_dist.data.balanced import balanced_rows
from gfs_dist.data.spec import Dataset, DataSpec

TEST_EVERY = 5
MAX_PIXEL = 16.0


def load_digits(spec: DataSpec) -> Dataset:
    """1,437 training and 360 test images; the test split is every fifth row from row 0."""
    from sklearn import datasets

    images, digits = datasets.load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float64) / MAX_PIXEL
    labels = torch.tensor(digits, dtype=torch.int64)
    is_test = torch.arange(len(x)) % TEST_EVERY == 0
    x_train, labels_train = x[~is_test], labels[~is_test]
    rows = balanced_rows(labels_train, spec.samples, spec.seed)
    return Dataset(x_train[rows], labels_train[rows], x[is_test], labels[is_test])
