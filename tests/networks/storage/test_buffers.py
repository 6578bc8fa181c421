"""Buffers of whole numbers, truth values and complex numbers are stored bit for bit.

Reaches inside for descriptions of buffers that are broken by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gfs_dist
from gfs_dist import networks
from gfs_dist.errors import CheckpointError, ConfigError
from gfs_dist.files.checkpoint import STORED
from gfs_dist.networks.graph.build import build
from gfs_dist.networks.graph.describe import describe

WHOLE = [dtype for dtype in STORED if not dtype.is_floating_point]


class Holder(nn.Module):
    """A hidden layer, a buffer, and what the forward pass does with it."""

    def __init__(
        self, buffer: Tensor, use: Callable[[Any, Tensor], Tensor] = lambda _, x: x, **kind: bool
    ) -> None:
        super().__init__()
        self.first, self.second, self.use = nn.Linear(4, 6), nn.Linear(6, 3), use
        self.register_buffer("own", buffer, **kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(self.use(self, x))))


class Attention(nn.Module):
    """A Swin-like bias by position, BERT-like positions, a mask of truth values."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, 2))
        rows = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij"))
        distance = rows.flatten(1)[:, :, None] - rows.flatten(1)[:, None] + 1
        self.register_buffer("relative_position_index", distance[0] * 3 + distance[1])
        self.register_buffer("position_ids", torch.arange(16).expand(2, -1))
        self.register_buffer("mask", torch.arange(4) == 2, persistent=False)
        self.positions, self.mix = nn.Embedding(16, 8), nn.Linear(8, 8)
        self.first, self.second = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions(self.position_ids[:1, : x.shape[1]])
        heads = self.mix(x).view(x.shape[0], x.shape[1], 2, 4).transpose(1, 2)
        bias = self.table[self.relative_position_index.view(-1)].view(4, 4, 2).permute(2, 0, 1)
        scores = (heads @ heads.transpose(-2, -1) + bias).masked_fill(self.mask, -1e4)
        x = (scores.softmax(-1) @ heads).transpose(1, 2).flatten(2)
        return self.second(functional.gelu(self.first(x))).mean(1)


class NormAct(nn.BatchNorm2d):
    """Batch norm and activation in one class, as timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        training = self.training or self.running_mean is None
        means = self.running_mean, self.running_var
        x = functional.batch_norm(x, *means, self.weight, self.bias, training, 0.1, self.eps)
        return functional.relu(x, inplace=True)


class OfAnotherName(nn.BatchNorm2d):
    pass


def convolutions(norm: type[nn.BatchNorm2d | nn.SyncBatchNorm]) -> nn.Sequential:
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), norm(8), nn.ReLU(), nn.Conv2d(8, 6, 3), norm(6)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    )
    with torch.no_grad():
        for module in network:
            if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.num_batches_tracked.fill_(2**40 + 1)
    return network


def stored(network: nn.Module, x: Tensor, folder: Path) -> nn.Module:
    networks.save(folder, network.eval(), example=x)
    return gfs_dist.load(folder)


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("dtype", WHOLE)
def test_every_dtype_is_kept_to_the_bit(
    tmp_path: Path, dtype: torch.dtype, persistent: bool
) -> None:
    numbers = torch.tensor([0, 1, 7]) if dtype != torch.bool else torch.tensor([0, 1, 1])
    buffer = numbers.to(dtype)
    if dtype in (torch.int64, torch.uint64):
        buffer = torch.tensor([0, 2**53 + 1, 2**62]).to(dtype)  # what float64 cannot hold
    network, x = Holder(buffer, persistent=persistent), torch.randn(3, 4)
    again = stored(network, x, tmp_path / "m")
    found = again.get_buffer("own")
    assert (found.dtype, found.tolist()) == (dtype, buffer.tolist())
    assert ("own" in again.state_dict()) == persistent
    assert torch.equal(again(x), network(x))
    result = gfs_dist.prune(network, [x], budget={"keep": 0.5})
    assert torch.equal(result.model.get_buffer("own"), buffer)


@pytest.mark.parametrize(
    ("network", "shape", "widths", "objective"),
    [
        (Attention(), (4, 8), {"first": 6}, "least_squares"),
        (Attention(), (4, 8), {"first": 6}, "layer_output"),
        (Attention(), (4, 8), {"first": 6}, "fisher"),
        (convolutions(NormAct), (3, 6, 6), {"0": 4, "3": 3}, "network_loss"),
        (convolutions(NormAct), (3, 6, 6), {"0": 4, "3": 3}, "fisher"),
        (convolutions(OfAnotherName), (3, 6, 6), {"0": 4, "3": 3}, "layer_output"),
        (convolutions(nn.SyncBatchNorm), (3, 6, 6), {"0": 4, "3": 3}, "least_squares"),
    ],
)
def test_networks_with_such_buffers_are_pruned_and_stored(
    tmp_path: Path,
    network: nn.Module,
    shape: tuple[int, ...],
    widths: dict[str, int],
    objective: str,
) -> None:
    x, labels = torch.randn(12, *shape), torch.arange(12) % 3
    network.eval()
    result = gfs_dist.prune(network, [(x, labels)], budget={"widths": widths}, objective=objective)
    assert result.report["widths"] == widths
    result.save(tmp_path / "m")
    again = gfs_dist.load(tmp_path / "m")
    assert torch.equal(again(x), result.model(x))
    before, after = dict(network.named_buffers()), dict(again.named_buffers())
    whole = [name for name, buffer in before.items() if not buffer.is_floating_point()]
    assert whole
    for name in whole:
        assert after[name].dtype == before[name].dtype
        assert torch.equal(after[name], before[name])


def count_in_place(self: Any, x: Tensor) -> Tensor:
    self.own += 1
    return x


def count_by_method(self: Any, x: Tensor) -> Tensor:
    self.own.add_(1)
    return x


def count_anew(self: Any, x: Tensor) -> Tensor:
    self.own = self.own + 1
    return x


@pytest.mark.parametrize("count", [count_in_place, count_by_method, count_anew])
def test_a_counter_of_calls_is_stored_as_it_stands_and_goes_on(
    tmp_path: Path, count: Callable[[Any, Tensor], Tensor]
) -> None:
    network, x = Holder(torch.tensor(3), count), torch.randn(5, 4)
    again = stored(network, x, tmp_path / "m")
    assert (network.own.item(), again.get_buffer("own").item()) == (3, 3)
    again(x)
    assert again.get_buffer("own").item() == 4
    assert gfs_dist.prune(network, [x], budget={"keep": 0.5}).model.get_buffer("own").item() == 3
    assert network.own.item() == 3


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex128])
def test_a_dtype_that_files_do_not_hold_is_named(
    tmp_path: Path, dtype: torch.dtype, persistent: bool
) -> None:
    network = Holder(torch.ones(2).to(dtype), persistent=persistent)
    with pytest.raises(ConfigError, match=f"tensor 'own': found {dtype}, accepted bool"):
        networks.save(tmp_path / "m", network, example=torch.randn(2, 4))


def described(buffer: Tensor) -> dict[str, Any]:
    graph, _ = describe(Holder(buffer).eval(), [torch.randn(2, 4)])
    return json.loads(json.dumps(graph))


def test_a_mask_of_infinity_and_a_sparse_buffer_are_named_with_a_cure() -> None:
    x = torch.randn(3, 4)
    mask = Holder(torch.full((2, 2), -torch.inf).triu(1))
    with pytest.raises(ValueError, match=r"'own' is -inf at index \(0, 1\), .* such as -1e9"):
        gfs_dist.prune(mask, [x], budget={"keep": 0.5})
    with pytest.raises(ValueError, match=r"pruned: its tensor 'own' is sparse; .* by to_dense\(\)"):
        gfs_dist.prune(Holder(torch.eye(3).to_sparse()), [x], budget={"keep": 0.5})


def test_only_what_is_no_floating_point_says_its_dtype() -> None:
    assert "dtype" not in described(torch.ones(2))["tensors"]["own"]
    assert described(torch.arange(2))["tensors"]["own"]["dtype"] == "int64"


@pytest.mark.parametrize("dtype", ["float8", "int", 3, None, ["int64"], {"a": 1}, "x" * 1000])
def test_an_unknown_dtype_is_refused(dtype: Any) -> None:
    graph = described(torch.arange(2))
    graph["tensors"]["own"]["dtype"] = dtype
    with pytest.raises(ConfigError, match="'own': found dtype .*, accepted bool, int8") as caught:
        build(graph)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ("int32", "found torch.int64, accepted torch.int32"),
        ("float32", "found torch.int64, accepted floating point"),
    ],
)
def test_a_file_of_another_dtype_than_described_is_refused(
    tmp_path: Path, stated: str, message: str
) -> None:
    stored(Holder(torch.arange(2)), torch.randn(2, 4), tmp_path / "m")
    file = tmp_path / "m" / "architecture.json"
    content = json.loads(file.read_text())
    content["graph"]["tensors"]["own"]["dtype"] = stated
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"tensor 'own': {message}"):
        gfs_dist.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("own", "found", "message"),
    [
        (torch.uint8, [300], "300 at index .*accepted torch.uint8"),
        (torch.bool, [2], "2 at index .*accepted torch.bool"),
        (torch.int32, [-(2**40)], "-1099511627776 at index .*accepted torch.int32"),
    ],
)
def test_whole_numbers_that_do_not_fit_are_refused(
    own: torch.dtype, found: list[int], message: str
) -> None:
    network = Holder(torch.zeros(1, dtype=own))
    tensors = {**network.state_dict(), "own": torch.tensor(found)}
    with pytest.raises(CheckpointError, match=f"^file: tensor 'own' is {message}"):
        networks.load_state(network, tensors, "file")
    assert network.own.item() == 0


def test_an_expanded_buffer_is_read_where_it_is_what_it_was() -> None:
    network = Holder(torch.arange(3).expand(4, -1))
    networks.load_state(network, dict(network.state_dict()), "file")
    assert network.own.tolist() == [[0, 1, 2]] * 4


@pytest.mark.parametrize("norm", [NormAct, OfAnotherName, nn.SyncBatchNorm])
def test_norms_of_another_class_go_on_learning_from_what_they_see(
    tmp_path: Path, norm: type[nn.BatchNorm2d | nn.SyncBatchNorm]
) -> None:
    torch.manual_seed(0)
    network, x = convolutions(norm), torch.randn(7, 3, 6, 6)
    again = stored(network, x, tmp_path / "m")
    for one in (network.train(), again.train()):
        one(x)
    for one in (network.eval(), again.eval()):
        one(x)
    found = dict(again.named_buffers())
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(found[name], buffer)
    assert found["1.num_batches_tracked"] == 2**40 + 2


def test_a_stored_network_names_the_tensors_of_its_norms_of_another_class(tmp_path: Path) -> None:
    x = torch.randn(7, 3, 6, 6)
    again = stored(convolutions(NormAct), x, tmp_path / "m")
    with pytest.raises(
        ValueError, match=r"'0': its channels are tied to the parameter '1\.weight'"
    ):
        gfs_dist.prune(again, [x], budget={"keep": 0.5})


@pytest.mark.parametrize("norm", [NormAct, OfAnotherName, nn.SyncBatchNorm])
def test_networks_with_norms_of_another_class_are_cut_as_by_hand(
    norm: type[nn.BatchNorm2d | nn.SyncBatchNorm],
) -> None:
    torch.manual_seed(0)
    masked, x = convolutions(norm).eval(), torch.randn(12, 3, 6, 6)
    off: dict[str, Any] = {"fold": False, "refit": False, "batch_norm": False}
    result = gfs_dist.prune(masked, [x], budget={"keep": 0.5}, **off)
    assert result.report["widths"] == {"0": 4, "3": 3}
    with torch.no_grad():
        for layer, reader in (("0", "3"), ("3", "8")):
            weight = masked.get_submodule(reader).get_parameter("weight")
            width = result.report["widths"][layer]
            gone = sorted({*range(weight.shape[1])} - {*result.paths[layer].path.picks[:width]})
            assert len(gone) == width
            weight[:, gone] = 0
    torch.testing.assert_close(result.model(x), masked(x))
