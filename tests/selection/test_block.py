"""Block orthogonal least squares, held against least squares on the chosen columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from gfs_dist.errors import InputError, NonFiniteError, ShapeError
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objectives import block_least_squares as block
from gfs_dist.selection.objectives.block_least_squares import BlockLeastSquares, BlockMoments
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop
from tests.selection.ranks import search

ALL = 10**6


@dataclass(frozen=True)
class Map:
    """Samples of one linear map: inputs (samples, n b) and target (samples, outputs)."""

    inputs: np.ndarray
    target: np.ndarray

    def moments(self, n: int, own: Tensor, damping: float = 0.0) -> BlockMoments:
        """A rank's, with a damping in units of the mean of the diagonal."""
        x, y = torch.as_tensor(self.inputs), torch.as_tensor(self.target)
        inputs, target = x.T @ x / len(x), x.T @ y / len(x)
        damping *= float(inputs.diagonal().mean())
        rows = torch.arange(len(inputs)).view(n, -1)[own].flatten()
        energy = float(y.square().sum()) / len(x)
        return BlockMoments(inputs[rows], target[rows], energy, damping)

    def loss(self, columns: Sequence[int]) -> float:
        """Of the least-squares fit on these columns."""
        x = self.inputs[:, columns]
        residual = self.target - x @ np.linalg.lstsq(x, self.target, rcond=None)[0]
        return float(np.square(residual).sum()) / 2 / len(x)


def make_map(seed: int, n: int, b: int, outputs: int = 4, samples: int | None = None) -> Map:
    """Correlated inputs; the target depends on some candidates more than on others."""
    rng = np.random.default_rng(seed)
    samples = samples or 2 * n * b + 20
    mixing = np.eye(n * b) + 0.3 * rng.standard_normal((n * b, n * b)) / np.sqrt(b)
    inputs = rng.standard_normal((samples, n * b)) @ mixing
    weights = rng.standard_normal((n, b, outputs)) * rng.exponential(1.0, (n, 1, 1))
    target = inputs @ weights.reshape(n * b, outputs)
    return Map(inputs, target + rng.standard_normal(target.shape))


def loss_of(maps: Sequence[Map], n: int, picks: Sequence[int]) -> float:
    """Of all maps refitted on the picks."""
    total = 0.0
    for m in maps:
        b = m.inputs.shape[1] // n
        total += m.loss([pick * b + place for pick in picks for place in range(b)])
    return total


def objective_of(
    maps: Sequence[Map], n: int, own: Tensor | None = None, damping: float = 0.0
) -> BlockLeastSquares:
    own = torch.arange(n) if own is None else own
    return BlockLeastSquares([m.moments(n, own, damping) for m in maps], n, own)


def path_of(maps: Sequence[Map], n: int, damping: float = 0.0) -> GreedyPath:
    """To every width."""
    return greedy(objective_of(maps, n, damping=damping), Stop(ALL))


@pytest.mark.parametrize("flush", [1, 27, 128])
@pytest.mark.parametrize("blocks", [(1,), (3,), (9,), (3, 1)], ids=str)
def test_each_pick_is_the_best_of_all_refits(monkeypatch, blocks, flush) -> None:
    monkeypatch.setattr(block, "FLUSH", flush)
    n = 14
    maps = [make_map(seed, n, b) for seed, b in enumerate(blocks)]
    path = path_of(maps, n)
    chosen: list[int] = []
    for pick, loss, gap in zip(path.picks, path.loss, path.gap, strict=True):
        losses = {i: loss_of(maps, n, [*chosen, i]) for i in range(n) if i not in chosen}
        best = min(losses, key=losses.__getitem__)
        assert pick == best
        assert loss == pytest.approx(losses[best], rel=1e-9)
        others = [other for i, other in losses.items() if i != best]
        if others:
            assert gap == pytest.approx(min(others) - losses[best], rel=1e-6)
        chosen.append(pick)
    assert sorted(chosen) == list(range(n))
    assert path.stop_reason == "exhausted"


@pytest.mark.parametrize(("n", "b"), [(600, 1), (180, 3), (60, 9), (12, 50)])
def test_losses_over_several_flushes_fall_to_the_full_fit(n, b) -> None:
    maps = [make_map(b, n, b, outputs=3)]
    path = path_of(maps, n)
    assert n > 2 * max(1, block.FLUSH // b)
    assert path.loss == sorted(path.loss, reverse=True)
    assert sorted(path.picks) == list(range(n))
    for k in (1, n // 3, n // 2, n - 1, n):
        assert path.loss[k - 1] == pytest.approx(loss_of(maps, n, path.picks[:k]), rel=1e-8)


def test_a_planted_support_is_found_first() -> None:
    n, b = 20, 3
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((200, n * b))
    planted = [4, 11, 17]
    columns = [i * b + place for i in planted for place in range(b)]
    target = inputs[:, columns] @ rng.standard_normal((3 * b, 5))
    path = path_of([Map(inputs, target)], n)
    assert sorted(path.picks[:3]) == planted
    assert path.loss[2] == pytest.approx(0, abs=1e-12 * path.loss[0])


def partitions(n: int) -> list[Partition]:
    """1-4 ranks; runs, strides, given parts, empty ones."""
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    empty = torch.empty(0, dtype=torch.int64)
    return [
        *(Partition.contiguous(n, ranks) for ranks in (1, 2, 3, 4)),
        *(Partition.strided(n, ranks) for ranks in (2, 3, 4)),
        Partition([shuffled[:3], shuffled[3:20], shuffled[20:]]),
        Partition([empty, shuffled[5:], empty, shuffled[:5]]),
    ]


@pytest.mark.parametrize("kind", ["plain", "duplicates"])
def test_picks_do_not_depend_on_ranks(kind) -> None:
    n = 36
    maps = [make_map(0, n, 9), make_map(1, n, 1)]
    if kind == "duplicates":
        for m, b in zip(maps, (9, 1), strict=True):
            blocks = m.inputs.reshape(len(m.inputs), n, b)
            blocks[:, 20:30] = blocks[:, 5:15]
    expected = path_of(maps, n, damping=1e-4)
    for partition in partitions(n):
        paths, _ = search(
            lambda own: objective_of(maps, n, own, damping=1e-4), partition, Stop(ALL)
        )
        for path in paths:
            assert path.picks == expected.picks
            assert path.loss == pytest.approx(expected.loss, rel=1e-9)


def test_what_travels_is_the_winners_rows() -> None:
    n, b, outputs = 10, 3, 4
    maps = [make_map(0, n, b, outputs)]
    _, threads = search(lambda own: objective_of(maps, n, own), Partition.contiguous(n, 2), Stop(4))
    assert threads.shared_bytes == 4 * 8 * (b * n * b + b * outputs)


@pytest.mark.parametrize("done", [1, 13, 14, 15, 28, 39])
def test_a_search_goes_on_from_any_prefix(monkeypatch, done) -> None:
    """A flush comes after every 14 picks."""
    monkeypatch.setattr(block, "FLUSH", 14 * 9)
    n = 40
    maps = [make_map(2, n, 9)]
    whole = path_of(maps, n)
    path = greedy(objective_of(maps, n), Stop(ALL), path=whole.prefix(done))
    assert path.picks == whole.picks
    assert path.loss == pytest.approx(whole.loss, rel=1e-12)


@pytest.mark.parametrize("positions", [(30, 0, 30), (0, 30, 29), (17, 30, 5), (14, 28, 30)])
def test_ranks_at_different_positions_meet_again(monkeypatch, positions) -> None:
    """After a fault the survivors are ahead; they still send rows that are flushed by now."""
    monkeypatch.setattr(block, "FLUSH", 14 * 9)
    n = 40
    maps = [make_map(3, n, 9), make_map(4, n, 3)]
    whole = path_of(maps, n)
    partition = Partition.strided(n, 3)
    objectives = []
    for rank, position in enumerate(positions):
        ranks = [objective_of(maps, n, part) for part in partition.parts]
        search(lambda own: None, partition, Stop(position), objectives=ranks)
        assert ranks[rank].position == position
        objectives.append(ranks[rank])
    paths, _ = search(
        lambda own: None,
        partition,
        Stop(ALL),
        path=whole.prefix(max(positions)),
        objectives=objectives,
    )
    for path in paths:
        assert path.picks == whole.picks
        assert path.loss == pytest.approx(whole.loss, rel=1e-9)


def test_a_path_of_other_data_is_refused() -> None:
    n = 12
    path = path_of([make_map(5, n, 3)], n)
    with pytest.raises(InputError, match=r"path: the recorded loss of pick 1 .* has changed"):
        greedy(objective_of([make_map(6, n, 3)], n), Stop(ALL), path=path.prefix(4))


def test_ties_go_to_the_lowest_number() -> None:
    n, b = 6, 2
    given = make_map(7, n, b)
    blocks = given.inputs.reshape(-1, n, b)
    blocks[:, 1] = blocks[:, 4] = blocks[:, 3] * 1.0
    path = path_of([given], n, damping=1e-6)
    places = [path.picks.index(i) for i in (1, 3, 4)]
    assert places == sorted(places)
    assert places[1:] == [n - 2, n - 1]  # a copy of a pick has next to nothing left to give


def test_dead_candidates_come_last_and_change_nothing() -> None:
    n, b = 9, 4
    given = make_map(8, n, b)
    dead = [0, 3, 8]
    given.inputs.reshape(-1, n, b)[:, dead] = 0
    path = path_of([given], n, damping=1e-6)
    assert path.picks[-3:] == dead
    assert path.loss[-3:] == [path.loss[-4]] * 3


@pytest.mark.parametrize("energy", [0.0, 2.0])
def test_where_nothing_can_be_explained_picks_come_in_order(energy) -> None:
    moments = BlockMoments(torch.eye(8).double(), torch.zeros(8, 3).double(), energy)
    path = greedy(BlockLeastSquares([moments], 4, torch.arange(4)), Stop(ALL))
    assert path.picks == [0, 1, 2, 3]
    assert path.loss == [energy / 2] * 4


def test_moments_are_left_as_they_were() -> None:
    moments = make_map(9, 30, 9).moments(30, torch.arange(30))
    before = moments.inputs.clone(), moments.target.clone()
    greedy(BlockLeastSquares([moments], 30, torch.arange(30)), Stop(ALL))
    assert torch.equal(moments.inputs, before[0])
    assert torch.equal(moments.target, before[1])


def test_two_runs_are_bitwise_equal() -> None:
    maps = [make_map(10, 30, 9)]
    one, two = path_of(maps, 30), path_of(maps, 30)
    assert one == two


@pytest.mark.parametrize(
    ("n", "own", "rows", "told"),
    [
        (3, 3, 8, r"found inputs \(8, 8\) .* blocks of columns of 3 candidates"),
        (4, 3, 8, r"found inputs \(8, 8\) .* and of rows of 3"),
        (4, 4, 6, r"found inputs \(6, 8\) and target \(6, 3\), accepted"),
    ],
)
def test_moments_of_other_candidates_are_refused(n, own, rows, told) -> None:
    moments = BlockMoments(torch.eye(8).double()[:rows], torch.zeros(rows, 3).double(), 1.0)
    with pytest.raises(ShapeError, match=told):
        BlockLeastSquares([moments], n, torch.arange(own))


@pytest.mark.parametrize("where", ["inputs", "target", "energy"])
def test_nan_moments_are_refused(where) -> None:
    parts = {"inputs": torch.eye(8).double(), "target": torch.zeros(8, 3).double(), "energy": 1.0}
    if where == "energy":
        parts["energy"] = float("nan")
    else:
        parts[where][1, 2] = torch.inf
    with pytest.raises(NonFiniteError, match="moments: found NaN or infinite values"):
        BlockLeastSquares([BlockMoments(**parts)], 4, torch.arange(4))


@pytest.mark.parametrize("unit", [2.0**-900, 2.0**-83, 2.0**900])
def test_the_unit_of_the_moments_changes_no_pick(unit) -> None:
    """Products of two moments would overflow or vanish."""
    n, own = 12, torch.arange(12)
    given = [make_map(11, n, 3).moments(n, own, 1e-4), make_map(12, n, 1).moments(n, own, 1e-4)]
    scaled = [
        BlockMoments(m.inputs * unit, m.target * unit, m.energy * unit, m.damping * unit)
        for m in given
    ]
    one, other = (greedy(BlockLeastSquares(maps, n, own), Stop(ALL)) for maps in (given, scaled))
    assert one.picks == other.picks
    assert other.loss == pytest.approx([unit * loss for loss in one.loss], rel=1e-12, abs=0)
