from __future__ import annotations

import torch

from gfs_dist.training.order import batch_rows, mixed_seed


def test_an_epoch_sees_every_sample_once_and_each_epoch_its_own_order() -> None:
    epochs = [
        torch.cat([batch_rows(23, 5, epoch * 5 + step, seed=1) for step in range(5)])
        for epoch in range(3)
    ]
    for order in epochs:
        assert sorted(order.tolist()) == list(range(23))
    assert not torch.equal(epochs[0], epochs[1])
    assert len(batch_rows(23, 5, 4, seed=1)) == 3


def test_rows_are_those_of_seed_and_iteration_whatever_was_asked_before() -> None:
    first = batch_rows(100, 10, 7, seed=3)
    batch_rows(100, 10, 57, seed=3)
    assert torch.equal(batch_rows(100, 10, 7, seed=3), first)
    assert not torch.equal(batch_rows(100, 10, 7, seed=4), first)


def test_seeds_of_neighbouring_places_differ_in_the_bits_that_count() -> None:
    places = [(seed, step, rank) for seed in range(4) for step in range(50) for rank in range(4)]
    low = {mixed_seed(*place) % 2**32 for place in places}
    assert len(low) == len(places)
    assert mixed_seed(2**62, 3) == mixed_seed(2**62, 3)
