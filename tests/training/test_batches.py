from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gfs_dist.training.batches import batch_rows, crop_and_flip, mixed_seed, paste_rectangles


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_by_one(images: Tensor, draws: torch.Generator) -> Tensor:
    """The same with loops over images: pad, cut, mirror."""
    count, channels, height, width = images.shape
    above, beside = height // 8, width // 8
    top = torch.randint(2 * above + 1, (count, 1), generator=draws)
    left = torch.randint(2 * beside + 1, (count, 1), generator=draws)
    mirrored = torch.randint(2, (count, 1), generator=draws)
    result = []
    for k, image in enumerate(images):
        padded = torch.zeros(channels, height + 2 * above, width + 2 * beside, dtype=images.dtype)
        padded[:, above : above + height, beside : beside + width] = image
        cut = padded[:, int(top[k]) :, int(left[k]) :][:, :height, :width]
        result.append(cut.flip(2) if mirrored[k] else cut)
    return torch.stack(result)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(7, 3, 32, 32), (5, 1, 8, 24), (3, 2, 5, 5)])
def test_a_batch_is_augmented_as_its_images_one_by_one(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    images = torch.randint(1, 255, shape, generator=generator(1)).to(dtype)
    found = crop_and_flip(images, generator())
    assert found.dtype == dtype
    assert torch.equal(found, one_by_one(images, generator()))


def test_every_position_and_both_sides_come_up_equally_often() -> None:
    """One white pixel in the middle tells where its image was cut and whether it was mirrored."""
    images = torch.zeros(20_000, 1, 16, 16, dtype=torch.uint8)
    images[:, :, 8, 2] = 255
    found = crop_and_flip(images, generator())
    positions = found.flatten(1).int().argmax(1)
    rows, columns = positions // 16, positions % 16
    assert torch.bincount(rows).nonzero().flatten().tolist() == [6, 7, 8, 9, 10]
    left = columns < 8
    assert columns.unique().tolist() == [0, 1, 2, 3, 4, 11, 12, 13, 14, 15]
    assert float(left.double().mean()) == pytest.approx(0.5, abs=0.02)
    assert positions.unique(return_counts=True)[1].tolist() == pytest.approx([400] * 50, rel=0.25)


def test_the_border_is_black_and_nothing_is_changed() -> None:
    images = torch.full((50, 3, 32, 32), 200, dtype=torch.uint8)
    found = crop_and_flip(images, generator())
    assert set(found.unique().tolist()) == {0, 200}
    assert bool((images == 200).all())


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


def test_rectangles_of_other_images_cover_half_of_the_images() -> None:
    images = torch.arange(400).view(400, 1, 1, 1).expand(400, 2, 6, 9).contiguous()
    found = paste_rectangles(images, generator())
    assert torch.equal(found, paste_rectangles(images, generator()))
    assert found.shape == images.shape
    assert torch.equal(found[:, 0], found[:, 1])
    covered = found[:, 0] != images[:, 0]
    share = float(covered.flatten(1).any(1).double().mean())
    assert 0.4 < share < 0.6
    for own, image in zip(covered, found[:, 0], strict=True):
        rows, columns = own.any(1), own.any(0)
        assert torch.equal(own, rows[:, None] & columns)  # a rectangle, without holes
        for along in (rows, columns):
            places = along.nonzero().flatten().tolist()
            assert not places or places == [*range(places[0], places[-1] + 1)]
        assert len(image[own].unique()) <= 1  # of one image
