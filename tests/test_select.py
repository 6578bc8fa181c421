"""``gfs_dist.select``: the search from Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gfs_dist
from gfs_dist.api import as_tensor
from gfs_dist.selection.path import GreedyPath


def hard_problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    contributions = rng.standard_normal((300, 60))
    return contributions, contributions[:, :9].mean(1) + 0.1 * rng.standard_normal(300)


@pytest.fixture(scope="module")
def alone() -> GreedyPath:
    return gfs_dist.select(*hard_problem(), steps=50)


def test_the_path_is_what_the_interface_says(alone) -> None:
    contributions, target = hard_problem()
    assert all(isinstance(pick, int) for pick in alone.picks)
    assert len(alone.picks) == len(alone.loss) == 50
    output = contributions @ alone.coefficients(50).numpy()
    assert ((output - target) ** 2).mean() / 2 == pytest.approx(alone.loss[49])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_and_arrays_of_any_float_are_taken_and_left_alone(dtype) -> None:
    contributions, target = (torch.as_tensor(a, dtype=dtype) for a in hard_problem())
    before = contributions.clone(), target.clone()
    contributions.requires_grad_()
    path = gfs_dist.select(contributions, target, steps=20)
    same = gfs_dist.select(contributions.detach().numpy(), target.numpy(), steps=20)
    assert path == same
    assert torch.equal(contributions, before[0])
    assert torch.equal(target, before[1])
    assert contributions.requires_grad


@pytest.mark.parametrize(
    "ranks",
    [
        {"workers": 2},
        {"workers": 3, "partition": "strided", "graph": "star", "method": "streaming"},
        {"workers": 2, "partition": [[5], [i for i in range(60) if i != 5]], "method": "lazy"},
    ],
)
def test_workers_pick_the_same(alone, ranks) -> None:
    path = gfs_dist.select(*hard_problem(), steps=50, runtime="local", **ranks)
    assert path.picks == alone.picks
    np.testing.assert_allclose(path.loss, alone.loss, rtol=1e-10)


def test_ray_actors_pick_the_same(alone, embedded_ray) -> None:
    path = gfs_dist.select(*hard_problem(), steps=50, runtime="ray", workers=2)
    assert path.picks == alone.picks


def test_a_killed_worker_is_survived(alone, monkeypatch) -> None:
    monkeypatch.setenv("GFS_FAULTS", '[{"rank": 1, "step": 7, "kind": "kill"}]')
    path = gfs_dist.select(*hard_problem(), steps=50, runtime="local", workers=2)
    assert path.picks == alone.picks


def test_refitted_weights_are_known_also_by_workers(monkeypatch) -> None:
    contributions, target = hard_problem()
    path = gfs_dist.select(contributions, target, loss="least_squares", distinct=30)
    monkeypatch.setenv("GFS_FAULTS", '[{"rank": 1, "step": 7, "kind": "kill"}]')
    ranks = {"runtime": "local", "workers": 2, "partition": "strided", "graph": "ring"}
    same = gfs_dist.select(contributions, target, loss="least_squares", distinct=30, **ranks)
    assert same.picks == path.picks
    for k in (1, 12, 30):
        output = contributions @ same.coefficients(k).numpy()
        assert ((output - target) ** 2).mean() / 2 == pytest.approx(path.loss[k - 1])


def test_moments_give_the_same_path_alone_and_by_workers(alone) -> None:
    a, y = hard_problem()
    moments = {"gram": a.T @ a / 300, "correlation": a.T @ y / 300, "energy": y @ y / 300}
    assert gfs_dist.select(**moments, steps=50).picks == alone.picks
    by_workers = gfs_dist.select(**moments, steps=50, workers=2, runtime="local")
    assert by_workers.picks == alone.picks


@pytest.mark.parametrize("moments", [True, False])
def test_tolerance_is_counted_from_the_mean_of_all_neurons(moments) -> None:
    a, y = hard_problem()
    given = (
        {"gram": a.T @ a / 300, "correlation": a.T @ y / 300, "energy": y @ y / 300}
        if moments
        else {"contributions": a, "target": y}
    )
    dense = ((a.mean(1) - y) ** 2).mean() / 2
    path = gfs_dist.select(**given, tolerance=0.001, steps=1000)
    assert path.stop_reason == "tolerance"
    assert path.loss[-1] <= dense + 0.001
    assert len(path) == 1 or path.loss[-2] > dense + 0.001


def test_classes_and_logits_are_searched_too() -> None:
    rng = np.random.default_rng(1)
    contributions = rng.standard_normal((80, 30, 4))
    classes = contributions[:, :6].mean(1).argmax(1)
    path = gfs_dist.select(contributions, classes, loss="cross_entropy", steps=15)
    slow = gfs_dist.select(
        contributions, classes, loss="cross_entropy", steps=15, method="exhaustive"
    )
    assert path.picks == slow.picks
    assert path.loss[-1] < np.log(4)


def test_distinct_alone_is_reached_however_many_picks_it_takes() -> None:
    contributions, target = np.eye(250), np.full(250, 1 / 250)  # every neuron once
    path = gfs_dist.select(contributions, target, distinct=240)
    assert (path.num_kept, len(path), path.stop_reason) == (240, 240, "distinct")
    assert len(gfs_dist.select(contributions, target)) == 200
    with pytest.warns(RuntimeWarning, match="100 distinct neurons, not 240: the 100 picks allowed"):
        gfs_dist.select(contributions, target, distinct=240, steps=100)


@pytest.mark.parametrize(("distinct", "repeats"), [(2, 200), (15, 300), (20, 400)])
def test_distinct_alone_is_reached_where_picks_repeat_for_ever(distinct: int, repeats: int) -> None:
    contributions = np.eye(20)  # the first neuron alone is the target
    path = gfs_dist.select(contributions, contributions[:, 0], distinct=distinct)
    assert path.picks == [0] * repeats + [*range(1, distinct)]
    said = "1 distinct neurons, not 2: the 300 picks allowed .*without replacement"
    with pytest.warns(RuntimeWarning, match=said):
        gfs_dist.select(contributions, contributions[:, 0], distinct=2, steps=300)


def test_a_tolerance_that_is_not_reached_is_told() -> None:
    contributions, target = np.eye(4), np.full(4, 0.25)  # one pick: 3/32, all four: 0
    with pytest.warns(RuntimeWarning, match=r"loss 0.09375, not 0 \(tolerance\): the 1 picks"):
        gfs_dist.select(contributions, target, tolerance=0, steps=1)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"steps": 0}, ValueError, "steps: found 0, accepted 1 or more"),
        ({"steps": "x"}, ValueError, "steps: found .x., accepted a whole number of 1 or more"),
        ({"distinct": 61}, ValueError, r"distinct: found 61, accepted 1 to 60"),
        ({"loss": "hinge"}, ValueError, "loss: found 'hinge', accepted squared, bce"),
        ({"weights": "even"}, ValueError, "weights: found 'even', accepted uniform, line_search"),
        ({"method": "fast"}, ValueError, "method: found 'fast', accepted auto, panel"),
        ({"runtime": "slurm"}, ValueError, "runtime: found 'slurm', accepted ray, local, none"),
        ({"workers": 2}, ValueError, "workers: found 2, accepted 1"),
        ({"graph": "ring"}, ValueError, "graph: found 'ring', accepted None"),
        ({"replacement": "false"}, TypeError, "replacement: found 'false', accepted True or False"),
        ({"workers": 0}, ValueError, "workers: found 0, accepted 1 or more"),
        ({"partition": "random"}, ValueError, "partition: found 'random', accepted contiguous"),
        ({"partition": [[0, 1]]}, ValueError, "partition: found 2 candidates, accepted 60"),
        ({"tolerance": -1.0}, ValueError, "tolerance: found -1.0, accepted 0 or more"),
        ({"target": np.zeros(7)}, ValueError, r"target: found shape \(7,\), accepted \(300,\)"),
        ({"target": None}, TypeError, "target: missing"),
        ({"contributions": "x"}, TypeError, "contributions: found str, accepted a torch tensor"),
        ({"gram": np.eye(3)}, ValueError, "gram: found together with contributions"),
    ],
)
def test_bad_arguments_are_named(arguments, kind, message) -> None:
    contributions, target = hard_problem()
    with pytest.raises(kind, match=message):
        gfs_dist.select(**{"contributions": contributions, "target": target} | arguments)


def test_moments_go_together() -> None:
    with pytest.raises(ValueError, match="correlation: missing; gram, correlation and energy"):
        gfs_dist.select(gram=np.eye(3), energy=1.0)
    with pytest.raises(ValueError, match="moments give loss='squared'"):
        gfs_dist.select(gram=np.eye(3), correlation=np.ones(3), energy=1.0, loss="bce")


def test_nan_is_named_by_neuron_and_sample_wherever_it_is_found() -> None:
    contributions, target = hard_problem()
    contributions[17, 50] = np.nan
    for ranks in ({}, {"runtime": "local", "workers": 2}):
        with pytest.raises(ValueError, match="neuron 50, sample 17 holds nan"):
            gfs_dist.select(contributions, target, **ranks)


def test_arrays_are_taken_without_copying_and_others_refused() -> None:
    array = np.ones((3, 2), dtype=np.float32)
    assert as_tensor("x", array).data_ptr() == array.ctypes.data
    assert as_tensor("x", np.ones((3, 2), dtype=np.int64)).dtype == torch.float64
    with pytest.raises(TypeError, match="contributions: found list, accepted a torch tensor"):
        as_tensor("contributions", [[1.0]])
    for wrong in (np.ones(3, dtype=complex), np.array(["a"]), np.array([None])):
        with pytest.raises(
            TypeError, match=f"target: found {wrong.dtype}, accepted real".replace("<", ".")
        ):
            as_tensor("target", wrong)
    with pytest.raises(TypeError, match=r"x: found torch.sparse_coo, accepted dense real"):
        as_tensor("x", torch.ones(2, 2).to_sparse())


def test_arrays_of_any_layout_are_taken() -> None:
    contributions, target = hard_problem()
    expected = gfs_dist.select(contributions[::-1].copy(), target[::-1].copy(), steps=9)
    frozen = target[::-1].copy()
    frozen.flags.writeable = False
    assert gfs_dist.select(contributions[::-1], frozen, steps=9).picks == expected.picks
    big_endian = contributions[::-1].astype(">f8")
    assert gfs_dist.select(big_endian, frozen, steps=9).picks == expected.picks
    labels = gfs_dist.select(contributions, target > 0, loss="bce", steps=3)
    assert (
        labels.picks
        == gfs_dist.select(contributions, (target > 0) * 1.0, loss="bce", steps=3).picks
    )
