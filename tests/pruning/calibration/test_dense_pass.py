"""The dense pass on several chunks together."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from gfs_dist.errors import NonFiniteError
from gfs_dist.networks.graph.record import record
from gfs_dist.pruning.calibration.dense_pass import DensePass
from gfs_dist.pruning.calibration.layer_sites import find_sites
from gfs_dist.pruning.calibration.moments import add
from gfs_dist.pruning.calibration.staged_run import DENSE, MemoryStore
from gfs_dist.pruning.calibration.workspace import MIN_POSITIONS, Workspace
from tests.pruning import zoo


class Tokens(nn.Module):
    """Samples are the second axis of what its layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x.transpose(0, 1)).relu()).relu()).mean(0)


NETWORKS = {"plain CNN": (zoo.plain_cnn, (3, 8, 8)), "tokens": (Tokens, (4, 5))}


def make_pass(name: str) -> tuple[DensePass, MemoryStore]:
    """On three chunks, the last of fewer samples."""
    torch.manual_seed(0)
    maker, shape = NETWORKS[name]
    network = maker().double().eval()
    x = torch.randn(8, *shape, dtype=torch.float64)
    recorded = record(network, x[:2])
    dense = DensePass(recorded, find_sites(recorded, x[:2]))
    store = MemoryStore()
    for chunk, part in enumerate(x.split(3)):
        store.save(DENSE, 0, chunk, {recorded.gfs_inputs[0]: part})
    return dense, store


@pytest.mark.parametrize("name", NETWORKS)
def test_chunks_together_give_the_sum_of_each(name: str) -> None:
    dense, store = make_pass(name)
    assert dense.sites
    for stage in range(len(dense.sites)):
        together = dense.sums(stage, range(3), store)
        each = [dense.sums(stage, [chunk], store) for chunk in range(3)]
        added = functools.reduce(add, each, None)
        assert added is not None
        assert together.keys() == added.keys()
        for name, found in together.items():
            torch.testing.assert_close(found, added[name])


def test_chunks_of_few_positions_go_together() -> None:
    workspace = Workspace("nowhere", 640, 320, labelled=False)
    parts, positions = workspace.parts(), 36
    count = -(-MIN_POSITIONS // (2 * positions))
    for part, groups in zip(parts, workspace.batches_of(parts, positions), strict=True):
        assert [i for group in groups for i in group] == list(part)
        assert {len(group) for group in groups[:-1]} <= {count}
    assert all(
        len(group) == 1 for [*groups] in workspace.batches_of(parts, 1024) for group in groups
    )


def test_the_chunk_that_is_not_finite_is_named() -> None:
    dense, store = make_pass("plain CNN")
    (name,) = dense.network.gfs_inputs
    x = store.load(DENSE, 0, 1)[name].clone()
    x[2, 0, 0, 0] = torch.nan
    store.save(DENSE, 0, 1, {name: x})
    with pytest.raises(NonFiniteError, match=r"first at sample 2 of chunk 1"):
        dense.sums(0, range(3), store)
