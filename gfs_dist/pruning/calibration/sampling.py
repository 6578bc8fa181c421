"""Which samples and candidates a step of a search looks at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gfs_dist.errors import InputError
from gfs_dist.pruning.calibration.workspace import Workspace

ROWS, CANDIDATES = range(2)


@dataclass(frozen=True)
class Sampling:
    """Which samples and candidates a step looks at, drawn from seed and step alone.

    Attributes:
        batch: samples that a loss is the mean of; all if there are fewer.
        fresh: draw others at every step, as the paper does. By default all steps see the same, so
            that the losses of a path can be compared and its curve means something.
        candidates: how many of those left are scored at each step; None for all.
        seed: of both.
    """

    batch: int = 128
    fresh: bool = False
    candidates: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, found in (("batch", self.batch), ("candidates", self.candidates)):
            if found is not None and found < 1:
                raise InputError(f"{name}: found {found}, accepted 1 or more")

    def rows(self, num_samples: int, k: int) -> Tensor:
        """Samples of step ``k`` (from 1), sorted."""
        if self.batch >= num_samples:
            return torch.arange(num_samples)
        step = k if self.fresh else 0
        order = torch.randperm(num_samples, generator=self._generator(ROWS, step))
        return order[: self.batch].sort().values

    def drawn(self, left: Tensor, k: int) -> Tensor:
        """Which of the candidates ``left`` (sorted) step ``k`` scores, sorted.

        One from each of as many runs of neighbours, whose lengths differ by one at most: spread
        over the whole layer.
        """
        if self.candidates is None or self.candidates >= len(left):
            return left
        bounds = torch.arange(self.candidates + 1) * len(left) // self.candidates
        generator = self._generator(CANDIDATES, k)
        places = torch.rand(self.candidates, dtype=torch.float64, generator=generator)
        return left[bounds[:-1] + (places * bounds.diff()).long()]

    def _generator(self, *place: int) -> torch.Generator:
        words = np.random.SeedSequence((self.seed % 2**32, *place)).generate_state(1)
        return torch.Generator().manual_seed(int(words[0]))


def read_rows(workspace: Workspace, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and labels of sorted rows; other chunks than theirs are not read."""
    size = len(workspace.labels(0))
    x, labels = [], []
    for chunk in torch.unique(rows // size).tolist():
        own = rows[rows // size == chunk] - chunk * size
        x.append(workspace.x(chunk)[own])
        labels.append(workspace.labels(chunk)[own])
    return torch.cat(x), torch.cat(labels)
