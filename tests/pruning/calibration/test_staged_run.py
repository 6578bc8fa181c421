"""A network run in stages computes what it computes in one go, whatever store lies in between."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gfs_dist.errors import StorageError
from gfs_dist.networks import make
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.record import record
from gfs_dist.pruning.calibration.layer_sites import find_sites
from gfs_dist.pruning.calibration.staged_run import (
    ActivationStore,
    FileStore,
    HeldStore,
    MemoryStore,
    Results,
    advance,
    keep,
    make_stages,
    output_names,
    run_to,
)
from tests.networks import nets
from tests.pruning.zoo import images

CATALOG = ("resnet20_cifar", "mobilenet_v2_cifar")
OTHERS = ("dense", "squeeze_excite", "padded", "conditions", "mlp")


@pytest.fixture(params=["memory", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ActivationStore:
    return MemoryStore() if request.param == "memory" else FileStore(tmp_path)


def recorded(name: str) -> tuple[GraphNetwork, Tensor]:
    torch.manual_seed(0)
    if name in CATALOG:
        network, x = make(name, 5), images(16)
    else:
        build, shape = nets.TRACED[name]
        network, x = build(), torch.randn(3, *shape)
    return record(network.eval(), x), x


def asked_of(network: GraphNetwork, x: Tensor) -> list[frozenset[str]]:
    """Site by site, as a sweep asks; then the output."""
    sites = find_sites(network, x)
    return [*(frozenset([site.source, site.stream]) for site in sites), output_names(network)]


def equal(one: object, two: object) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return type(one) is type(two) and all(map(equal, one, two))
    return type(one) is type(two) and one == two


def staged(network: GraphNetwork, x: Tensor, store: ActivationStore) -> list[Results]:
    """What each stage was asked for, with the other results stored between stages."""
    asked = asked_of(network, x)
    store.save("dense", 0, 0, {network.gfs_inputs[0]: x})
    found = []
    for number, (stage, names) in enumerate(zip(make_stages(network, asked), asked, strict=True)):
        results = advance(network, stage, store.load("dense", number, 0))
        assert results.keys() <= stage.asked | stage.live
        found.append(keep(results, names))
        assert found[-1].keys() == names
        store.save("dense", number + 1, 0, keep(results, stage.live))
        store.drop("dense", number)
    return found


@pytest.mark.parametrize("name", [*CATALOG, *OTHERS])
def test_stages_give_what_the_whole_run_gives(name: str, tmp_path: Path) -> None:
    network, x = recorded(name)
    in_memory, in_files = staged(network, x, MemoryStore()), staged(network, x, FileStore(tmp_path))
    for one, two in zip(in_memory, in_files, strict=True):
        assert one.keys() == two.keys()
        assert all(equal(one[key], two[key]) for key in one)
    (output,) = output_names(network)
    with torch.no_grad():
        assert torch.equal(in_memory[-1][output], network(x))
    assert not list(tmp_path.glob("dense_0000_*"))


@pytest.mark.parametrize("name", ["resnet20_cifar", "padded"])
@pytest.mark.parametrize("most", [0, 2**30])
def test_what_may_not_be_held_is_in_files_and_what_is_lost_is_made_again(
    name: str, most: int, tmp_path: Path
) -> None:
    network, x = recorded(name)
    stages, made = make_stages(network, asked_of(network, x)), []

    def make_again(_: str, stage: int, chunk: int) -> Results:
        made.append((stage, chunk))
        return run_to(network, stages[:stage], x)

    def new() -> HeldStore:
        return HeldStore(tmp_path, "cpu", make_again, most)

    expected, store = staged(network, x, MemoryStore()), new()
    for number, stage in enumerate(stages):
        if number == len(stages) - 1:
            store = new()  # another process
        results = advance(network, stage, store.load("dense", number, 0))
        for _ in range(2):  # a repeat of the visit
            kept = keep(results, stage.live)
            store.save("dense", number + 1, 0, kept)
            again = store.load("dense", number + 1, 0)
            assert again.keys() == kept.keys()
            assert all(equal(again[key], kept[key]) for key in kept)
        assert all(equal(results[key], expected[number][key]) for key in expected[number])
        store.drop("dense", number)
    assert made == ([(0, 0), (len(stages) - 1, 0)] if most else [(0, 0)])


@pytest.mark.parametrize("name", ["resnet20_cifar", "squeeze_excite"])
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


def test_results_asked_for_twice_are_given_twice() -> None:
    network, x = recorded("resnet20_cifar")
    site = find_sites(network, x)[3]
    asked = [frozenset([site.source]), frozenset([site.source, site.stream])]
    first, second = make_stages(network, asked)
    assert site.source in first.live
    results = advance(network, first, {network.gfs_inputs[0]: x})
    again = advance(network, second, keep(results, first.live))
    assert torch.equal(again[site.source], results[site.source])


def test_results_come_back_as_they_were(store: ActivationStore) -> None:
    whole = torch.arange(12.0).view(3, 4)
    results: Results = {
        "tensor": whole,
        "view": whole[1:, :2],
        "transposed": whole.T,
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "mask": whole > 5,
        "numbers": torch.tensor([2**40, -1]),
        "half": torch.randn(3).bfloat16(),
        "chunks": (whole[:, :2], whole[:, 2:]),
        "list": [whole, 3, None],
        "nested": ((1, whole), [2.5, "text"]),
        "size": (3, 4),
        "count": 7,
        "factor": 0.1,
        "flag": False,
        "name with.dots/and slashes": 1,
        "nothing": None,
    }
    store.save("dense", 2, 5, results)
    again = store.load("dense", 2, 5)
    assert list(again) == list(results)
    assert all(equal(again[name], value) for name, value in results.items())
    assert again["tensor"].is_contiguous()
    again["tensor of another chunk"] = whole
    assert list(store.load("dense", 2, 5)) == list(results)
    store.save("dense", 2, 5, {"size": torch.Size([2, 3])})
    assert store.load("dense", 2, 5) == {"size": (2, 3)}


def test_networks_stages_and_chunks_do_not_mix(store: ActivationStore) -> None:
    places = [("dense", 0, 0), ("dense", 0, 1), ("dense", 1, 0), ("small", 0, 0)]
    for number, place in enumerate(places):
        store.save(*place, {"number": number})
    assert [store.load(*place)["number"] for place in places] == [0, 1, 2, 3]
    store.drop("dense", 0)
    assert [store.load(*place)["number"] for place in places[2:]] == [2, 3]
    for place in places[:2]:
        with pytest.raises((KeyError, FileNotFoundError)):
            store.load(*place)


def test_no_half_written_file_is_left_in_place(tmp_path: Path) -> None:
    FileStore(tmp_path).save("dense", 0, 0, {"x": torch.zeros(2)})
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]
    with pytest.raises(StorageError, match="missing"):
        FileStore(tmp_path / "missing").save("dense", 0, 0, {"x": torch.zeros(2)})


def test_a_value_of_another_kind_is_our_own_fault(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="slice"):
        FileStore(tmp_path).save("dense", 0, 0, {"x": slice(1, 2)})
