from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from gfs_dist.pruning.memory_needed import layer_costs, rank_bytes
from gfs_dist.pruning.pruner import Pruner, Settings
from gfs_dist.pruning.widths.budget import Budget
from gfs_dist.pruning.widths.choose import COMPARED, TRIAL_SAMPLES
from gfs_dist.runtime import RuntimeSpec, open_runtime

HALF, KEEP = Budget.parse({"macs": 0.5}), Budget.parse({"keep": 0.5})
WIDTH = 3000
MEASURED = (1 + COMPARED) * TRIAL_SAMPLES


@pytest.fixture
def pruner(tmp_path: Path) -> Pruner:
    """A network whose second layer reads 3,000 inputs."""
    model = nn.Sequential(nn.Linear(6, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 4)).eval()
    x, labels = torch.randn(4, 6), torch.arange(4)
    runtime = open_runtime(RuntimeSpec(kind="none", workers=1, device="cpu"))
    return Pruner.prepare(model, [(x, labels)], Settings(), runtime, tmp_path / "workspace")


def test_moments_of_the_layer_with_most_inputs_are_counted(pruner: Pruner) -> None:
    assert rank_bytes(pruner, KEEP, 100) > 2 * 8 * WIDTH**2


def test_samples_beyond_those_that_widths_are_measured_on_take_no_more(pruner: Pruner) -> None:
    assert rank_bytes(pruner, HALF, 10**6) == rank_bytes(pruner, HALF, MEASURED)


def test_trials_by_the_loss_of_the_network_are_counted(pruner: Pruner) -> None:
    slow = replace(pruner, settings=Settings(objective="network_loss", steps=2))
    [cost] = layer_costs(slow, 100)
    assert cost.losses == WIDTH + WIDTH - 1
    assert rank_bytes(slow, KEEP, 100) >= max(rank_bytes(pruner, KEEP, 100), cost.memory_bytes)
