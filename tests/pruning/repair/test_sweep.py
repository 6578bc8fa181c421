"""A cut network fitted from front to back."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.errors import NonFiniteError
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.record import record
from gfs_dist.pruning.calibration.layer_sites import find_sites
from gfs_dist.pruning.calibration.moments import Sums, sum_chunks
from gfs_dist.pruning.calibration.staged_run import (
    DENSE,
    SMALL,
    ActivationStore,
    FileStore,
    MemoryStore,
    advance,
    make_stages,
    output_names,
)
from gfs_dist.pruning.repair import least_squares as refit
from gfs_dist.pruning.repair.fit_rule import DAMPING, FitRule
from gfs_dist.pruning.repair.sweep import NetworkPair, Visit, sweep
from gfs_dist.pruning.smaller import KeptChannels, make_smaller
from gfs_dist.pruning.structure.discover import find_structure
from tests.pruning import zoo

SAMPLES, CHUNK = 48, 16
NETWORKS = {
    "plain CNN": zoo.plain_cnn,
    "ResNet18": zoo.resnet18,
    "ResNet50": zoo.resnet50,
    "zero-padded shortcuts": zoo.zero_pad_resnet,
    "MobileNetV2": zoo.mobilenet,
    "squeeze-and-excitation": lambda: zoo.mobilenet(excite=6),
    "DenseNet": zoo.densenet,
    "U-Net": lambda: zoo.UNet(transposed=False),
}


class Cut:
    """A network, what is kept of it, and samples."""

    def __init__(
        self,
        model: nn.Module,
        keep_share: float | Mapping[str, tuple[int, ...]] = 0.5,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        torch.manual_seed(0)
        self.x = torch.randn(SAMPLES, 3, 8, 8).to(dtype)
        model = learnt(model.to(dtype), self.x)
        self.structure = find_structure(model, self.x[:2])
        self.dense = record(model, self.x[:2])
        if isinstance(keep_share, float):
            kept = {
                layer.name: tuple(range(max(1, int(layer.num_candidates * keep_share))))
                for layer in self.structure.layers
            }
        else:
            kept = dict(keep_share)
        self.kept = KeptChannels(kept)
        self.small = make_smaller(self.dense, self.structure, self.kept)
        self.sites = find_sites(self.dense, self.x[:2])

    def pair(self, target: str = "stream", damping: float = DAMPING, **more: object) -> NetworkPair:
        outputs = self.kept.outputs(self.structure, self.dense)
        return NetworkPair(
            self.dense, self.small, self.sites, outputs, FitRule(target, damping), **more
        )  # type: ignore[arg-type]

    def environments(self, store: ActivationStore | None = None) -> ActivationStore:
        store = store or MemoryStore()
        for chunk, part in enumerate(self.x.split(CHUNK)):
            for track in (DENSE, SMALL):
                store.save(track, 0, chunk, {self.dense.gfs_inputs[0]: part})
        return store

    def sweep(
        self,
        target: str = "stream",
        repeats: int = 2,
        store: ActivationStore | None = None,
        damping: float = DAMPING,
    ) -> tuple[NetworkPair, ActivationStore]:
        pair, store = self.pair(target, damping), self.environments(store)
        chunks = range(SAMPLES // CHUNK)

        def sum_up(visit: Visit) -> Sums:
            return sum_chunks(lambda chunk: pair.sums(visit, chunk, store), chunks)

        sweep(pair, sum_up, repeats=repeats)
        return pair, store

    def error(self, name: str | None = None) -> float:
        """Of the smaller network's result (default: output), relative to the dense one's."""
        names = frozenset([name]) if name else output_names(self.dense)
        (name,) = names
        dense, small = (result(net, self.x, name) for net in (self.dense, self.small))
        return float((small - dense).square().sum() / dense.square().sum())


def learnt(model: nn.Module, x: Tensor) -> nn.Module:
    """With running statistics of the samples, and norms that differ from channel to channel."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            module.momentum = 0.5
    model.train()
    with torch.no_grad():
        for _ in range(6):
            model(x)
    return model.eval()


def result(network: GraphNetwork, x: Tensor, name: str) -> Tensor:
    (stage,) = make_stages(network, [frozenset([name])])
    return advance(network, stage, {network.gfs_inputs[0]: x})[name]


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("target", ["stream", "output"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_sweep_repairs_the_cut_and_sees_only_fitted_layers(name: str, target: str) -> None:
    """The last stage's results are those of a fresh run: no stage was left with old weights."""
    torch.manual_seed(1)
    cut = Cut(NETWORKS[name]())
    dense_before = copy.deepcopy(cut.dense.state_dict())
    before = cut.error()
    pair, store = cut.sweep(target)
    assert cut.error() < 0.9 * before
    for chunk, part in enumerate(cut.x.split(CHUNK)):
        for network, same in ((DENSE, torch.equal), (SMALL, torch.allclose)):
            for key, found in store.load(network, len(pair.sites), chunk).items():
                if isinstance(found, Tensor) and key not in cut.dense.gfs_inputs:
                    fresh = result(cut.dense if network == DENSE else cut.small, part, key)
                    assert same(found, fresh), (network, key)
    for key, tensor in cut.dense.state_dict().items():
        assert torch.equal(tensor, dense_before[key])


class Planted(nn.Module):
    """A residual block whose last hidden channels are positive multiples of its first."""

    def __init__(self, *, shortcut: bool, norms: bool) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6)
        self.one = nn.Conv2d(6, 8, 3, 1, 1)
        self.two = nn.Conv2d(8, 6, 3, 1, 1)
        self.norm = nn.BatchNorm2d(6) if norms else nn.Identity()
        self.short = nn.Conv2d(6, 6, 1) if shortcut else nn.Identity()
        self.head = nn.Conv2d(6, 2, 3)
        with torch.no_grad():
            for i, (j, factor) in enumerate([(0, 2.0), (1, 0.5), (0, 1.0)], start=5):
                self.one.weight[i], self.one.bias[i] = (
                    factor * part[j] for part in (self.one.weight, self.one.bias)
                )

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem_norm(self.stem(x)))
        y = self.norm(self.two(functional.relu(self.one(x))))
        return self.head(functional.relu(y + self.short(x)))


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("shortcut", [True, False])
def test_removed_multiples_of_kept_channels_are_made_up_for(shortcut, norms, monkeypatch) -> None:
    monkeypatch.setattr(refit, "FLOAT32", 0.0)
    torch.manual_seed(2)
    kept = {"one": (0, 1, 2, 3, 4)}
    cut = Cut(Planted(shortcut=shortcut, norms=norms), kept, torch.float64)
    assert cut.error() > 1e-3
    cut.sweep(repeats=0, damping=1e-12)
    assert cut.error() < 1e-16
    expected = cut.dense.get_submodule("two").weight[:, :5].clone()
    dense = cut.dense.get_submodule("two").weight
    expected[:, 0] += 2 * dense[:, 5] + dense[:, 7]
    expected[:, 1] += 0.5 * dense[:, 6]
    torch.testing.assert_close(
        cut.small.get_submodule("two").weight, expected, rtol=1e-6, atol=1e-6
    )


def test_the_usual_damping_leaves_next_to_nothing_of_a_planted_cut() -> None:
    torch.manual_seed(2)
    cut = Cut(Planted(shortcut=True, norms=True), {"one": (0, 1, 2, 3, 4)})
    before = cut.error()
    cut.sweep(repeats=0)
    assert cut.error() < 1e-5 * before


def test_the_stream_makes_up_for_what_went_wrong_before() -> None:
    """Aimed at the stream, the second block also mends the first one's part of it."""
    errors = {}
    for target in ("stream", "output"):
        torch.manual_seed(3)
        cut = Cut(zoo.resnet18(), 0.4)
        cut.sweep(target, repeats=0)
        last = next(site for site in cut.sites if site.module == "blocks.2.conv2")
        errors[target] = cut.error(last.stream)
    assert errors["stream"] < 0.95 * errors["output"]


@pytest.mark.parametrize("name", ["ResNet18", "ResNet50"])
def test_repeats_bring_rectified_streams_nearer(name: str) -> None:
    errors = []
    for repeats in (0, 1, 3):
        torch.manual_seed(4)
        cut = Cut(NETWORKS[name](), 0.4)
        cut.sweep(repeats=repeats)
        pair = cut.pair()
        site = next(s for s in reversed(pair.sites) if s.rectified and s.module not in pair.outputs)
        dense, small = (result(net, cut.x, site.stream).relu() for net in (cut.dense, cut.small))
        errors.append(float((dense - small).square().sum()))
    assert errors[2] < errors[1] < errors[0]


def test_sites_that_nothing_removed_can_reach_are_left_out() -> None:
    torch.manual_seed(5)
    model = zoo.resnet18()
    every = [site.module for site in Cut(model).pair().sites]
    cut = Cut(model, {"blocks.1.conv1": (0, 2, 3)})
    assert "conv1" not in every  # it loses no input
    assert [site.module for site in cut.pair().sites] == [
        "blocks.1.conv2",
        "blocks.2.conv1",
        "blocks.2.conv2",
        "fc",
    ]
    before = copy.deepcopy(cut.small.state_dict())
    cut.sweep()
    changed = {key for key, t in cut.small.state_dict().items() if not torch.equal(t, before[key])}
    assert {key.rpartition(".")[0] for key in changed} == {
        *("blocks.1.conv2", "blocks.1.bn2", "blocks.2.conv1", "blocks.2.bn1"),
        *("blocks.2.conv2", "blocks.2.bn2", "fc"),
    }


def test_a_network_that_lost_nothing_has_nothing_to_fit() -> None:
    torch.manual_seed(6)
    cut = Cut(zoo.resnet18(), {})
    before = copy.deepcopy(cut.small.state_dict())
    pair, _ = cut.sweep()
    assert pair.sites == []
    assert torch.equal(cut.dense(cut.x), cut.small(cut.x))
    assert all(torch.equal(t, before[key]) for key, t in cut.small.state_dict().items())


def weights_of(cut: Cut) -> list[Tensor]:
    return list(cut.small.state_dict().values())


def test_weights_are_the_same_bits_for_any_number_of_threads(tmp_path: Path, one_thread) -> None:
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(1)
        torch.manual_seed(7)
        cut = Cut(zoo.resnet18())
        torch.set_num_threads(threads)
        store = FileStore(tmp_path) if threads == 2 else None
        cut.sweep(store=store)
        found.append(weights_of(cut))
        assert torch.get_num_threads() == threads
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_known_results_of_the_dense_network_change_nothing() -> None:
    found = []
    for known in (False, True):
        torch.manual_seed(8)
        cut = Cut(zoo.mobilenet())
        asked = frozenset(site.stream for site in cut.sites) | output_names(cut.dense)
        (stage,) = make_stages(cut.dense, [asked])
        name = cut.dense.gfs_inputs[0]
        results = [advance(cut.dense, stage, {name: part}) for part in cut.x.split(CHUNK)]
        pair, store = cut.pair(dense_results=results if known else None), cut.environments()
        if known:
            store.drop(DENSE, 0)

        def sum_up(visit: Visit, pair: NetworkPair = pair, store: ActivationStore = store) -> Sums:
            return sum_chunks(lambda chunk: pair.sums(visit, chunk, store), range(3))

        sweep(pair, sum_up, repeats=1)
        found.append(weights_of(cut))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_chunks_are_added_in_their_order_whoever_is_done_first(one_thread) -> None:
    torch.set_num_threads(3)
    parts = [torch.tensor([value]) for value in (1e16, 1.0, -1e16, 1.0, 3.0)]
    done: list[int] = []

    def work(chunk: int) -> Sums:
        time.sleep(0.02 * (5 - chunk))
        assert torch.get_num_threads() == 1
        done.append(chunk)
        return {"count": torch.ones(1), "inside": parts[chunk].double()}

    expected = 0.0
    for part in parts:
        expected += float(part)
    ticks: list[int] = []
    sums = sum_chunks(work, range(5), lambda: ticks.append(1))
    assert (float(sums["inside"]), float(sums["count"])) == (expected, 5)
    assert sorted(done) == list(range(5))
    assert len(ticks) == 5
    assert torch.get_num_threads() == 3
    assert threading.active_count() < 20


def test_every_fit_and_every_site_is_told() -> None:
    torch.manual_seed(9)
    cut = Cut(zoo.plain_cnn())
    pair, store = cut.pair(), cut.environments()
    told: list[tuple[str, int]] = []
    sweep(
        pair,
        lambda visit: sum_chunks(lambda chunk: pair.sums(visit, chunk, store), range(3)),
        repeats=2,
        on_fit=lambda stage: told.append(("fit", stage)),
        on_site=lambda stage: told.append(("site", stage)),
    )
    expected = []
    for stage, site in enumerate(pair.sites):
        expected += [("fit", stage)] * (3 if site.rectified else 1) + [("site", stage)]
    assert told == expected
    assert {site.rectified for site in pair.sites} == {True, False}


@pytest.mark.parametrize("where", ["samples", "weights"])
def test_nan_names_the_layer(where: str) -> None:
    torch.manual_seed(10)
    cut = Cut(zoo.resnet18())
    if where == "samples":
        cut.x[17, 0, 3, 3] = torch.nan
        layer = cut.pair().sites[0].module
    else:
        layer = "blocks.1.conv1"
        with torch.no_grad():
            cut.small.get_submodule(layer).weight[0, 0, 0, 0] = torch.inf
    told = rf"layer '{layer}': its (moments|fitted weights) hold NaN or infinity"
    with pytest.raises(NonFiniteError, match=told):
        cut.sweep()
