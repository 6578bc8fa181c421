from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gfs_dist.errors import InputError
from gfs_dist.networks.measure.inputs import tensors_of
from gfs_dist.pruning.structure.discover import find_structure
from gfs_dist.pruning.structure.shrink import mask, shrink
from gfs_dist.pruning.structure.structure import Structure
from tests.pruning.oddities import other_networks
from tests.pruning.zoo import images, plain_cnn, ten_networks, vgg, zero_pad_resnet

ALL = {
    name: network
    for name, network in (ten_networks() | other_networks()).items()
    if name not in ("always random", "one layer")
}
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


def some(structure: Structure, seed: int) -> dict[str, list[int]]:
    """Random candidates of every layer: any number of them, at least one."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for layer in structure.layers:
        order = torch.randperm(layer.num_candidates, generator=generator)
        count = int(torch.randint(1, layer.num_candidates + 1, (), generator=generator))
        kept[layer.name] = sorted(order[:count].tolist())
    return kept


def assert_same(one: nn.Module, other: nn.Module, x: Tensor, tolerance: float) -> None:
    with torch.no_grad():
        for a, b in zip(tensors_of(one(x)), tensors_of(other(x)), strict=True):
            assert float((a - b).abs().max()) <= tolerance * float(a.abs().max())


def lively(network: nn.Module) -> nn.Module:
    """Norms with scales, shifts and statistics of their own, as after training."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if value.dim() == 1 and value.is_floating_point() and "gamma" not in name:
            value.copy_(0.5 + torch.rand(len(value), generator=generator))
    return network.eval()


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_shrunk_equals_masked(name: str, coupled: bool) -> None:
    structure = find_structure(*ALL[name], coupled=coupled)
    kept = some(structure, seed=3)
    for dtype, tolerance in TOLERANCE.items():
        if name == "float32 in the code" and dtype == torch.float64:
            continue
        network, x = lively(copy.deepcopy(ALL[name][0]).to(dtype)), ALL[name][1]
        x = x.to(dtype) if x.is_floating_point() else x
        masked, smaller = mask(network, structure, kept), shrink(network, structure, kept)
        assert_same(masked, smaller, x, tolerance)
        other = torch.flip(x, [0]) * 2 if x.is_floating_point() else 9 - x
        assert_same(masked, smaller, other, tolerance)


@pytest.mark.parametrize("name", ["DenseNet", "squeeze-and-excitation", "U-Net", "one dimension"])
def test_one_candidate_of_each_layer_is_enough(name: str) -> None:
    network, x = ALL[name]
    structure = find_structure(network, x, coupled=True)
    kept = {layer.name: [layer.num_candidates - 1] for layer in structure.layers}
    network = lively(copy.deepcopy(network))
    smaller = shrink(network, structure, kept)
    assert_same(mask(network, structure, kept), smaller, x, 1e-4)
    for layer in structure.layers:
        for part in layer.producers:
            weight = smaller.get_submodule(part.module).get_parameter("weight")
            assert len(weight) == len(part.channels[0])


def test_shrunk_modules_have_the_shapes_that_they_state() -> None:
    network, x = vgg(), images()
    structure = find_structure(network, x)
    smaller = shrink(network, structure, {"7": [0, 2, 4], "10": [1, 15], "15": [3]})
    assert smaller[7].weight.shape == (3, 8, 3, 3)
    assert (smaller[7].out_channels, smaller[7].in_channels) == (3, 8)
    assert smaller[8].num_features == len(smaller[8].running_var) == 3
    assert smaller[10].weight.shape == (2, 3, 3, 3)
    assert smaller[15].weight.shape == (1, 8)
    assert smaller[18].weight.shape == (5, 1)


def test_kept_weights_are_those_of_the_network() -> None:
    network, x = plain_cnn(), images()
    structure = find_structure(network, x)
    smaller = shrink(network, structure, {"3": [1, 4]})
    assert torch.equal(smaller[3].weight, network[3].weight[[1, 4]])
    assert torch.equal(smaller[3].bias, network[3].bias[[1, 4]])
    assert torch.equal(smaller[6].weight, network[6].weight[:, [4, 5, 6, 7, 16, 17, 18, 19]])


def test_masks_zero_what_consumers_read_and_nothing_else() -> None:
    network, x = plain_cnn(), images()
    masked = mask(network, find_structure(network, x), {"0": [0, 1, 2, 3, 4, 6, 7]})
    expected = copy.deepcopy(network.state_dict())
    expected["3.weight"][:, 5] = 0
    torch.testing.assert_close(masked.state_dict(), expected, rtol=0, atol=0)


def test_refitted_consumers_with_new_biases_are_shrunk_too() -> None:
    network, x = zero_pad_resnet().eval(), images()
    structure = find_structure(network, x)
    for layer in structure.layers:
        consumer = network.get_submodule(layer.consumers[0].module)
        consumer.weight.data.normal_()
        consumer.bias = nn.Parameter(torch.randn(len(consumer.weight)))
        producer = network.get_submodule(layer.name)
        producer.bias = nn.Parameter(torch.randn(len(producer.weight)))
    kept = some(structure, seed=5)
    assert_same(mask(network, structure, kept), shrink(network, structure, kept), x, 1e-4)


def test_copies_keep_training_modes_and_frozen_weights() -> None:
    network, x = vgg(), images()
    network[4].eval()
    network[3].requires_grad_(False)
    structure = find_structure(network, x)
    before = copy.deepcopy(network.state_dict())
    for copied in (mask, shrink):
        smaller = copied(network, structure, some(structure, seed=7))
        assert [m.training for m in smaller.modules()] == [m.training for m in network.modules()]
        frozen = [key for key, weight in smaller.named_parameters() if not weight.requires_grad]
        assert frozen == ["3.weight", "3.bias"]
        assert all(weight.is_leaf for weight in smaller.parameters())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_absent_layers_stay_whole() -> None:
    network, x = vgg(), images()
    smaller = shrink(network, find_structure(network, x), {})
    torch.testing.assert_close(smaller.state_dict(), network.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"9": [0]}, "kept: no layer '9'; this network has 0, 3, 6"),
        ({"3": []}, "layer '3': kept needs at least one of its 6 candidates, .* found \\[\\]"),
        ({"3": [2, 1]}, "layer '3': kept needs .* sorted distinct numbers from 0 to 5; found"),
        ({"3": [1, 1]}, "layer '3': kept needs .* found \\[1, 1\\]"),
        ({"3": [4, 6]}, "layer '3': kept needs .* found \\[4, 6\\]"),
        ({"3": [-1, 2]}, "layer '3': kept needs .* found \\[-1, 2\\]"),
    ],
)
def test_impossible_selections_are_refused(kept: dict[str, list[int]], message: str) -> None:
    network = plain_cnn()
    structure = find_structure(network, images())
    with pytest.raises(InputError, match=message):
        shrink(network, structure, kept)
    with pytest.raises(InputError, match=message):
        mask(network, structure, kept)
