"""Sub-datasets with equal classes."""

from __future__ import annotations

import torch
from torch import Tensor

from gfs_dist.errors import DataError


def balanced_rows(labels: Tensor, samples: int | None, seed: int) -> Tensor:
    """Rows of a sub-dataset with as many of each class as of any other.

    What does not divide evenly goes to the lowest classes, one each. Sub-datasets of one seed
    are nested: a larger one holds all rows of a smaller one. All samples are always accepted,
    however uneven.

    Args:
        labels: int64 (m,).
        samples: how many; None for all.
        seed: chooses which.

    Returns:
        Sorted rows, int64 (samples,).

    Raises:
        DataError: fewer than one, or more than the classes hold; names both counts.
    """
    if samples is None or samples == len(labels):
        return torch.arange(len(labels))
    classes, counts = torch.unique(labels, return_counts=True)
    if samples < 1:
        raise DataError(f"data.samples: found {samples}, accepted 1 to {len(labels)}")
    share, rest = divmod(samples, len(classes))
    rows = []
    for position, (label, count) in enumerate(zip(classes, counts, strict=True)):
        wanted = share + (position < rest)
        if wanted > count:
            raise DataError(
                f"data.samples: {samples} needs {wanted} of class {int(label)}, found "
                f"{int(count)}; accepted 1 to {int(counts.min()) * len(classes)}, or all "
                f"{len(labels)}"
            )
        generator = torch.Generator().manual_seed((seed * 1_000_003 + position) % 2**63)
        order = torch.randperm(int(count), generator=generator)[:wanted]
        rows.append((labels == label).nonzero().flatten()[order])
    return torch.cat(rows).sort().values
