"""``gfs_dist.prune``: what a user of Python relies on."""

from __future__ import annotations

import copy
import itertools
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gfs_dist
from gfs_dist import networks
from tests.pruning.oddities import Call, conv, sharing, shuffle_net, upsampled
from tests.pruning.zoo import resnet18, ten_networks, zero_pad_resnet


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return ten_networks()["ResNet18"][0].train()


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(48, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 5, (48,), generator=generator)
    return [(x[:32], labels[:32]), (x[32:], labels[32:])]


def state_of(model: nn.Module) -> dict[str, object]:
    return {
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "gradients": [parameter.requires_grad for parameter in model.parameters()],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
    }


def test_nothing_given_is_modified(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    next(network.parameters()).requires_grad_(False)
    before, inputs = state_of(network), copy.deepcopy(batches)
    gfs_dist.prune(network, batches, budget={"keep": 0.5})
    after = state_of(network)
    torch.testing.assert_close(after.pop("tensors"), before.pop("tensors"), rtol=0, atol=0)
    assert after == before
    for (x, y), (x_before, y_before) in zip(batches, inputs, strict=True):
        assert torch.equal(x, x_before)
        assert torch.equal(y, y_before)


def test_the_result_is_of_the_class_that_was_given_smaller_and_in_its_mode(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    result = gfs_dist.prune(network, batches, budget={"macs": 0.7})
    assert type(result.model) is type(network)
    assert result.model.training
    assert result.report["macs"] <= 0.7 * result.report["dense"]["macs"]
    assert result.report["params"] < result.report["dense"]["params"]
    assert result.model(batches[0][0]).shape == (32, 5)


def test_a_budget_is_met_within_one_channel(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    result = gfs_dist.prune(network, batches, budget={"macs": 0.7})
    limit = int(0.7 * result.report["dense"]["macs"])
    for row in result.report["layers"]:
        if row["reason"] is None and row["kept"] < row["channels"]:
            one_more = {**result.report["widths"], row["name"]: row["kept"] + 1}
            wider = result.cut({"widths": one_more})
            assert wider.report["macs"] > limit


def test_another_size_comes_from_the_same_paths(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    result = gfs_dist.prune(network, batches, budget={"keep": 0.75})
    smaller = result.cut({"keep": 0.25})
    assert smaller.paths is result.paths
    for name, width in smaller.report["widths"].items():
        assert width < result.report["widths"][name]
        kept = result.paths[name].path.support(width)
        assert set(kept) <= set(result.paths[name].path.support(result.report["widths"][name]))


def test_a_saved_network_is_read_in_a_fresh_process(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]], tmp_path: Path
) -> None:
    result = gfs_dist.prune(network, batches, budget={"keep": 0.5})
    result.save(tmp_path / "small")
    x = batches[0][0]
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import torch, gfs_dist\n"
        f"model = gfs_dist.load({str(tmp_path / 'small')!r})\n"
        f"x = torch.load({str(tmp_path / 'x.pt')!r})\n"
        f"torch.save(model(x).detach(), {str(tmp_path / 'y.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=600)
    expected = copy.deepcopy(result.model).eval()(x).detach()
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), expected)


@pytest.mark.parametrize("name", list(ten_networks()))
def test_every_kind_of_network_is_pruned_or_its_layers_say_why_not(name: str) -> None:
    network, example = ten_networks()[name]
    x = torch.randn(40, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    result = gfs_dist.prune(network, [x], budget={"keep": 0.5})
    assert result.report["difference_from_masked"] <= 1e-4
    assert result.report["macs"] < result.report["dense"]["macs"]
    for row in result.report["layers"]:
        assert row["reason"] or row["kept"] <= max(1, row["channels"] // 2)


def widths_read(net: Any, x: Tensor) -> Tensor:
    x = torch.relu(net.first(x))
    x = x.view(-1, net.first.out_channels, 8, 8)
    return net.head(torch.relu(net.second(x)).mean((2, 3)))


READING = Call(widths_read, first=conv(3, 8), second=conv(8, 12), head=nn.Linear(12, 5))


@pytest.mark.parametrize(
    ("model", "widths", "reasons"),
    [
        (sharing(nn.PReLU(), 10, 8, 6), {"layers.0": 5, "layers.1": 4, "layers.2": 3}, {}),
        (
            upsampled(nn.ConvTranspose2d, nn.Conv2d(3, 8, 3), 8),
            {"first": 4},
            {},
        ),
        (
            shuffle_net(3),
            {
                **{f"{i}.reduce": 3 for i in (2, 3, 4, 6, 7, 8)},
                "5.right.0": 4,
                "9": 5,
            },
            {
                "0": "splits its channels",
                "2.expand": "its channels do not go together in equal sets",
            },
        ),
        (READING, {"second": 6}, {"first": "as it does where the code names a number of channels"}),
    ],
    ids=["shared PReLU", "transposed depthwise", "ShuffleNet", "widths read"],
)
def test_what_is_not_kept_whole_with_a_reason_is_pruned_right(
    tmp_path: Path, model: nn.Module, widths: dict[str, int], reasons: dict[str, str]
) -> None:
    x = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    result = gfs_dist.prune(model.eval(), [x], budget={"widths": widths})
    told = {row["name"]: row["reason"] for row in result.report["layers"]}
    assert {name for name, reason in told.items() if reason is None} == widths.keys()
    for name, reason in reasons.items():
        assert reason in told[name]
    for name, width in widths.items():
        assert len(result.model.get_submodule(name).get_parameter("weight")) == width
    result.save(tmp_path / "m")
    again = gfs_dist.load(tmp_path / "m")
    torch.testing.assert_close(again(x), result.model(x))
    assert result.report["macs"] == networks.count_macs(result.model, x)
    assert result.report["params"] == networks.count_params(again)


def test_float64_networks_are_pruned_in_float64(batches: list[tuple[Tensor, Tensor]]) -> None:
    network = ten_networks()["VGG with BN"][0].double()
    result = gfs_dist.prune(network, [x.double() for x, _ in batches], budget={"keep": 0.5})
    assert result.report["difference_from_masked"] <= 1e-9
    assert next(result.model.parameters()).dtype == torch.float64


class Turned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 4)
        self.phase = nn.Parameter(torch.tensor(1j))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x))) * self.phase


def test_outputs_may_be_complex() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 8)
    result = gfs_dist.prune(Turned(), [x], budget={"keep": 0.5})
    small = result.model
    assert result.report["widths"] == {"one": 8}
    hidden = torch.relu(small.get_submodule("one")(x))
    assert torch.equal(small(x), small.get_submodule("two")(hidden) * 1j)


def test_full_width_keeps_the_network(batches: list[tuple[Tensor, Tensor]]) -> None:
    network = ten_networks()["ResNet18"][0].eval()
    result = gfs_dist.prune(network, batches, budget={"keep": 1.0})
    x = batches[0][0]
    torch.testing.assert_close(result.model(x), network(x))


def test_channels_are_picked_again_by_default(batches: list[tuple[Tensor, Tensor]]) -> None:
    network, budget = ten_networks()["ResNet18"][0], {"keep": 0.5}
    default, off = (
        gfs_dist.prune(network, batches, budget=budget, reselect=wanted) for wanted in (None, False)
    )
    assert default.report["picks_sha256"] == off.report["picks_sha256"]
    again, before = (
        {row["name"]: row["reselected"] for row in made.report["layers"]} for made in (default, off)
    )
    assert before == {name: None if count is None else 0 for name, count in again.items()}
    for wrong in ({"objective": "layer_output"}, {"refit": False}):
        with pytest.raises(ValueError, match="^reselect: found True, accepted with objective='lea"):
            gfs_dist.prune(network, batches, budget=budget, reselect=True, **wrong)


def test_more_ranks_give_the_same_network(batches: list[tuple[Tensor, Tensor]]) -> None:
    network = ten_networks()["ResNet18"][0]
    budget = {"keep": 0.5}
    alone = gfs_dist.prune(network, batches, budget=budget)
    many = gfs_dist.prune(network, batches, budget=budget, workers=3, runtime="local")
    assert many.report["picks_sha256"] == alone.report["picks_sha256"]
    for name, tensor in alone.model.state_dict().items():
        assert torch.equal(many.model.state_dict()[name], tensor), name


def test_batches_may_be_any_iterable(network: nn.Module) -> None:
    def made() -> Iterator[Tensor]:
        for seed in range(3):
            yield torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed))

    result = gfs_dist.prune(network, made(), budget={"keep": 0.5})
    assert result.report["loss"] is None
    assert result.report["accuracy"] is None
    assert result.report["accuracy_after"] == {"cut": None, "refit": None}


@pytest.mark.parametrize(
    ("repairs", "stages"),
    [
        ({"refit": False, "batch_norm": False}, ["cut"]),
        ({}, ["cut", "refit"]),
        ({"refit": False}, ["cut", "batch_norm"]),
        ({"batch_norm": True}, ["cut", "refit", "batch_norm"]),
        ({"streams": True, "stream_steps": 2}, ["cut", "refit", "streams"]),
        ({"refit": False, "streams": True, "stream_steps": 2}, ["cut", "streams"]),
    ],
    ids=str,
)
def test_each_network_is_measured_once(
    repairs: dict[str, bool],
    stages: list[str],
    batches: list[tuple[Tensor, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[float] = []

    def counting(*words: Any) -> networks.Classified:
        measured = classify(*words)
        found.append(measured.accuracy)
        return measured

    classify = networks.classify
    monkeypatch.setattr(networks, "classify", counting)
    network = ten_networks()["ResNet18"][0]
    report = gfs_dist.prune(network, batches, budget={"keep": 0.5}, **repairs).report
    assert list(report["accuracy_after"]) == stages
    assert report["accuracy_after"][stages[-1]] == report["accuracy"]
    *before, result, dense = found
    assert (result, dense) == (report["accuracy"], report["dense"]["accuracy"])
    assert before == [report["accuracy_after"][stage] for stage in stages[:-1]]


def test_arrays_are_as_good_as_tensors(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    arrays = [(x.numpy(), labels.numpy()) for x, labels in batches]
    found, wanted = (gfs_dist.prune(network, b, budget={"keep": 0.5}) for b in (arrays, batches))
    assert found.report == wanted.report
    assert found.report["kept"] == sum(found.report["widths"].values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": {"macs": 0.0}}, "budget.macs: found 0.0"),
        ({"budget": {"macs": 1.5}}, "budget.macs: found 1.5"),
        ({"budget": {}}, "budget: found none"),
        ({"budget": {"widths": {"nowhere": 3}}}, "nowhere"),
        ({"objective": "best"}, "objective: found 'best'"),
        ({"target": "moon"}, "target: found 'moon'"),
        ({"weights": "line_search"}, "weights: found 'line_search', accepted 'uniform' with"),
        ({"replacement": True}, "replacement: found True, accepted False with 'least_squares'"),
        ({"candidates": 3}, "candidates: found 3, accepted None with 'least_squares'"),
        ({"workers": 2}, "workers: found 2, accepted 1"),
        ({"batches": [torch.randn(4, 5, 8, 8)]}, "batches: example of shape (2, 5, 8, 8): on it"),
        ({"batches": []}, "batches: found no samples"),
        ({"batches": [torch.randn(4, 3, 8, 8), torch.randn(4, 3, 9, 8)]}, "sample 4 has shape"),
        ({"batches": [torch.full((4, 3, 8, 8), torch.nan)]}, "sample 0 holds NaN"),
    ],
)
def test_bad_arguments_are_named(
    network: nn.Module, batches: list[Tensor], changes: dict[str, object], message: str
) -> None:
    arguments = {"batches": batches, "budget": {"keep": 0.5}, **changes}
    with pytest.raises(ValueError, match=re.escape(message)):
        gfs_dist.prune(network, **arguments)  # type: ignore[arg-type]


def test_no_module_is_a_type_error(batches: list[Tensor]) -> None:
    with pytest.raises(TypeError, match="model: found function, accepted a torch.nn.Module"):
        gfs_dist.prune(lambda x: x, batches, budget={"keep": 0.5})  # type: ignore[arg-type]


@pytest.mark.parametrize(("found", "kind"), [(3, "int"), (["images"], "batch 0 is str")])
def test_what_holds_no_batches_is_a_type_error(
    network: nn.Module, found: object, kind: str
) -> None:
    with pytest.raises(TypeError, match=f"batches: .*{kind}, accepted"):
        gfs_dist.prune(network, found, budget={"keep": 0.5})  # type: ignore[arg-type]


def test_a_network_without_layers_to_prune_is_refused(batches: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="network output"):
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
        gfs_dist.prune(network, batches, budget={"keep": 0.5})


class Outputs(nn.Module):
    """Gives what a function makes of its scores."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.layers(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))),
            "'0' is a ParametrizedConv2d .*remove_parametrizations",
        ),
        (lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3))), "it is TorchScript; give"),
        (lambda: torch.compile(nn.Sequential(nn.Conv2d(3, 4, 3))), "made by torch.compile; give"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_networks_that_cannot_be_copied_are_refused_with_a_cure(
    make: Callable[[], nn.Module], message: str, batches: list[Tensor]
) -> None:
    with pytest.raises(ValueError, match=message):
        gfs_dist.prune(make(), batches, budget={"keep": 0.5})


def test_consumers_along_one_axis_are_fitted() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 6, 3), nn.ReLU(), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(72, 5))
    result = gfs_dist.prune(network, [torch.randn(20, 3, 16)], budget={"keep": 0.5})
    rows = {row["name"]: row for row in result.report["layers"]}
    assert (rows["0"]["kept"], rows["2"]["kept"]) == (4, 3)


def test_nan_weights_name_the_layer(network: nn.Module, batches: list[Tensor]) -> None:
    with torch.no_grad():
        network.get_parameter("blocks.1.conv1.weight")[0] = torch.nan
    with pytest.raises(ValueError, match=r"blocks\.1\.conv1"):
        gfs_dist.prune(network, batches, budget={"keep": 0.5})


def test_activations_that_overflow_name_the_layer(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    with torch.no_grad():
        network.get_parameter("blocks.1.conv1.weight").fill_(1e38)
    with pytest.raises(ValueError, match=r"output is NaN, first after layer 'blocks\.1\.conv1'"):
        gfs_dist.prune(network, batches, budget={"keep": 0.5})


def test_a_tolerance_needs_labels(network: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"batches: budget\.tolerance needs a label"):
        gfs_dist.prune(network, [torch.randn(8, 3, 8, 8)], budget={"tolerance": 0.1})


@pytest.mark.parametrize("objective", ["least_squares", "layer_output"])
@pytest.mark.parametrize("bias", [-1.0, 2.0], ids=["dead", "constant"])
def test_channels_that_no_input_changes_are_no_obstacle(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]], objective: str, bias: float
) -> None:
    """Norms that training switched off leave a channel at its bias, or at zero behind a ReLU."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                off = len(module.weight) * 3 // 4
                module.weight[:off] = 0.0
                module.bias[:off] = bias * torch.linspace(0.3, 1.7, off)
    result = gfs_dist.prune(network, batches, budget={"keep": 0.5}, objective=objective)
    assert result.report["difference_from_masked"] <= 1e-4
    assert math.isfinite(result.report["loss"])


@pytest.mark.parametrize(
    ("objective", "weights"),
    [
        ("least_squares", "uniform"),
        ("layer_output", "uniform"),
        ("layer_output", "line_search"),
        ("fisher", "uniform"),
        ("fisher", "line_search"),
        ("network_loss", "uniform"),
    ],
)
def test_every_objective_prunes(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]], objective: str, weights: str
) -> None:
    result = gfs_dist.prune(
        network, batches, budget={"keep": 0.5}, objective=objective, weights=weights
    )
    assert result.report["difference_from_masked"] <= 1e-4
    for found in result.paths.values():
        assert len(set(found.path.picks)) == len(found.path.picks)
        if weights == "uniform":
            assert found.path.num_kept == found.path.num_candidates
    smaller = result.cut({"macs": 0.75})
    assert smaller.report["macs"] <= 0.75 * smaller.report["dense"]["macs"]


@pytest.mark.parametrize("objective", ["fisher", "network_loss"])
def test_objectives_of_the_loss_need_labels(network: nn.Module, objective: str) -> None:
    with pytest.raises(ValueError, match="label"):
        gfs_dist.prune(
            network, [torch.randn(8, 3, 8, 8)], budget={"keep": 0.5}, objective=objective
        )


def test_several_limits_all_hold(network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    result = gfs_dist.prune(network, batches, budget={"macs": 0.6, "params": 0.8})
    found, dense = result.report, result.report["dense"]
    assert found["macs"] <= 0.6 * dense["macs"]
    assert found["params"] <= 0.8 * dense["params"]
    assert found["binds"] in ("macs", "params")
    assert max(found["used"].values()) == found["used"][found["binds"]] <= 1
    one = result.cut({"params": 0.8}).report
    assert result.cut({"params": 0.8, "macs": 1.0}).report["layers"] == one["layers"]


@pytest.mark.filterwarnings("ignore:batches. .* tokens for each input")
@pytest.mark.parametrize(
    "limits", [{"macs": 0.5}, {"params": 0.6, "macs": 0.6}, {"keep": 0.4}, {"params": 0.4}]
)
def test_uniform_widths_are_the_same_in_layers_of_a_size(limits: dict[str, float]) -> None:
    torch.manual_seed(0)
    sizes = [10, 12, 12, 8, 12, 12, 3]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    network = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])
    x = torch.randn(96, 10)
    result = gfs_dist.prune(network, [x], budget={**limits, "uniform": True})
    kept = {row["channels"]: set() for row in result.report["layers"] if not row["reason"]}
    for row in result.report["layers"]:
        if not row["reason"]:
            kept[row["channels"]].add(row["kept"])
    assert {channels: len(found) for channels, found in kept.items()} == {12: 1, 8: 1}
    for kind, share in limits.items():
        if kind != "keep":
            assert result.report[kind] <= share * result.report["dense"][kind]
    assert result.report["reason"].endswith("layers of a kind (2 for 5 layers)")
    if result.report["rule"] == "measured":  # the one layer of 8 at every width, among others
        found = {row["rule"]: row["loss"] for row in result.report["compared"]}
        assert {f"4: {width}" for width in (1, 4)} < found.keys()
        assert (
            f"difference from the dense network's outputs: {min(found.values()):.4f} of"
            in (result.report["reason"])
        )
    free = result.cut(limits).report
    assert "kind" not in free["reason"]
    assert free["used"].keys() == result.report["used"].keys()


@pytest.mark.parametrize("budget", [{"tolerance": 0.5}, {"params": 0.8}])
def test_other_budgets(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]], budget: dict[str, float]
) -> None:
    result = gfs_dist.prune(network, batches, budget=budget)
    if "params" in budget:
        assert result.report["params"] <= 0.8 * result.report["dense"]["params"]
    assert set(result.report["widths"]) == {
        row["name"] for row in result.report["layers"] if row["reason"] is None
    }


@pytest.mark.parametrize("objective", ["least_squares", "network_loss"])
@pytest.mark.parametrize("make", [resnet18, zero_pad_resnet])
def test_residual_widths_are_pruned_when_asked_for(
    batches: list[tuple[Tensor, Tensor]], make: Callable[[], nn.Module], objective: str
) -> None:
    network = make()
    result = gfs_dist.prune(
        network, batches, budget={"keep": 0.5}, coupled=True, objective=objective
    )
    assert result.report["difference_from_masked"] <= 1e-4
    kept = {row["name"]: row for row in result.report["layers"]}
    assert kept["conv1"]["kept"] == kept["conv1"]["channels"] // 2


@pytest.mark.slow  # compares times
def test_a_latency_is_met() -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU())
    network = nn.Sequential(wide, nn.Linear(256, 10))
    batches = [torch.randn(256, 64)]
    result = gfs_dist.prune(network, batches, budget={"latency": 0.7, "batch": 4096})
    x = torch.randn(4096, 64)
    # By turns, and the least of all: other programs disturb one side for a while.
    turns = [
        [networks.latency(each, x, 9).min_s for each in (result.model, network)] for _ in range(5)
    ]
    smaller, dense = map(min, zip(*turns, strict=True))
    assert smaller < dense
