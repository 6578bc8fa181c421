"""How far a smaller network's outputs are from the dense one's, and that fronts are shared."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from gfs_dist import networks
from gfs_dist.pruning.calibration.moments import Sums, sum_chunks
from gfs_dist.pruning.calibration.staged_run import DENSE, SMALL, MemoryStore
from gfs_dist.pruning.pruner import Pruner, Settings
from gfs_dist.pruning.repair.sweep import NetworkPair, Visit, sweep
from gfs_dist.pruning.smaller import KeptChannels
from gfs_dist.pruning.widths import fitted_front
from gfs_dist.pruning.widths.width_trial import WidthTrial, squares
from gfs_dist.runtime import InProcessRuntime, RuntimeSpec, open_runtime

CPU = torch.device("cpu")


def test_the_difference_is_the_sum_of_squares() -> None:
    dense, small = torch.full((3, 2, 4), 2.0), torch.full((3, 2, 4), 1.0)
    assert squares(dense, small) == (24.0, 96.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_no_numbers_are_infinitely_far(value: float) -> None:
    assert squares(torch.ones(2, 3), torch.full((2, 3), value)) == (math.inf, 6.0)


@pytest.fixture
def pruner(tmp_path: Path) -> Pruner:
    torch.manual_seed(0)
    model = networks.make("resnet8_cifar", 10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    batches = [torch.randn(64, 3, 16, 16) for _ in range(5)]
    runtime = open_runtime(RuntimeSpec(kind="none", workers=1, device="cpu"))
    assert isinstance(runtime, InProcessRuntime)
    return Pruner.prepare(model.eval(), batches, Settings(), runtime, tmp_path / "workspace")


def trial(pruner: Pruner) -> WidthTrial:
    sites = pruner.consumer_sites(pruner.structure.layers)
    return WidthTrial(pruner.workspace, pruner.structure, sites, (0, 1), (2, 3, 4))


def by_hand(task: WidthTrial, kept: KeptChannels) -> float:
    """Cut and fitted in one sweep, and run as a whole."""
    dense = task.workspace.dense()
    pair = NetworkPair.of_cut(dense, task.structure, kept, task.sites)
    store = MemoryStore()
    for chunk in task.fitted:
        for name in (DENSE, SMALL):
            store.save(name, 0, chunk, {dense.gfs_inputs[0]: task.workspace.x(chunk)})

    def sum_up(visit: Visit) -> Sums:
        return sum_chunks(lambda chunk: pair.sums(visit, chunk, store), task.fitted)

    sweep(pair, sum_up, repeats=0)
    with torch.no_grad():
        both = [(dense(x), pair.small(x)) for x in map(task.workspace.x, task.compared)]
    apart = [squares(*outputs) for outputs in both]
    return sum(one for one, _ in apart) / sum(whole for _, whole in apart)


def test_a_shared_front_changes_nothing(pruner: Pruner, monkeypatch: pytest.MonkeyPatch) -> None:
    task, full = trial(pruner), pruner.channels
    anchor = KeptChannels({name: tuple(range(n // 2)) for name, n in full.items()})
    last = list(full)[-1]
    others = [
        KeptChannels({**anchor.candidates, name: tuple(range(0, n, 3))}) for name, n in full.items()
    ]
    whole = KeptChannels({n: kept for n, kept in anchor.candidates.items() if n != last})
    wanted = [anchor, *others, whole, others[0]]
    expected = [by_hand(task, kept) for kept in wanted]
    fits = 0

    class Counted(fitted_front.Fit):
        def solve(self, *args: object) -> None:
            nonlocal fits
            fits += 1
            super().solve(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(fitted_front, "Fit", Counted)
    assert [task.run((kept, kept), CPU, lambda: None) for kept in wanted] == expected
    alone, fits = fits, 0
    assert [task.run((kept, anchor), CPU, lambda: None) for kept in wanted[1:-1]] == expected[1:-1]
    assert task.run((others[0], anchor), CPU, lambda: None) == expected[-1]
    assert fits < alone
