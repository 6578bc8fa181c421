from __future__ import annotations

import pytest
import torch

from gfs_dist import data
from gfs_dist.data import DataSpec
from gfs_dist.errors import DataError
from gfs_dist.networks import ACTIVATIONS, TwoLayer


def greedy(contributions: torch.Tensor, target: torch.Tensor, steps: int) -> list[int]:
    """Algorithm 1, as plainly as it can be written."""
    picks, total = [], torch.zeros_like(target)
    for k in range(1, steps + 1):
        losses = (((total + contributions) / k - target) ** 2).sum(1)
        picks.append(int(losses.argmin()))
        total = total + contributions[picks[-1]]
    return picks


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("width", "features", "planted"), [(300, 64, 10), (64, 32, 7), (12, 16, 12), (40, 8, 1)]
)
def test_greedy_selection_finds_exactly_the_planted_neurons(
    activation: str, width: int, features: int, planted: int
) -> None:
    spec = DataSpec("synthetic", features=features, planted=planted, samples=400, seed=3)
    found = data.load(spec, width=width, activation=ACTIVATIONS[activation])
    assert found.planted is not None
    network = TwoLayer(width, features, activation)
    tensors = {"hidden.weight": found.planted.hidden, "output.weight": found.planted.output}
    network.load_state_dict(tensors)
    contributions = network.contributions(found.x_train, torch.arange(width))
    picks = greedy(contributions, found.labels_train, planted)
    assert sorted(picks) == found.planted.support
    mean = contributions[found.planted.support].mean(0)
    assert torch.allclose(mean, found.labels_train, rtol=0, atol=1e-14)
    coefficients = torch.zeros(width).index_fill(0, torch.tensor(picks), 1 / planted)
    small = network.shrink(coefficients.double())
    assert torch.allclose(small(found.x_test), found.labels_test, rtol=0, atol=1e-7)


def test_the_problem_depends_on_its_seed_alone() -> None:
    first, again, other = (data.load(DataSpec("synthetic", seed=s), width=20) for s in (1, 1, 2))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert (len(first.x_train), len(first.x_test), first.features) == (2000, 500, 64)
    assert first.labels_train.dtype == torch.float64


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (DataSpec("synthetic", planted=65), r"data.planted: found 65, accepted 1 to 64"),
        (DataSpec("synthetic", planted=0), r"data.planted: found 0, accepted 1 to 64"),
        (DataSpec("synthetic", features=0), r"data.features: found 0, accepted 1 or more"),
        (DataSpec("synthetic", samples=0), r"data.samples: found 0, accepted 1 or more"),
        (DataSpec("synthetic", samples=1), r"all 1 samples are of one class"),
    ],
)
def test_what_cannot_be_planted_is_refused(spec: DataSpec, message: str) -> None:
    with pytest.raises(DataError, match=message):
        data.load(spec, width=100)


def test_more_planted_than_the_network_has_is_refused() -> None:
    with pytest.raises(DataError, match=r"accepted 1 to 5 \(model.width=5, data.features=64\)"):
        data.load(DataSpec("synthetic"), width=5)
