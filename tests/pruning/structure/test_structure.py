from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import torch_pruning
from torch import Tensor, nn

from gfs_dist.errors import InputError
from gfs_dist.networks.models.layer_kinds import is_layer
from gfs_dist.pruning.structure.discover import find_structure, nothing_to_prune
from gfs_dist.pruning.structure.structure import Layer, Slice, Structure
from gfs_dist.pruning.structure.trial_removal import try_removal
from tests.pruning.oddities import other_networks
from tests.pruning.zoo import images, mobilenet, plain_cnn, ten_networks, vgg

TEN = ten_networks()
ALL = TEN | other_networks()
INNER = {
    "plain CNN": {"0": 8, "3": 6, "6": 10},
    "VGG with BN": {"0": 8, "3": 8, "7": 16, "10": 16, "15": 20},
    "ResNet18": {"blocks.0.conv1": 8, "blocks.1.conv1": 16, "blocks.2.conv1": 16},
    "ResNet50": {
        "conv1": 8,
        **{f"blocks.{i}.conv{j}": 8 if i == 2 else 4 for i in range(3) for j in (1, 2)},
    },
    "MobileNetV2": {"4.conv.0": 24, "5.conv.0": 36, "6": 20},
    "DenseNet": {
        "0": 8, "1.conv1": 8, "1.conv2": 4, "2.conv1": 8, "2.conv2": 4, "3.conv1": 8, "3.conv2": 4,
        "6": 10, "8.conv1": 8, "8.conv2": 4,
    },
    "grouped convolution": {
        "conv1": 8,
        "blocks.0.conv1": 2, "blocks.1.conv1": 2, "blocks.2.conv1": 4, "blocks.2.conv2": 4,
    },
    "squeeze-and-excitation": {
        "4.conv.0": 24, "4.conv.6.fc1": 6, "5.conv.0": 36, "5.conv.6.fc1": 6, "6": 20,
    },
    "U-Net": {"down1": 6, "down2": 8, "bottom": 10, "join": 6},
    "MLP": {"1": 32, "3": 16},
    "shared layer": {"conv": 12},
}  # fmt: skip
INNER |= {
    "zero-padded ResNet": {"blocks.0.conv1": 8, "blocks.1.conv1": 16, "blocks.2.conv1": 16},
    "transposed convolution": {"down1": 6, "down2": 8, "bottom": 10, "up": 10, "join": 6},
    "Dropout": {"0": 8, "2": 6},
    "LayerNorm": {},
    "GroupNorm": {"0": 4, "3": 6},
    "ConvNeXt": {"1.expand": 16},
    "GRU": {"fc": 7},
    "LSTM": {"fc": 7},
    "packed GRU": {"fc": 7},
    "attention": {"fc": 16},
    "channel shuffle": {"second": 6},
    "gate by chunk": {"first": 6},
    "gate by two layers": {"gate": 8},
    "flattened branches": {"one": 4, "two": 6},
    "dictionary of outputs": {"second": 6},
    "concatenated to the image": {"first": 8, "second": 5},
    "added to the image": {"first": 8},
    "added to a concatenation": {"stem": 7, "side": 6},
    "dropped channels": {},
    "spatial attention": {},
    "pixel shuffle": {"0": 2},
    "maxout": {},
    "generator": {},
    "sizes in the code": {},
    "always random": {},
    "detached reader": {},
    "detached output": {},
    "sound one by one": {"first": 8},
    "float32 in the code": {"first": 8},
    "unused layer": {"first": 8},
    "softmax over channels": {"3": 6},
    "tied weights": {"6": 9},
    "weight norm": {"2": 6},
    "one dimension": {"0": 8, "2": 6, "5": 7},
    "three dimensions": {"0": 6},
    "depthwise first": {"1": 8},
    "depth multiplier": {"0": 4},
    "one channel": {"2": 4},
    "one layer": {},
    "words": {"1": 8},
}
INNER |= {
    "shared PReLU": {"layers.0": 10, "layers.1": 8},
    "PReLU called by name": {"first": 8, "second": 6},
    **{
        what: {"layers.0": 10, "layers.1": 8, "layers.2": 6}
        for what in ("PReLU shared by three", "shared dropout", "shared identity", "shared factor")
    },
    "shared PReLU of channels": {},
    "shared factor of channels": {},
    "shared norm": {},
    "shared norm without weights": {"layers.0": 8, "layers.1": 8, "layers.2": 8},
    "shared statistics": {},
    "shared layer norm": {"layers.0": 8},
    "upsampled in one dimension": {"first": 8},
    "upsampled in two": {"first": 8},
    "upsampled in three": {"first": 8},
    "upsampled in groups": {"first": 4},
    "ShuffleNet": {
        "2.reduce": 6, "3.reduce": 6, "4.reduce": 6, "5.right.0": 7,
        "6.reduce": 6, "7.reduce": 6, "8.reduce": 6, "9": 9,
    },
    "ShuffleNet of more units": {
        **{f"{i}.reduce": 6 for i in range(2, 7)}, "7.right.0": 7,
        **{f"{i}.reduce": 6 for i in range(8, 13)}, "13": 9,
    },
}  # fmt: skip
COUPLED = {
    "maxout": {"one": 8},
    "zero-padded ResNet": {"conv1": 8},
    "added to a concatenation": {"whole": 4},
    "ResNet18": {"conv1": 8, "blocks.1.conv2": 16},
    "ResNet50": {"blocks.0.conv3": 16, "blocks.2.conv3": 32},
    "MobileNetV2": {"0": 8, "4.conv.6": 12},
    "grouped convolution": {"blocks.0.conv3": 16, "blocks.2.conv3": 32},
    "squeeze-and-excitation": {"0": 8, "4.conv.7": 12},
}
REASONS = [
    ("ResNet18", "blocks.0.conv2", "added to those of 'conv1': residual width (coupled=true"),
    ("ResNet18", "fc", "network output"),
    ("shared layer", "twice", "called more than once in a forward pass"),
    ("shared layer", "stem", "read by 'twice': called more than once in a forward pass"),
    ("LayerNorm", "0", "channels are mixed on the way to '2' (a norm"),
    ("ConvNeXt", "1.depthwise", "channels are mixed by LayerNorm '1.norm'"),
    ("ConvNeXt", "1.project", "tied to the parameter '1.gamma'"),
    ("GRU", "conv", "its channels go into GRU 'rnn'"),
    ("LSTM", "conv", "its channels go into LSTM 'rnn'"),
    ("packed GRU", "conv", "the forward pass splits its channels"),
    ("attention", "conv", "its channels go into MultiheadAttention 'mix'"),
    ("attention", "mix.out_proj", "never called in the forward pass"),
    ("channel shuffle", "first", "changes the rest of the network: its output changes by up to"),
    ("dictionary of outputs", "first", "network output"),
    ("added to the image", "second", "tied to those of the network's input"),
    ("added to a concatenation", "whole", "do not map one to one to those of 'one'"),
    ("gate before a sum", "first", "added to those of 'shortcut': residual width"),
    ("added to a concatenation", "one", "added to those of 'whole': residual width"),
    ("dropped channels", "first", "nothing that can be fitted reads its channels"),
    ("spatial attention", "first", "do not map one to one to those of 'attend'"),
    ("maxout", "one", "combined with those of 'two' (Maximum)"),
    ("generator", "first", "do not map one to one to those of 'head'"),
    ("sizes in the code", "first", "its forward pass then fails (RuntimeError: mat1 and mat2"),
    ("always random", "first", "two passes over one input differ with nothing removed"),
    ("detached reader", "first", "its forward pass then fails"),
    ("detached output", "first", "an output of shape (2, 8) becomes (2, 4)"),
    ("sound one by one", "second", "its forward pass then fails (NotImplementedError: only one"),
    ("unused layer", "unused", "never called in the forward pass"),
    ("softmax over channels", "0", "its output changes by up to"),
    ("tied weights", "0", "read by '2': shares its weights with '4'"),
    ("weight norm", "0", "its weight is computed from other parameters"),
    ("depthwise first", "0", "tied to those of the network's input"),
    ("one channel", "0", "has only one channel"),
    ("shared PReLU of channels", "layers.0", "tied to 'shared': called more than once"),
    ("shared factor of channels", "layers.1", "tied to the parameter 'shared.factor'"),
    ("shared norm", "layers.1", "tied to 'shared': called more than once"),
    ("shared statistics", "layers.0", "tied to 'shared': called more than once"),
    ("ShuffleNet", "0", "the forward pass splits its channels"),
    ("ShuffleNet", "2.expand", "its channels do not go together in equal sets"),
]


def found(name: str, *, coupled: bool = False) -> Structure:
    return _found(name, coupled)


@functools.cache
def _found(name: str, coupled: bool) -> Structure:
    return find_structure(*ALL[name], coupled=coupled)


def widths(structure: Structure) -> dict[str, int]:
    return {layer.name: layer.num_candidates for layer in structure.layers}


def layer_of(structure: Structure, name: str) -> Layer:
    return next(layer for layer in structure.layers if layer.name == name)


def names(slices: tuple[Slice, ...]) -> list[str]:
    return [part.module for part in slices]


@pytest.mark.parametrize("name", INNER)
def test_inner_channels_are_found(name: str) -> None:
    assert widths(found(name)) == INNER[name]


@pytest.mark.parametrize("name", INNER)
def test_residual_widths_are_found_on_request(name: str) -> None:
    assert widths(found(name, coupled=True)) == INNER[name] | COUPLED.get(name, {})


@pytest.mark.parametrize(("name", "module", "reason"), REASONS)
def test_the_rest_is_skipped_with_a_reason(name: str, module: str, reason: str) -> None:
    reasons = {skip.name: skip.reason for skip in found(name).skipped}
    assert reason in reasons[module]


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_every_layer_is_either_pruned_or_skipped(name: str, coupled: bool) -> None:
    structure = found(name, coupled=coupled)
    pruned = {part.module for layer in structure.layers for part in layer.cut_slices}
    skipped = [skip.name for skip in structure.skipped]
    layers = {key for key, module in ALL[name][0].named_modules() if is_layer(module)}
    assert len(skipped) == len(set(skipped))
    assert layers == (pruned & layers) | set(skipped)
    assert not pruned & set(skipped)
    for skip in structure.skipped:
        module: Any = ALL[name][0].get_submodule(skip.name)
        assert skip.channels == getattr(module, "out_channels", 0) or module.out_features


def test_what_torch_pruning_cannot_follow_at_all_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stumble(*_: Any) -> None:
        raise KeyError("no\nsuch node")

    monkeypatch.setattr(torch_pruning.dependency.shape_infer, "init_shape_information", stumble)
    with pytest.raises(InputError, match=r"^network .*: torch-pruning cannot .*KeyError: .*\)$"):
        find_structure(*ALL["plain CNN"])


def test_a_layer_is_named_after_the_first_producer_and_owns_it() -> None:
    structure = found("added to a concatenation", coupled=True)
    assert [layer.name for layer in structure.layers] == ["stem", "whole", "side"]
    layer = layer_of(structure, "whole")
    assert names(layer.producers) == ["whole", "one"]
    assert layer.producers[0].channels == ((0,), (1,), (2,), (3,))
    (other,) = [skip.reason for skip in structure.skipped if skip.name == "two"]
    assert other == "its channels go with some of those of 'whole', a layer of its own"


@pytest.mark.parametrize("name", ["VGG with BN", "ConvNeXt", "words"])
def test_frozen_weights_make_no_difference(name: str) -> None:
    network, x = ALL[name]
    frozen = copy.deepcopy(network).requires_grad_(False)
    assert find_structure(frozen, x) == find_structure(network, x)


def test_expand_depthwise_and_project_go_together() -> None:
    layer = layer_of(found("MobileNetV2"), "4.conv.0")
    assert names(layer.producers) == ["4.conv.0"]
    assert names(layer.carriers) == ["4.conv.1", "4.conv.3", "4.conv.4"]
    assert names(layer.consumers) == ["4.conv.6"]


def test_an_excitation_loses_the_channels_that_it_scales() -> None:
    layer = layer_of(found("squeeze-and-excitation"), "4.conv.0")
    assert names(layer.producers) == ["4.conv.0", "4.conv.6.fc2"]
    assert names(layer.consumers) == ["4.conv.6.fc1", "4.conv.7"]


def test_features_behind_a_flatten_go_with_their_channel() -> None:
    (consumer,) = layer_of(found("plain CNN"), "3").consumers
    assert consumer.channels == tuple(tuple(range(4 * c, 4 * c + 4)) for c in range(6))


def test_concatenated_channels_are_read_at_their_offset() -> None:
    layer = layer_of(found("DenseNet"), "2.conv2")
    assert names(layer.carriers) == ["3.norm1", "4"]
    assert names(layer.consumers) == ["3.conv1", "6"]
    assert all(part.channels == ((12,), (13,), (14,), (15,)) for part in layer.consumers)


def test_a_padded_shortcut_shifts_the_channels() -> None:
    layer = layer_of(found("zero-padded ResNet", coupled=True), "conv1")
    outer = next(part for part in layer.producers if part.module == "blocks.1.conv2")
    assert outer.channels == tuple((c + 4,) for c in range(8))


@pytest.mark.parametrize(
    ("network", "channel", "producer", "consumer"),
    [
        (plain_cnn(), 3, "0", "3"),
        (plain_cnn(), 2, "3", "6"),
        (vgg(), 7, "10", "15"),
        (mobilenet(), 5, "4.conv.0", "4.conv.6"),
    ],
)
def test_a_consumer_reads_a_candidate_in_its_channels_only(
    network: nn.Module, channel: int, producer: str, consumer: str
) -> None:
    """The oracle: disturb one output channel and see which inputs of the consumer change."""
    network, x = network.eval(), images()
    slices = layer_of(find_structure(network, x), producer).consumers
    (part,) = [part for part in slices if part.module == consumer]
    before = reads(network, consumer, x)
    with torch.no_grad():
        network.get_submodule(producer).get_parameter("weight")[channel] += 1
    changed = (reads(network, consumer, x) - before).abs().transpose(0, 1).flatten(1).sum(1)
    own = set(part.channels[channel])
    assert set(changed.nonzero().flatten().tolist()) <= own
    assert changed[list(own)].max() > 0


def reads(network: nn.Module, consumer: str, x: Tensor) -> Tensor:
    inputs: list[Tensor] = []
    module = network.get_submodule(consumer)
    hook = module.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    network(x)
    hook.remove()
    return inputs[0].detach()


@pytest.mark.parametrize("name", ["MobileNetV2", "DenseNet", "zero-padded ResNet", "GRU"])
def test_two_searches_find_the_same(name: str) -> None:
    network, x = ALL[name]
    torch.manual_seed(1)
    assert find_structure(network, x) == find_structure(copy.deepcopy(network), 3 * x)


def test_nothing_given_is_modified(capsys: pytest.CaptureFixture[str]) -> None:
    network, x = vgg(), images().requires_grad_(True)
    network[1].eval()
    network[3].requires_grad_(False)
    state, sample = copy.deepcopy(network.state_dict()), x.detach().clone()
    modes = [module.training for module in network.modules()]
    needs = [parameter.requires_grad for parameter in network.parameters()]
    generator = torch.get_rng_state()
    with torch.no_grad():
        find_structure(network, x, coupled=True)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
    torch.testing.assert_close(x.detach(), sample, rtol=0, atol=0)
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == needs
    assert all(parameter.grad is None for parameter in (*network.parameters(), x))
    assert not any(hooks(module) for module in network.modules())
    assert torch.equal(torch.get_rng_state(), generator)
    assert capsys.readouterr() == ("", "")


def hooks(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def test_an_input_that_the_network_overwrites_stays() -> None:
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.randn(2, 4, dtype=torch.float64)
    before = x.clone()
    find_structure(network.double(), x)
    assert torch.equal(x, before)


def test_inference_mode_is_no_obstacle() -> None:
    with torch.inference_mode():
        assert widths(find_structure(plain_cnn(), images())) == INNER["plain CNN"]


def test_float64_and_single_samples_will_do() -> None:
    assert widths(find_structure(vgg().double(), images()[:1].double())) == INNER["VGG with BN"]


def test_a_layer_that_is_wrong_is_found_among_sound_ones() -> None:
    network, x = vgg(), images()
    layers = list(find_structure(network, x).layers)
    (consumer,) = layers[2].consumers
    swapped = Slice(consumer.module, consumer.channels[::-1])
    layers[2] = Layer("7", 16, layers[2].producers, layers[2].carriers, (swapped,))
    faults = try_removal(network, layers, x)
    assert list(faults) == ["7"]
    assert "removing its channels changes the rest of the network" in faults["7"]


def test_a_forgotten_norm_is_found_though_its_branch_is_silent() -> None:
    """A branch that ends in a zero scale does not reach the output of the network as given."""
    network, x = ALL["ResNet18"]
    network = copy.deepcopy(network).eval()
    nn.init.zeros_(network.get_submodule("blocks.0.bn2").get_parameter("weight"))
    layers = list(find_structure(network, x).layers)
    (consumer,) = layers[0].consumers
    shifted = Slice(consumer.module, (*consumer.channels[1:], consumer.channels[0]))
    layers[0] = Layer(layers[0].name, 8, layers[0].producers, layers[0].carriers, (shifted,))
    assert list(try_removal(network, layers, x)) == ["blocks.0.conv1"]


def test_a_network_without_anything_to_prune_is_an_error() -> None:
    error = nothing_to_prune("Sequential", found("one layer"))
    assert "network Sequential: nothing in it can be pruned ('1': network output)" in str(error)
    error = nothing_to_prune("ReLU", Structure((), ()))
    assert "it has no convolutions and no linear layers" in str(error)
    skipped = found("tied weights").skipped
    assert "; and 1 more); accepted is" in str(nothing_to_prune("Tied", Structure((), skipped)))


class ArgMax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).argmax(1)


class Remembers(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)
        return self.last


def remembering() -> nn.Module:
    network = Remembers(4, 3)
    network(torch.ones(1, 4))
    return network


def test_networks_that_cannot_be_followed_are_refused() -> None:
    x = torch.ones(2, 4)
    with pytest.raises(InputError, match=r"network Linear: its forward pass refuses an input of"):
        find_structure(nn.Linear(5, 3), x)
    with pytest.raises(InputError, match="network ArgMax: no gradient leads from its output to"):
        find_structure(ArgMax(), x)
    with pytest.raises(InputError, match="network Remembers: it cannot be copied .RuntimeError"):
        find_structure(remembering(), x)
    with pytest.raises(InputError, match="network LazyLinear: it has lazy layers without weights"):
        find_structure(nn.LazyLinear(3), x)
