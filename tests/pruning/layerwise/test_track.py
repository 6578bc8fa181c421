"""A network run in stages computes what it computes in one go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gfs_dist.networks import make
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.record import record
from gfs_dist.pruning.calibration.activation_store import Environments, InFiles, InMemory
from gfs_dist.pruning.calibration.layer_sites import find_sites
from gfs_dist.pruning.calibration.staged_run import (
    Results,
    advance,
    keep,
    make_stages,
    output_names,
)
from tests.networks import nets
from tests.pruning.zoo import images

CATALOG = ("resnet20_cifar", "resnet18_cifar", "resnet50_cifar", "mobilenet_v2_cifar")
OTHERS = ("dense", "squeeze_excite", "padded", "conditions", "mlp")


def recorded(name: str) -> tuple[GraphNetwork, Tensor]:
    torch.manual_seed(0)
    if name in CATALOG:
        network, x = make(name, 5), images(16)
    else:
        build, shape = nets.TRACED[name]
        network, x = build(), torch.randn(3, *shape)
    return record(network.eval(), x), x


def asked_of(network: GraphNetwork, x: Tensor) -> list[frozenset[str]]:
    """Site by site, as a sweep does; then the output."""
    sites = find_sites(network, x)
    return [*(frozenset([site.source, site.stream]) for site in sites), output_names(network)]


def equal(one: object, two: object) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return torch.equal(one, two)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return type(one) is type(two) and all(map(equal, one, two))
    return type(one) is type(two) and one == two


def staged(network: GraphNetwork, x: Tensor, envs: Environments, chunk: int = 0) -> list[Results]:
    """What each stage was asked for, with all that lies between stages put away and fetched."""
    asked = asked_of(network, x)
    envs.save("dense", 0, chunk, {network.gfs_inputs[0]: x})
    found = []
    for number, (stage, names) in enumerate(zip(make_stages(network, asked), asked, strict=True)):
        results = advance(network, stage, envs.load("dense", number, chunk))
        found.append(keep(results, names))
        assert found[-1].keys() == names
        envs.save("dense", number + 1, chunk, keep(results, stage.live))
        envs.drop("dense", number)
    return found


@pytest.mark.parametrize("name", [*CATALOG, *OTHERS])
def test_stages_give_what_the_whole_run_gives(name: str, tmp_path: Path) -> None:
    network, x = recorded(name)
    in_memory, in_files = staged(network, x, InMemory()), staged(network, x, InFiles(tmp_path))
    for one, two in zip(in_memory, in_files, strict=True):
        assert one.keys() == two.keys()
        assert all(equal(one[key], two[key]) for key in one)
    (output,) = output_names(network)
    with torch.no_grad():
        assert torch.equal(in_memory[-1][output], network(x))
    assert not list(tmp_path.glob("dense_0000_*"))


@pytest.mark.parametrize("name", ["resnet18_cifar", "squeeze_excite"])
def test_each_step_runs_once_and_nothing_is_kept_without_need(name: str) -> None:
    network, x = recorded(name)
    asked = asked_of(network, x)
    stages = make_stages(network, asked)
    ran = [step.name for stage in stages for step in stage.steps]
    assert len(ran) == len(set(ran))
    assert stages[-1].live == frozenset()
    for number, stage in enumerate(stages):
        later = stages[number + 1 :]
        used = {name for other in later for step in other.steps for name in step.needs}
        used |= frozenset().union(*asked[number + 1 :])
        assert stage.live <= used


def test_a_stage_leaves_the_results_it_is_given_alone() -> None:
    network = record(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)), torch.randn(2, 3))
    given = {network.gfs_inputs[0]: -torch.ones(2, 3)}
    advance(network, make_stages(network, [output_names(network)])[0], given)
    assert list(given) == network.gfs_inputs
    assert torch.equal(given[network.gfs_inputs[0]], -torch.ones(2, 3))


def test_what_is_asked_for_twice_is_there_twice() -> None:
    network, x = recorded("resnet20_cifar")
    site = find_sites(network, x)[3]
    asked = [frozenset([site.source]), frozenset([site.source, site.stream])]
    first, second = make_stages(network, asked)
    assert site.source in first.live
    results = advance(network, first, {network.gfs_inputs[0]: x})
    again = advance(network, second, keep(results, first.live))
    assert torch.equal(again[site.source], results[site.source])
