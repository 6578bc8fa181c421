"""How far a smaller network's outputs are from the dense one's."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from gfs_dist.pruning.widths.width_trial import divergence


def test_the_divergence_is_that_of_the_classes_summed_over_samples() -> None:
    torch.manual_seed(0)
    dense, small = 30 * torch.randn(5, 4), 30 * torch.randn(5, 4)
    p, q = dense.double().softmax(1), small.double().log_softmax(1)
    total, count = divergence(dense, small)
    assert total == pytest.approx(float(functional.kl_div(q, p, reduction="sum")))
    assert count == 5
    assert divergence(dense, dense) == (0.0, 5)


def test_other_outputs_are_compared_by_squares() -> None:
    total, count = divergence(torch.ones(3, 2, 4), torch.zeros(3, 2, 4))
    assert (total, count) == (12.0, 3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_no_numbers_are_infinitely_far(value: float) -> None:
    assert divergence(torch.zeros(2, 3), torch.full((2, 3), value)) == (math.inf, 2)
