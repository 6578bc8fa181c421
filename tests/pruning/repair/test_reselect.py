"""Channels picked again in a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
import torch
from torch.nn import functional

from gfs_dist.errors import NonFiniteError
from gfs_dist.pruning.calibration.layer_sites import find_sites
from gfs_dist.pruning.calibration.moments import Sums, sum_chunks
from gfs_dist.pruning.repair import least_squares, reselect
from gfs_dist.pruning.repair.fit_rule import DAMPING, FitRule
from gfs_dist.pruning.repair.reselect import Reselection, reselectable
from gfs_dist.pruning.repair.sweep import NetworkPair, Visit, sweep
from gfs_dist.pruning.smaller import KeptChannels, check_equal, expand_to_dense
from gfs_dist.pruning.structure.discover import find_structure
from gfs_dist.selection.subset import SubsetSearch
from tests.pruning import zoo
from tests.pruning.repair.test_sweep import CHUNK, NETWORKS, SAMPLES, Cut, Planted, result

AGAIN = {
    "plain CNN": {"0", "3", "6"},
    "ResNet18": {"blocks.0.conv1", "blocks.1.conv1", "blocks.2.conv1"},
    "ResNet50": {f"blocks.{i}.conv{j}" for i in range(3) for j in (1, 2)},
    "zero-padded shortcuts": {"blocks.0.conv1", "blocks.1.conv1", "blocks.2.conv1"},
    "MobileNetV2": {"4.conv.0", "5.conv.0", "6"},  # a depthwise convolution in between
    "squeeze-and-excitation": {"4.conv.6.fc1", "5.conv.6.fc1", "6"},  # others are read twice
    "DenseNet": {"1.conv1", "2.conv1", "3.conv1", "8.conv1"},
    "U-Net": {"down1", "join"},
}
"""Layers that are picked again; some of them are read after a flatten or by a linear layer."""


def again(cut: Cut) -> tuple[str, ...]:
    return reselectable(cut.structure, cut.sites, cut.dense, cut.kept)


def sweep_again(
    cut: Cut, target: str = "stream", repeats: int = 1, damping: float = DAMPING
) -> KeptChannels:
    """Sweep ``cut`` with its channels picked again; the channels it then has."""
    rule = FitRule(target, damping)
    pair = NetworkPair.of_cut(cut.dense, cut.structure, cut.kept, cut.sites, rule, whole=again(cut))
    store, chunks = cut.environments(), range(SAMPLES // CHUNK)

    def sum_up(visit: Visit) -> Sums:
        return sum_chunks(lambda chunk: pair.sums(visit, chunk, store), chunks)

    found = Reselection(pair.small, cut.structure, cut.kept, again(cut), rule)
    sweep(pair, sum_up, repeats=repeats, choose=found.choose)
    cut.small = found.finish()
    return found.kept


def made(name: str, keep_share: float = 0.5) -> Cut:
    torch.manual_seed(11)
    return Cut(NETWORKS[name](), keep_share)


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_that_one_consumer_reads_alone_are_picked_again(name: str) -> None:
    assert set(again(made(name))) == AGAIN[name]


def test_other_layers_keep_the_channels_of_their_paths(monkeypatch) -> None:
    model = zoo.resnet18().eval()
    structure = find_structure(model, zoo.images(), coupled=True)
    cut = made("ResNet18")
    widths = {layer.name: layer.num_candidates // 2 for layer in structure.layers}
    kept, sites = KeptChannels.first(widths), find_sites(cut.dense, cut.x[:2])
    assert set(reselectable(structure, sites, cut.dense, kept)) == AGAIN["ResNet18"]
    assert len(widths) > 3  # residual widths too, which several layers read
    whole = KeptChannels({name: tuple(range(8)) for name in ("blocks.0.conv1",)})
    assert reselectable(structure, sites, cut.dense, whole) == ()
    monkeypatch.setattr(reselect, "MAX_INPUTS", 8 * 9)
    assert reselectable(structure, sites, cut.dense, kept) == ("blocks.0.conv1",)


@pytest.mark.parametrize("target", ["stream", "output"])
@pytest.mark.parametrize("name", NETWORKS)
def test_with_the_channels_of_the_paths_a_sweep_is_the_usual_one(name, target, monkeypatch) -> None:
    monkeypatch.setattr(SubsetSearch, "best", lambda _, start: sorted(start))
    plain, cut = made(name), made(name)
    plain.sweep(target, repeats=1)
    assert sweep_again(cut, target) == cut.kept
    expected = plain.small.state_dict()
    for key, tensor in cut.small.state_dict().items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(cut.small(cut.x), plain.small(cut.x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_the_masked_one_of_its_channels(name: str) -> None:
    cut = made(name)
    kept = sweep_again(cut)
    assert {key: len(own) for key, own in kept.candidates.items()} == {
        key: len(own) for key, own in cut.kept.candidates.items()
    }
    changed = {key for key, own in kept.candidates.items() if own != cut.kept.candidates[key]}
    assert changed
    assert changed <= AGAIN[name]
    masked = expand_to_dense(cut.small, cut.dense, cut.structure, kept)
    check_equal(cut.small, masked, [cut.x])


def test_channels_are_the_best_on_what_the_pruned_network_makes() -> None:
    """Naive refits of the last block's second layer, on the first one whole."""
    cut, front, name = made("ResNet18"), made("ResNet18"), "blocks.2.conv1"
    kept = sweep_again(cut, repeats=0, damping=1e-12).candidates
    front.kept = front.kept.without([name])
    assert sweep_again(front, repeats=0).candidates.items() < kept.items()
    site = next(site for site in cut.sites if site.module == "blocks.2.conv2")
    assert site.other is not None
    x, other = (result(front.small, cut.x, key) for key in (site.source, site.other))
    target = (result(cut.dense, cut.x, site.stream) - other).transpose(0, 1).flatten(1).double()
    target -= target.mean(1, keepdim=True)

    def error(channels: Iterable[int]) -> float:
        read = functional.unfold(x[:, sorted(channels)], 3, padding=1).transpose(0, 1).flatten(1)
        read = read.double() - read.double().mean(1, keepdim=True)
        moments, cross = read @ read.T, read @ target.T
        moments.diagonal().add_(DAMPING * moments.diagonal().mean())
        explained = (cross * torch.linalg.solve(moments, cross)).sum()
        return float(1 - explained / target.square().sum())

    own = {*kept[name]}
    best = error(own)
    assert best < 0.99 * error(cut.kept.candidates[name])
    exchanged = [error(own - {i} | {j}) for i, j in itertools.product(own, {*range(16)} - own)]
    assert best < 1.001 * min(exchanged)


@pytest.mark.parametrize("norms", [True, False])
def test_multiples_are_left_out_whatever_the_path_kept(norms, monkeypatch) -> None:
    monkeypatch.setattr(least_squares, "FLOAT32", 1e-14)
    torch.manual_seed(2)
    cut = Cut(Planted(shortcut=True, norms=norms), {"one": (0, 1, 5, 6, 7)}, torch.float64)
    (kept,) = sweep_again(cut, repeats=0, damping=1e-12).candidates.values()
    assert [len({*pair} & {*kept}) for pair in ((0, 5, 7), (1, 6), (2,), (3,), (4,))] == [1] * 5
    assert cut.error() < 1e-10


def test_moments_without_a_factor_name_the_layer(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise NonFiniteError("moments: the inputs' are not positive definite")

    monkeypatch.setattr(SubsetSearch, "best", refuse)
    with pytest.raises(NonFiniteError, match=r"^layer 'blocks\.0\.conv1': moments: the inputs'"):
        sweep_again(made("ResNet18"))
