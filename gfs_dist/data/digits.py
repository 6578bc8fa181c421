"""scikit-learn's digits: 1,797 images of 8 x 8, in the package itself."""

from __future__ import annotations

import torch

from gfs_dist.data.spec import DataSpec, Splits

TEST_EVERY = 5
SIDE = 8
NUM_CLASSES = 10
MAX_PIXEL = 16.0


def read_digits(_spec: DataSpec) -> Splits:
    """1,437 training and 360 test images, float64 (m, 1, 8, 8) in [0, 1].

    The test split is every fifth row from row 0.
    """
    from sklearn import datasets

    images, digits = datasets.load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float64).reshape(-1, 1, SIDE, SIDE) / MAX_PIXEL
    labels = torch.tensor(digits, dtype=torch.int64)
    is_test = torch.arange(len(x)) % TEST_EVERY == 0
    return Splits(x[~is_test], labels[~is_test], x[is_test], labels[is_test], NUM_CLASSES)
