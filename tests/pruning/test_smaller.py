"""Smaller networks: what they keep of a path, what picks count, and the check against the mask."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gfs_dist.errors import RunError
from gfs_dist.pruning.pruner import LayerPath
from gfs_dist.pruning.smaller import KeptChannels, check_equal, make_smaller, prefix_length
from gfs_dist.pruning.structure.discover import find_structure
from gfs_dist.selection.path import GreedyPath
from tests.pruning import zoo


def a_path(picks: list[int], losses: list[float], candidates: int = 6) -> GreedyPath:
    path = GreedyPath(candidates)
    for k, (pick, loss) in enumerate(zip(picks, losses, strict=True), start=1):
        path.append(pick, loss, 1.0 / k)
    return path


def test_a_width_is_cut_where_its_curve_is_read() -> None:
    """Picks that come again may better a width or spoil it."""
    path = a_path([4, 4, 1, 4, 1, 1, 0, 4], [9.0, 9.0, 5.0, 4.0, 3.0, 6.0, 2.0, 2.5])
    assert [prefix_length(path, width) for width in (1, 2, 3)] == [1, 5, 7]
    assert prefix_length(path, 5) == 7
    curve = LayerPath(path, path.loss, 1.0).curve
    assert curve == [path.loss[prefix_length(path, width) - 1] for width in (1, 2, 3)]


@pytest.mark.parametrize("width", [1, 2, 3])
def test_folded_counts_give_the_mean_of_the_picked_contributions(width: int) -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(4, 6).double(), nn.Linear(6, 3).double()
    model, x = nn.Sequential(first, nn.Tanh(), second), torch.randn(5, 4).double()
    path = a_path([4, 4, 1, 4, 1, 1, 0, 4], [9.0, 9.0, 5.0, 4.0, 3.0, 6.0, 2.0, 2.5])
    structure = find_structure(model, x)
    kept = KeptChannels.of_paths({"0": path}, {"0": width}, fold=True)
    hidden = torch.tanh(first(x))
    picked = path.picks[: prefix_length(path, width)]
    contributions = [6 * hidden[:, [i]] @ second.weight[:, [i]].T for i in picked]
    expected = sum(contributions, torch.zeros(())) / len(picked) + second.bias
    small = make_smaller(model, structure, kept)
    assert small[0].out_features == width
    torch.testing.assert_close(small(x), expected)


def test_channels_that_a_shortcut_pads_with_zeros_are_left() -> None:
    """A convolution behind the padding has eight channels of the layer, and four on each side."""
    torch.manual_seed(0)
    model = zoo.zero_pad_resnet()
    structure = find_structure(model, zoo.images(), coupled=True)
    outputs = KeptChannels({"conv1": (0, 2)}).outputs(structure, model)
    assert outputs["conv1"].tolist() == [0, 2]
    assert outputs["blocks.1.conv2"].tolist() == [0, 1, 2, 3, 4, 6, 12, 13, 14, 15]
    assert "blocks.0.conv1" not in outputs


def with_nan(model: nn.Module) -> nn.Module:
    broken = copy.deepcopy(model)
    broken.weight.data[0, 0] = torch.nan
    return broken


def test_networks_that_give_no_numbers_are_not_equal() -> None:
    model, x = nn.Linear(3, 2), torch.ones(4, 3)
    assert check_equal(model, copy.deepcopy(model), [x]) == 0.0
    batches: list[Tensor] = [x, x]
    for small, masked in ((with_nan(model), model), (model, with_nan(model))):
        with pytest.raises(RunError, match="differs from the masked one by nan"):
            check_equal(small, masked, batches)


@pytest.mark.parametrize(
    ("dtype", "rounded", "other"),
    [(torch.float16, 1.001, 1.05), (torch.bfloat16, 1.02, 1.3), (torch.float32, 1.00001, 1.001)],
)
def test_outputs_may_differ_by_rounding_in_their_dtype(dtype, rounded, other) -> None:
    model, x = nn.Linear(1, 1, bias=False).to(dtype), torch.ones(1, 1, dtype=dtype)
    near, far = copy.deepcopy(model), copy.deepcopy(model)
    for network, weight in ((model, 1.0), (near, rounded), (far, other)):
        network.weight.data.fill_(weight)
    assert 0 < check_equal(near, model, [x]) < 2 * (rounded - 1)
    with pytest.raises(RunError, match="differs from the masked one"):
        check_equal(far, model, [x])
