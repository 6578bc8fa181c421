"""Losses of all prefixes of a path, and the files that ranks read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gfs_dist.pruning.layerwise import layer_search
from gfs_dist.pruning.layerwise.layer_search import (
    LinearMap,
    read_maps,
    undamped_losses,
    write_maps,
)
from gfs_dist.pruning.layerwise.refit import DAMPING
from gfs_dist.selection.block import BlockMoments

CANDIDATES = 11


def make_map(block: int, outputs: int, seed: int) -> LinearMap:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, CANDIDATES * block, dtype=torch.float64, generator=generator)
    weights = torch.randn(x.shape[1], outputs, dtype=torch.float64, generator=generator)
    inputs = x.T @ x / len(x)
    target = inputs @ weights
    return LinearMap(BlockMoments(inputs, target, float((weights * target).sum())), weights)


@pytest.mark.parametrize("columns", [1, 8, 512])
@pytest.mark.parametrize("at_once", [1, 4, 16])
@pytest.mark.parametrize("block", [1, 4])
def test_losses_of_all_prefixes_are_those_of_each_fit(
    block: int, at_once: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_search, "PICKS_AT_ONCE", at_once)
    monkeypatch.setattr(layer_search, "COLUMNS", columns)
    maps = [make_map(block, outputs, seed=outputs) for outputs in (3, 7)]
    picks = torch.randperm(CANDIDATES, generator=torch.Generator().manual_seed(0)).tolist()[:9]
    found = undamped_losses(maps, CANDIDATES, picks)
    expected = []
    for k in range(1, len(picks) + 1):
        rows = torch.tensor([p * block + i for p in picks[:k] for i in range(block)])
        loss = 0.0
        for m in maps:
            inputs, target = m.moments.inputs[rows][:, rows], m.moments.target[rows]
            damping = DAMPING * m.moments.inputs.diagonal().mean()
            fit = torch.linalg.solve(inputs + damping * torch.eye(len(rows)), target)
            loss += m.moments.energy + float((fit * (inputs @ fit - 2 * target)).sum())
        expected.append(loss / 2)
    assert found == pytest.approx(expected, rel=1e-9)


def test_losses_have_the_same_bits_for_any_number_of_threads() -> None:
    maps = [make_map(60, 600, seed=0)]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(undamped_losses(maps, CANDIDATES, range(CANDIDATES)))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_maps_come_back_from_their_file(tmp_path: Path) -> None:
    maps = [make_map(4, outputs, seed=outputs) for outputs in (3, 7)]
    write_maps(tmp_path / "maps.safetensors", maps)
    for found, given in zip(read_maps(tmp_path / "maps.safetensors"), maps, strict=True):
        assert found.moments.energy == given.moments.energy
        assert torch.equal(found.moments.inputs, given.moments.inputs)
        assert torch.equal(found.moments.target, given.moments.target)
        assert torch.equal(found.weights, given.weights)
