"""Networks through their description in JSON and back.

Reaches inside: through a folder most networks have a second way to be stored, which would hide
a description that is wrong or refused.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from gfs_dist.errors import ShapeError
from gfs_dist.networks.graph.allowed import FUNCTIONS, MODULES
from gfs_dist.networks.graph.build import build, make_layer
from gfs_dist.networks.graph.describe import describe
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.json_values import UnstorableError
from gfs_dist.networks.graph.tensors import assign, named_tensors
from tests.networks import nets


def again(network: nn.Module, *inputs: Tensor) -> GraphNetwork:
    """Described, through JSON text, and built."""
    graph, tensors = describe(network, inputs)
    made = build(json.loads(json.dumps(graph, allow_nan=False)))
    assign(made, named_tensors(made), tensors, "tensors")
    made.train(network.training)
    return made


def equal(one: object, two: object) -> bool:
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and all(map(equal, one, two))
    return isinstance(one, Tensor) and isinstance(two, Tensor) and torch.equal(one, two)


@pytest.fixture(params=nets.TRACED)
def traced(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    make, shape = nets.TRACED[request.param]
    return nets.shaken(make()), torch.randn(3, *shape)


def test_outputs_and_state_are_those_of_the_original(traced: tuple[nn.Module, Tensor]) -> None:
    network, x = traced
    made = again(network, x)
    assert equal(made(x), network(x))
    assert equal(made(x[:1]), network(x[:1]))
    assert made.state_dict().keys() == network.state_dict().keys()
    assert equal(dict(made.state_dict()), dict(network.state_dict()))


def test_training_is_that_of_the_original(traced: tuple[nn.Module, Tensor]) -> None:
    network, x = traced
    made = again(network, x)
    outputs = []
    for one in (network, made):
        torch.manual_seed(1)
        found = one.train()(x)
        outputs.append([found] if isinstance(found, Tensor) else list(found.values()))
        sum(y.square().sum() for y in outputs[-1]).backward()
    assert equal(*outputs)
    assert equal(dict(made.state_dict()), dict(network.state_dict()))  # running statistics
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    found = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
    assert gradients
    assert equal(found, gradients)


def test_the_original_is_not_modified(traced: tuple[nn.Module, Tensor]) -> None:
    network, x = traced
    network.train()
    before, kept = copy.deepcopy(network.state_dict()), list(vars(network))
    describe(network, [x])
    assert network.training
    assert list(vars(network)) == kept
    assert equal(dict(network.state_dict()), dict(before))


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network)), again],
    ids=["deepcopy", "pickle", "described again"],
)
def test_a_copy_of_what_was_built_is_whole(
    traced: tuple[nn.Module, Tensor], copied: Callable[[nn.Module], nn.Module]
) -> None:
    network, x = traced
    made = again(network, x)
    other = copied(made)
    with torch.no_grad():
        for tensor in named_tensors(made).values():
            tensor.zero_()
    assert equal(other(x), network(x))
    assert other.state_dict().keys() == network.state_dict().keys()


def test_ties_and_names_are_kept() -> None:
    made = again(nets.Shared(), torch.randn(2, 12))
    assert made.tied.weight is made.encode.weight
    assert made.again is made.inner
    assert "offset" not in made.state_dict()
    assert len(list(made.parameters())) == len(list(nets.Shared().parameters()))


def test_layers_can_be_replaced() -> None:
    network = nets.shaken(nets.mlp())
    x = torch.randn(2, 12)
    made = again(network, x)
    made.add_module("4", nn.Identity())
    assert made(x).shape == (2, 7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_kept(dtype: torch.dtype) -> None:
    network = nets.shaken(nets.Dense()).to(dtype)
    x = torch.randn(2, *nets.IMAGES, dtype=dtype)
    made = again(network, x)
    assert equal(made(x), network(x))
    assert {p.dtype for p in made.parameters()} == {dtype}


@pytest.mark.parametrize(
    ("given", "other"),
    [((2, 3, 8, 8), (2, 3, 8, 9)), ((2, 3, 9, 9), (2, 3, 9, 8)), ((2, 3, 8, 8), (2, 3, 40, 8))],
)
def test_conditions_on_shapes_hold_or_are_told(
    given: tuple[int, ...], other: tuple[int, ...]
) -> None:
    network = nets.shaken(nets.Conditions())
    x = torch.randn(given)
    made = again(network, x)
    assert torch.equal(made(x), network(x))
    assert torch.equal(made(torch.cat([x, x])), network(torch.cat([x, x])))
    network(torch.randn(other))
    with pytest.raises(AssertionError, match="was recorded for inputs of other shapes"):
        made(torch.randn(other))


class Modes(nn.Module):
    def __init__(self, step: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.step = step

    def forward(self, x: Tensor, scale: float = 2.0, flag: bool = False) -> Tensor:
        x = self.step(self, self.layer(x))
        return x * scale if not flag else x


def test_arguments_that_the_example_leaves_out_keep_their_defaults() -> None:
    network, x = Modes(lambda self, x: x + 1), torch.randn(2, 4)
    assert torch.equal(again(network, x)(x), network(x))


def test_several_inputs_go_by_position() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, *more: Tensor) -> tuple[Tensor, list[Tensor]]:
            return x - more[0], [x, more[0] * 2]

    x, y = torch.randn(2, 4), torch.randn(2, 4)
    made = again(Two(), x, y)
    assert equal(made(x, y), Two()(x, y))
    with pytest.raises(ShapeError, match="inputs: found 1, accepted 2"):
        made(x)


def test_steps_of_training_that_evaluation_lacks_are_told() -> None:
    network = Modes(lambda self, x: x * torch.rand(1) if self.training else x)
    graph, _ = describe(network, [torch.randn(2, 4)])
    assert graph["evaluation_only"] is True
    assert "evaluation_only" not in describe(nets.Dense(), [torch.randn(2, *nets.IMAGES)])[0]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            Modes(lambda self, x: x if x.sum() > 0 else -x),
            r"cannot be recorded \(TraceError: symbolically traced variables",
        ),
        (nn.Sequential(nn.LSTM(4, 4)), "layer '0' is a LSTM"),
        (Modes(lambda self, x: torch.linalg.inv(x)), "calls .*inv"),
        (Modes(lambda self, x: x.set_(x)), "step 'set_' calls Tensor.set_"),
        (Modes(lambda self, x: x.to_sparse()), "calls Tensor.to_sparse"),
        (Modes(lambda self, x: x + 1j), "step 'add': an argument is a complex"),
        (Modes(lambda self, x: functional.pad(x, (2**80, 0))), "step 'pad': an argument is a int"),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))),
            "layer '0' is a ParametrizedLinear",
        ),
    ],
)
def test_what_cannot_be_described_is_named(network: nn.Module, message: str) -> None:
    with pytest.raises(UnstorableError, match=message):
        describe(network, [torch.randn(2, 4)])


def test_a_layer_with_tensors_of_another_kind_is_named() -> None:
    network = nets.mlp()
    network.get_submodule("1").register_buffer("extra", torch.ones(2))
    plain = r"weight \(7, 12\), bias \(7,\)"
    message = rf"'1' is no plain Linear: found {plain}, extra \(2,\), but Linear.* has {plain}:"
    with pytest.raises(UnstorableError, match=message):
        describe(network, [torch.randn(2, 12)])


def test_a_network_that_keeps_results_cannot_be_copied() -> None:
    network = nets.mlp()
    prune.random_unstructured(network.get_submodule("1"), "weight", 0.5)
    with pytest.raises(UnstorableError, match="it cannot be copied: Only Tensors created"):
        describe(network, [torch.randn(2, 12)])


ARGUMENTS = {
    "Bilinear": (3, 4, 5),
    "ChannelShuffle": (2,),
    "CircularPad1d": ((1, 0),),
    "CircularPad2d": ((1, 0, 1, 0),),
    "CircularPad3d": ((1, 0, 1, 0, 0, 0),),
    "ConstantPad1d": (1, 0.5),
    "ConstantPad2d": (1, 0.5),
    "ConstantPad3d": (1, 0.5),
    "Embedding": (5, 3, 1, 2.0),
    "Fold": ((4, 4), 2),
    "GroupNorm": (2, 4, 1e-3, False),
    "Identity": (),
    "LocalResponseNorm": (3, 1e-3),
    "LPPool1d": (2.0, 3, 2),
    "LPPool2d": (2.0, 3, 2),
    "Linear": (3, 4, False),
    "LayerNorm": ((3, 4), 1e-3, True, False),
    "Unflatten": (1, (2, 3)),
    "Upsample": (None, 2.0, "bilinear", True),
    "Threshold": (0.1, 20.0),
}


@pytest.mark.parametrize("name", MODULES)
def test_every_layer_is_made_again_from_its_attributes(name: str) -> None:
    kind = MODULES[name]
    if name.startswith("Conv") and "Pad" not in name and "Constant" not in name:
        layer = kind(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, bias=False)
    elif name.startswith(("BatchNorm", "InstanceNorm")):
        layer = kind(4, eps=1e-3, momentum=None, affine=False, track_running_stats=True)
    elif name in ARGUMENTS:
        layer = kind(*ARGUMENTS[name])
    else:
        required = ("Pool", "Pad", "Unfold", "Unpool", "RMSNorm", "Pixel", "Adaptive")
        layer = kind(2) if any(word in name for word in required) else kind()
    facts = describe(nn.Sequential(layer), [torch.zeros(1)])[0]["modules"]["0"]
    made = make_layer(json.loads(json.dumps(facts)), "layer")
    assert repr(made) == repr(layer)
    shapes = {key: tensor.shape for key, tensor in layer.state_dict().items()}
    assert {key: tensor.shape for key, tensor in made.state_dict().items()} == shapes


def test_no_function_reaches_beyond_tensors() -> None:
    forbidden = ("load", "save", "file", "numpy", "apply_", "map_", "hook", "set_", "as_strided")
    forbidden += ("resize", "storage", "data_ptr", "call", "import", "eval", "exec", "compile")
    names = [name.rpartition(".")[2] for name in FUNCTIONS]
    assert [name for name in names if any(word in name for word in forbidden)] == []
    assert {name.rpartition(".")[0] for name in FUNCTIONS} == {
        *("operator", "math", "torch", "torch.nn.functional", "Tensor")
    }
