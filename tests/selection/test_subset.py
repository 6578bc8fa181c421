"""The best subset for least squares, against exhaustive search and naive refits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from gfs_dist.errors import NonFiniteError, ShapeError
from gfs_dist.selection.subset import SubsetSearch, Swept

SIZES = [(7, 1, 2, 3), (8, 2, 3, 4), (6, 3, 1, 2), (5, 2, 2, 5), (6, 2, 1, 1)]
"""Candidates, inputs of each, outputs, and how many are kept."""


def problem(n: int, block: int, outputs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Moments of correlated inputs and of a target that is no map of them."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = random(80, n * block) @ random(n * block, n * block)
    target = x @ random(n * block, outputs) + 3 * random(80, outputs)
    inputs = x.T @ x
    inputs.diagonal().add_(1e-3 * inputs.diagonal().mean())
    return inputs, x.T @ target


def explained(inputs: Tensor, target: Tensor, block: int, kept: Sequence[int]) -> float:
    """``tr(B' A^-1 B)`` of some candidates, solved anew."""
    rows = [i * block + k for i in kept for k in range(block)]
    chosen = target[rows]
    return float((chosen * torch.linalg.solve(inputs[rows][:, rows], chosen)).sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "block", "outputs", "count"), SIZES)
def test_no_exchange_betters_the_subset(n, block, outputs, count, seed) -> None:
    inputs, target = problem(n, block, outputs, seed)
    search = SubsetSearch(inputs, target, n)

    def value(kept: Sequence[int]) -> float:
        return explained(inputs, target, block, kept)

    best = max(map(value, itertools.combinations(range(n), count)))
    starts = [list(range(count)), search.forward(count), search.backward(count)]
    found = search.best(starts[0])
    assert found == sorted(set(found))
    assert len(found) == count
    assert all(len(start) == count for start in starts)
    assert max(map(value, starts)) <= value(found) * (1 + 1e-9)
    assert value(found) <= best * (1 + 1e-9)
    assert value(found) >= 0.95 * best
    for i, j in itertools.product(found, set(range(n)) - set(found)):
        assert value([k for k in found if k != i] + [j]) <= value(found) * (1 + 2e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "block", "outputs", "count"), SIZES)
def test_one_sided_selection_is_greedy(n, block, outputs, count, seed) -> None:
    inputs, target = problem(n, block, outputs, seed)
    search = SubsetSearch(inputs, target, n)

    def value(kept: Sequence[int]) -> float:
        return explained(inputs, target, block, kept)

    taken: list[int] = []
    for _ in range(count):
        rest = [i for i in range(n) if i not in taken]
        taken.append(max(rest, key=lambda i: value([*taken, i])))
    assert search.forward(count) == sorted(taken)
    left = list(range(n))
    while len(left) > count:
        left.remove(max(left, key=lambda i: value([k for k in left if k != i])))
    assert search.backward(count) == left


@pytest.mark.parametrize(("n", "block", "outputs", "count"), SIZES)
def test_swept_moments_are_what_they_say_after_any_changes(n, block, outputs, count) -> None:
    inputs, target = problem(n, block, outputs, 5)
    search = SubsetSearch(inputs, target, n)
    swept = Swept(search, range(count))
    for candidate in (0, n - 1, 0, 1, n - 1, 1):
        swept.toggle(candidate)
    assert swept.members == list(range(count))
    fresh = Swept(search, swept.members)
    for name in ("matrix", "values"):
        torch.testing.assert_close(getattr(swept, name), getattr(fresh, name), rtol=1e-8, atol=1e-8)
    whole = explained(inputs, target, block, swept.members)
    for i, gain in enumerate(swept.gains().tolist()):
        other = [k for k in swept.members if k != i] if i < count else [*swept.members, i]
        value = explained(inputs, target, block, other) if other else 0.0
        assert gain == pytest.approx(abs(value - whole), rel=1e-6)


def test_the_best_exchange_is_that_of_naive_refits() -> None:
    n, block, count = 8, 2, 4
    inputs, target = problem(n, block, 3, 1)
    start = [0, 1, 2, 3]
    gains = {
        (i, j): explained(inputs, target, block, [k for k in start if k != i] + [j])
        for i in start
        for j in range(count, n)
    }
    swept = Swept(SubsetSearch(inputs, target, n), start)
    assert swept.best_exchange(0.0) == max(gains, key=lambda pair: gains[pair])
    assert swept.best_exchange(float(inputs.sum() + 1e9)) is None


def test_a_planted_subset_is_found_from_the_worst_start() -> None:
    inputs, _ = problem(10, 2, 1, 3)
    generator = torch.Generator().manual_seed(0)
    planted, weights = [1, 4, 8], torch.zeros(20, 3, dtype=torch.float64)
    for i in planted:
        weights[2 * i : 2 * i + 2] = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    search = SubsetSearch(inputs, inputs @ weights, 10)
    assert search.best([0, 2, 3]) == planted


def test_of_equal_candidates_the_first_is_kept() -> None:
    inputs, target = torch.eye(6, dtype=torch.float64), torch.ones(6, 1, dtype=torch.float64)
    search = SubsetSearch(inputs, target, 6)
    assert search.forward(2) == [0, 1]
    assert search.backward(2) == [0, 1]
    assert search.best([2, 5]) == [2, 5]  # no other is better than the start


def test_all_and_dead_candidates() -> None:
    inputs, target = problem(4, 2, 1, 0)
    assert SubsetSearch(inputs, target, 4).best(range(4)) == [0, 1, 2, 3]
    dead = torch.diag(torch.tensor([1.0, 1e-4, 1.0, 1e-4], dtype=torch.float64))
    moved = torch.tensor([[0.0], [0.0], [2.0], [0.0]], dtype=torch.float64)
    assert SubsetSearch(dead, moved, 4).best([1]) == [2]


def test_bad_moments_are_refused() -> None:
    inputs, target = problem(4, 2, 1, 0)
    with pytest.raises(ShapeError, match=r"found inputs \(8, 8\) and target \(8, 1\), .* n = 3"):
        SubsetSearch(inputs, target, 3)
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        SubsetSearch(inputs * torch.nan, target, 4)
    with pytest.raises(NonFiniteError, match="not positive definite"):
        SubsetSearch(-inputs, target, 4).best([0])


def test_exchanges_end_where_they_gain_nothing_though_they_seem_to(monkeypatch) -> None:
    def any_exchange(swept: Swept, _: float) -> tuple[int, int]:
        return swept.members[0], int((~swept.inside).nonzero()[0])

    monkeypatch.setattr(Swept, "best_exchange", any_exchange)
    inputs, target = problem(8, 2, 3, 1)
    search = SubsetSearch(inputs, target, 8)
    start = search.forward(4)
    assert search.explained(search.exchange(start)) >= search.explained(start)
