"""Records of removals, and networks made again from them.

Reaches inside for records that no network of ours would give.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from gfs_dist import networks
from gfs_dist.errors import CheckpointError, ConfigError
from gfs_dist.networks.graph.json_values import UnstorableError
from gfs_dist.networks.storage.rebuild import make_unpruned
from gfs_dist.networks.storage.removals import SIZES, removals, remove
from tests.networks import nets

CATALOG = {"model": "resnet20_cifar", "num_classes": 10, "in_channels": 3}
OWN = {"model": "custom", "factory": "tests.networks.nets:OneWay", "kwargs": {}}


def narrow() -> nn.Module:
    """The CIFAR ResNet20 with 5 of the 16 inner channels of its first block."""
    network = networks.make("resnet20_cifar", 10)
    block = network.get_submodule("layer1.0")
    block.conv1, block.bn1 = nn.Conv2d(16, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
    block.conv2 = nn.Conv2d(5, 16, 3, padding=1, bias=False)
    return network


def test_the_record_says_what_changed_and_nothing_else() -> None:
    record = removals(make_unpruned(CATALOG), narrow())
    assert record == {
        "shapes": {
            "layer1.0.conv1.weight": [5, 16, 3, 3],
            "layer1.0.bn1.weight": [5],
            "layer1.0.bn1.bias": [5],
            "layer1.0.conv2.weight": [16, 5, 3, 3],
            "layer1.0.bn1.running_mean": [5],
            "layer1.0.bn1.running_var": [5],
        },
        "sizes": {
            "layer1.0.conv1": {"out_channels": 5},
            "layer1.0.bn1": {"num_features": 5},
            "layer1.0.conv2": {"in_channels": 5},
        },
    }
    assert removals(make_unpruned(CATALOG), make_unpruned(CATALOG)) == {"shapes": {}, "sizes": {}}


def test_replaying_the_record_gives_the_same_layers() -> None:
    network, again = narrow(), make_unpruned(CATALOG)
    remove(again, removals(again, network))
    assert repr(again) == repr(network)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == shapes


def test_a_shared_tensor_is_cut_once() -> None:
    network = nets.Shared()
    kept = copy.deepcopy(network)
    shape = [5, 12]
    remove(network, {"sizes": {}, "shapes": {"encode.weight": shape, "tied.weight": shape}})
    assert network.tied.weight is network.encode.weight
    assert network.tied.weight.shape == (5, 12)
    assert network.inner.weight is not kept.inner.weight


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ({"model": "resnet19"}, "model: found 'resnet19', accepted custom, resnet18"),
        ({"model": ["custom"]}, r"model: found \['custom'\], accepted custom"),
        (
            {**CATALOG, "num_classes": "10"},
            r"found \('10', 3\) classes and channels, accepted whole",
        ),
        ({**CATALOG, "num_classes": 2**40}, "classes and channels, accepted whole numbers from 1"),
        ({**CATALOG, "width": "0.5"}, "width: found 0.5, accepted a number above 0"),
        ({**CATALOG, "width": 1e300}, r"width: found 1e\+300, accepted a number above 0"),
        ({**CATALOG, "in_channels": 0}, r"found \(10, 0\) classes and channels"),
        ({"model": "custom"}, "model.factory: found 'None' with {}, accepted package.module:func"),
        ({**OWN, "kwargs": [1]}, r"with \[1\], accepted package.module:function"),
        ({**OWN, "kwargs": {"depth": 1}}, "tests.networks.nets:OneWay raised TypeError"),
        ({**OWN, "factory": "tests.networks.nets:none"}, "found no none in "),
    ],
)
def test_an_impossible_origin_is_refused(origin: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_unpruned(origin, allowed_factory=origin.get("factory"))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (3, "removals: found int, accepted an object"),
        ({"sizes": []}, "removals.sizes: found list of 0"),
        ({"sizes": {"none": {}}}, "removals: the network has no layer 'none'"),
        ({"sizes": {"conv1": 3}}, "removals: layer 'conv1': found int"),
        ({"sizes": {"conv1": {"forward": 3}}}, "layer 'conv1' has no 'forward' to be 3"),
        ({"sizes": {"conv1": {"num_features": 3}}}, "layer 'conv1' has no 'num_features' to be 3"),
        ({"sizes": {"conv1": {"groups": "3"}}}, "layer 'conv1' has no 'groups' to be 3"),
        ({"sizes": {}, "shapes": None}, "removals.shapes: found NoneType"),
        ({"sizes": {}, "shapes": {"conv1.none": [1]}}, "tensor 'conv1.none': the network has none"),
        ({"sizes": {}, "shapes": {"conv1.forward": [1]}}, "'conv1.forward': the network has none"),
        ({"sizes": {}, "shapes": {"none.weight": [1]}}, "the network has no layer 'none'"),
        ({"sizes": {}, "shapes": {"conv1.weight": 3}}, "found shape 3, which no tensor has"),
        ({"sizes": {}, "shapes": {"conv1.weight": [2**62, 9]}}, "which no tensor has"),
    ],
)
def test_an_impossible_record_is_refused(record: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        remove(make_unpruned(CATALOG), record)


def test_weights_are_compared_with_the_record() -> None:
    network = narrow()
    architecture = {**CATALOG, "removals": removals(make_unpruned(CATALOG), network)}
    tensors = network.state_dict()
    assert networks.load_tensors(architecture, tensors, "file").training is False
    architecture["removals"]["shapes"]["layer1.0.bn1.bias"] = [2**40]
    message = r"file: tensor 'layer1.0.bn1.bias': found \(5,\), accepted \(1099511627776,\)"
    with pytest.raises(CheckpointError, match=message):
        networks.load_tensors(architecture, tensors, "file")


def test_other_layers_are_no_removals() -> None:
    more = narrow()
    more.add_module("more", nn.ReLU())
    with pytest.raises(UnstorableError, match="layer 'more' is missing in what its factory makes"):
        removals(make_unpruned(CATALOG), more)
    with pytest.raises(UnstorableError, match="layer 'more' is missing in the pruned network"):
        removals(more, make_unpruned(CATALOG))


def test_sizes_are_attributes_of_torch_layers() -> None:
    layers = (nn.Conv2d(2, 2, 1), nn.Linear(2, 2), nn.BatchNorm2d(2), nn.GroupNorm(2, 2))
    layers += (nn.LayerNorm(2), nn.PReLU(2), nn.Embedding(2, 2))
    assert all(any(hasattr(layer, name) for layer in layers) for name in SIZES)


def test_weights_on_the_meta_device_are_all_replaced() -> None:
    found = networks.load_tensors(CATALOG, networks.make("resnet20_cifar", 10).state_dict(), "file")
    assert not any(tensor.is_meta for tensor in found.state_dict().values())
    assert found(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
