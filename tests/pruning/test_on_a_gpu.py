"""Pruning on a GPU: the same as on the CPU but for rounding, and the same for any ranks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import gfs_dist
from gfs_dist.networks import device_of
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.repair.batch_norm import recalibrate
from tests.pruning.zoo import ten_networks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
]

OBJECTIVES = ("least_squares", "layer_output", "fisher", "network_loss")
NETWORKS = ("ResNet18", "MobileNetV2", "DenseNet", "VGG with BN")

Batches = list[tuple[Tensor, Tensor]]


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return ten_networks()[name][0].eval()


@pytest.fixture
def batches() -> Batches:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(160, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 5, (160,), generator=generator)
    return list(zip(x.split(64), labels.split(64), strict=True))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_first_losses_are_those_of_the_cpu(objective: str, batches: Batches) -> None:
    found = [
        gfs_dist.prune(
            network_of("ResNet18"), batches, budget={"keep": 0.5}, objective=objective, device=where
        )
        for where in ("cpu", "cuda")
    ]
    for name, cpu in found[0].paths.items():
        gpu = found[1].paths[name]
        # Close calls may go either way, and later losses with them; the least one is the same.
        assert math.isclose(cpu.loss[0], gpu.loss[0], rel_tol=1e-3, abs_tol=1e-6), name
    assert found[1].report["macs"] == found[0].report["macs"]


def test_streams_are_repaired_as_well_as_on_the_cpu(batches: Batches) -> None:
    x = torch.cat([x for x, _ in batches])
    network = network_of("ResNet18")
    with torch.no_grad():
        dense = network(x)
    lost = []
    for where, repaired in (("cuda", False), ("cpu", True), ("cuda", True), ("cuda", True)):
        small = gfs_dist.prune(
            network, batches, budget={"keep": 0.5}, streams=repaired, stream_steps=40, device=where
        ).model
        with torch.no_grad():
            lost.append(float((small(x) - dense).square().mean()))
    without, cpu, gpu, again = lost
    assert gpu == again
    assert max(cpu, gpu) < without
    assert math.isclose(cpu, gpu, rel_tol=0.2)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_refitted_network_is_as_good_as_on_the_cpu(name: str, batches: Batches) -> None:
    x = torch.cat([x for x, _ in batches])
    network = network_of(name)
    with torch.no_grad():
        dense = network(x)
    lost = []
    for where in ("cpu", "cuda"):
        small = gfs_dist.prune(network, batches, budget={"keep": 0.7}, device=where).model
        assert device_of(small).type == "cpu"  # where the network that was given is
        with torch.no_grad():
            lost.append(float((small(x) - dense).square().mean()))
    assert math.isclose(lost[0], lost[1], rel_tol=0.05, abs_tol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ranks_that_share_a_gpu_pick_what_one_does(objective: str, batches: Batches) -> None:
    reports = [
        gfs_dist.prune(
            network_of("ResNet18"),
            batches,
            budget={"macs": 0.6, "trials": 12},
            objective=objective,
            runtime="local",
            workers=workers,
            device="cuda",
        ).report
        for workers in (1, 2)
    ]
    assert reports[0]["widths"] == reports[1]["widths"]
    assert reports[0]["picks_sha256"] == reports[1]["picks_sha256"]


def test_batch_norms_are_measured_where_the_network_is(
    batches: Batches, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = []
    for where in ("cpu", "cuda"):
        folder = tmp_path_factory.mktemp(where)
        workspace = Workspace.create(folder / "work", network_of("ResNet18"), batches)
        network = workspace.dense().to(where)
        recalibrate(network, (x for x, _ in batches))
        assert device_of(network).type == where
        made.append({name: value.cpu() for name, value in network.state_dict().items()})
    for name, value in made[0].items():
        torch.testing.assert_close(made[1][name], value, rtol=1e-3, atol=1e-4, msg=name)
