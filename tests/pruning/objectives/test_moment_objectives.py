"""Losses of all prefixes of a path, and inner products of contributions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gfs_dist.errors import NonFiniteError
from gfs_dist.pruning.objectives import moment_objectives
from gfs_dist.pruning.objectives.moment_objectives import LinearMap, gram_form, undamped_losses
from gfs_dist.pruning.repair.least_squares import DAMPING

CANDIDATES = 11


def make_map(block: int, outputs: int, seed: int) -> LinearMap:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, CANDIDATES * block, dtype=torch.float64, generator=generator)
    weights = torch.randn(x.shape[1], outputs, dtype=torch.float64, generator=generator)
    inputs = x.T @ x / len(x)
    target = inputs @ weights
    damping = DAMPING * float(inputs.diagonal().mean())
    return LinearMap(inputs, target, weights, float((weights * target).sum()), damping)


@pytest.mark.parametrize("columns", [1, 8, 512])
@pytest.mark.parametrize("at_once", [1, 4, 16])
@pytest.mark.parametrize("block", [1, 4])
def test_losses_of_all_prefixes_are_those_of_each_fit(
    block: int, at_once: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moment_objectives, "PICKS_AT_ONCE", at_once)
    monkeypatch.setattr(moment_objectives, "COLUMNS", columns)
    maps = [make_map(block, outputs, seed=outputs) for outputs in (3, 7)]
    picks = torch.randperm(CANDIDATES, generator=torch.Generator().manual_seed(0)).tolist()[:9]
    found = undamped_losses(maps, CANDIDATES, picks)
    expected = []
    for k in range(1, len(picks) + 1):
        rows = torch.tensor([p * block + i for p in picks[:k] for i in range(block)])
        loss = 0.0
        for m in maps:
            inputs, target = m.inputs[rows][:, rows], m.target[rows]
            fit = torch.linalg.solve(inputs + m.damping * torch.eye(len(rows)), target)
            loss += m.energy + float((fit * (inputs @ fit - 2 * target)).sum())
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


OWN = {
    "all": list(range(CANDIDATES)),
    "run": [3, 4, 5],
    "strided": [0, 3, 6, 9],
    "given": [0, 1, 4, 7, 8, 10],
    "none": [],
}


@pytest.mark.parametrize("columns", [1, 16, 512])
@pytest.mark.parametrize("own", OWN.values(), ids=OWN.keys())
def test_gram_columns_are_those_of_the_contributions(
    own: list[int], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contributions ``n V_i' x_i`` of samples whose moments are ``A``, multiplied one by one."""
    monkeypatch.setattr(moment_objectives, "COLUMNS", columns)
    maps = [make_map(4, outputs, seed=outputs) for outputs in (3, 7)]
    gram, correlation = torch.zeros(CANDIDATES, CANDIDATES), torch.zeros(CANDIDATES)
    gram, correlation, energy = gram.double(), correlation.double(), 0.0
    for m in maps:
        samples = torch.linalg.cholesky(m.inputs).T  # (samples, inputs): x'x = A
        blocks = samples.view(len(samples), CANDIDATES, 4), m.weights.view(CANDIDATES, 4, -1)
        phi = CANDIDATES * torch.einsum("snk,nko->nso", *blocks).flatten(1)
        target = (samples @ m.weights).flatten()
        gram += phi @ phi.T
        correlation += phi @ target
        energy += float(target @ target)
    candidates = torch.tensor(own, dtype=torch.int64)
    rows = torch.tensor([4 * i + k for i in own for k in range(4)], dtype=torch.int64)
    mine = [replace(m, inputs=m.inputs[rows]) for m in maps]
    found = gram_form(mine, CANDIDATES, candidates)
    torch.testing.assert_close(found[0], gram[:, candidates])
    torch.testing.assert_close(found[1], correlation)
    assert found[2] == pytest.approx(energy)


def test_nan_moments_are_refused() -> None:
    maps = [make_map(4, 3, seed=0)]
    maps[0].inputs[5, 2] = torch.nan
    with pytest.raises(NonFiniteError, match="moments: found NaN"):
        gram_form(maps, CANDIDATES, torch.arange(CANDIDATES))
