"""Deep networks through a folder and back, in this process and in one that knows nothing."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import gfs_dist
from gfs_dist import networks
from gfs_dist.errors import CheckpointError, ConfigError, NonFiniteError, ShapeError
from gfs_dist.files import checkpoint
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.storage.rebuild import make_unpruned
from gfs_dist.pruning.structure.discover import find_structure
from gfs_dist.pruning.structure.shrink import shrink
from tests.networks import nets

READER = """
import sys, safetensors.torch, gfs_dist
network = gfs_dist.load(sys.argv[1], factory=(sys.argv[2:] or [None])[0])
x = safetensors.torch.load_file("x.safetensors")["x"].clone()  # aligned: kernels differ otherwise
y = network(x).detach()
safetensors.torch.save_file({"y": y}, "y.safetensors")
print(*sorted({"own_nets", "tests", "onnx", "onnxscript"} & sys.modules.keys()))
"""


def half(network: nn.Module, example: Tensor) -> nn.Module:
    """Every second candidate of every layer removed."""
    structure = find_structure(network, example)
    kept = {layer.name: range(0, layer.num_candidates, 2) for layer in structure.layers}
    return shrink(network, structure, kept)


def architecture(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "architecture.json").read_text())


def read_elsewhere(folder: Path, cwd: Path, *factory: str) -> subprocess.CompletedProcess[str]:
    """``folder`` read by a fresh process in ``cwd``: outputs on x.safetensors to y.safetensors."""
    command = [sys.executable, "-W", "error", "-c", READER, str(folder), *factory]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the user's own module ``own_nets``, on the path of this process."""
    folder = tmp_path / "code"
    folder.mkdir()
    source = "import torch\nfrom torch import Tensor, nn\n\n\n" + inspect.getsource(nets.OneWay)
    (folder / "own_nets.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    return folder


OWN = {"model": "custom", "factory": "own_nets:OneWay", "kwargs": {"hidden": 6}}


def own(**kwargs: int) -> nn.Module:
    return make_unpruned(
        {**OWN, "kwargs": {"hidden": 6, **kwargs}}, allowed_factory="own_nets:OneWay"
    )


def same(one: nn.Module, two: nn.Module, x: Tensor) -> bool:
    first, second = one(x), two(x)
    if isinstance(first, dict):
        return all(torch.equal(first[key], second[key]) for key in first)
    return first.dtype == second.dtype and torch.equal(first, second)


@pytest.mark.parametrize("name", [name for name in nets.TRACED if name != "shared"])
def test_a_pruned_network_is_rebuilt_without_its_factory(tmp_path: Path, name: str) -> None:
    make, shape = nets.TRACED[name]
    x = torch.randn(2, *shape)
    network = half(nets.shaken(make()), x)
    origin = {"model": "custom", "factory": f"no_such_module:{name}", "kwargs": {"wide": True}}
    networks.save(tmp_path / "m", network, example=x, origin=origin)
    found = networks.load(tmp_path / "m")
    assert isinstance(found, GraphNetwork)
    assert same(found, network, x)
    assert not any(module.training for module in found.modules())
    assert all(parameter.requires_grad for parameter in found.parameters())
    assert {key: architecture(tmp_path / "m")[key] for key in origin} == origin


@pytest.mark.parametrize("name", ["resnet20_cifar", "mobilenet_v2_cifar"])
def test_a_pruned_network_of_the_catalog_is_of_its_own_class(tmp_path: Path, name: str) -> None:
    x = torch.randn(2, 3, 32, 32)
    network = half(nets.shaken(networks.make(name, 10)), x)
    origin = {"model": name, "num_classes": 10, "in_channels": 3}
    networks.save(tmp_path / "m", network, example=x, origin=origin)
    found = networks.load(tmp_path / "m")
    assert type(found) is type(network)
    assert same(found, network, x)
    assert networks.count_params(found) < networks.count_params(networks.make(name, 10))
    assert repr(found) == repr(network)  # out_channels, num_features, groups


def test_a_description_has_a_line_for_each_layer_and_step(tmp_path: Path) -> None:
    networks.save(tmp_path / "m", nets.Dense(), example=torch.randn(2, *nets.IMAGES))
    lines = (tmp_path / "m" / "architecture.json").read_text().splitlines()
    layer = '   "stem.0": {"class": "Conv2d", "arguments": {"in_channels": 3, "out_channels": 8, '
    assert (
        layer + '"kernel_size": {"tuple": [3, 3]}, "padding": {"tuple": [1, 1]}, "bias": false}},'
        in lines
    )
    step = (
        '   {"name": "mean", "call": "Tensor.mean", "args": [{"node": "cat_2"}, {"tuple": [2, 3]}]'
    )
    assert step + ', "kwargs": {}},' in lines


def test_a_fresh_process_rebuilds_a_graph(tmp_path: Path) -> None:
    x = torch.randn(3, *nets.FEATURES)
    network = nets.shaken(nets.Shared())
    networks.save(tmp_path / "m", network, example=x)
    checkpoint.write_tensors(tmp_path / "x.safetensors", {"x": x})
    done = read_elsewhere(tmp_path / "m", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
    y = safetensors.torch.load_file(tmp_path / "y.safetensors")["y"]
    assert torch.equal(y, network(x))


def test_a_fresh_process_makes_again_what_cannot_be_recorded(
    tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(3, *nets.FEATURES)
    network = nets.shaken(own(hidden=3))
    networks.save(tmp_path / "m", network, example=x, origin=OWN)
    assert "graph" not in architecture(tmp_path / "m")
    assert architecture(tmp_path / "m")["removals"]["sizes"] == {
        "first": {"out_features": 3},
        "norm": {"num_features": 3},
        "second": {"in_features": 3},
    }
    checkpoint.write_tensors(code / "x.safetensors", {"x": x})
    done = read_elsewhere(tmp_path / "m", code, "own_nets:OneWay")
    assert (done.returncode, done.stdout, done.stderr) == (0, "own_nets\n", "")
    assert torch.equal(safetensors.torch.load_file(code / "y.safetensors")["y"], network(x))

    monkeypatch.delitem(sys.modules, "own_nets")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(code)])
    with pytest.raises(CheckpointError) as told:
        networks.load(tmp_path / "m", factory="own_nets:OneWay")
    assert str(told.value).endswith(
        "model.factory: importing own_nets raised ModuleNotFoundError: No module named 'own_nets'; "
        "this network is made again by own_nets:OneWay: put the folder of own_nets on PYTHONPATH"
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_is_kept(tmp_path: Path, code: Path, dtype: torch.dtype) -> None:
    x = torch.randn(3, *nets.FEATURES, dtype=dtype)
    for network, origin in ((nets.mlp(), None), (own(), OWN)):
        network = nets.shaken(network).to(dtype)
        networks.save(tmp_path / "m", network, example=x, origin=origin)
        found = networks.load(tmp_path / "m", factory=origin and origin["factory"])
        assert {tensor.dtype for tensor in found.parameters()} == {dtype}
        assert same(found, network, x)


def test_biases_that_were_added_are_kept(tmp_path: Path, code: Path) -> None:
    x = torch.randn(3, *nets.FEATURES)
    network = nets.shaken(own())
    network.get_submodule("first").bias = nn.Parameter(torch.randn(6))
    networks.save(tmp_path / "m", network, example=x, origin=OWN)
    assert same(networks.load(tmp_path / "m", factory=OWN["factory"]), network, x)


def set_again(layer: nn.Module) -> None:
    weight = layer.weight
    del layer.weight
    layer.weight = nn.Parameter(weight.detach())


def mask_removed(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 0.3)
    prune.remove(layer, "weight")


def parametrization_removed(layer: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(layer)
    nn.utils.parametrize.remove_parametrizations(layer, "weight")


def weight_norm_removed(layer: nn.Module) -> None:
    nn.utils.remove_weight_norm(nn.utils.weight_norm(layer))


def mean_set_again(layer: nn.Module) -> None:
    mean = layer.running_mean
    del layer.running_mean
    layer.register_buffer("running_mean", mean)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("names", "change"),
    [
        (("0", "1", "3", "6"), set_again),
        (("0", "3", "6"), mask_removed),
        (("0", "3", "6"), parametrization_removed),
        (("0", "3", "6"), weight_norm_removed),
        (("1",), mean_set_again),
    ],
)
def test_the_order_of_a_layers_tensors_does_not_matter(
    tmp_path: Path, names: tuple[str, ...], change: Callable[[nn.Module], None]
) -> None:
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(6 * 49, 5)),
    )
    plain = list(network.state_dict())
    for name in names:
        change(network.get_submodule(name))
    order = list(network.state_dict())
    assert order != plain
    x = torch.randn(4, *nets.IMAGES)
    smaller = half(nets.shaken(network), x)
    networks.save(tmp_path / "m", smaller, example=x)
    assert same(gfs_dist.load(tmp_path / "m"), smaller, x)
    assert list(network.state_dict()) == order


def test_what_was_read_can_be_stored_again(tmp_path: Path) -> None:
    x = torch.randn(2, *nets.IMAGES)
    network = nets.shaken(nets.Dense())
    networks.save(tmp_path / "one", network, example=x)
    again = half(networks.load(tmp_path / "one"), x)
    networks.save(tmp_path / "two", again, example=x)
    found = networks.load(tmp_path / "two")
    assert same(found, again, x)
    assert networks.count_params(found) < networks.count_params(network)


def test_neither_mode_nor_layout_nor_device_matter(tmp_path: Path) -> None:
    x = torch.randn(2, *nets.IMAGES)
    network = nets.shaken(nets.Padded())
    wanted = network(x)
    network.train().to(memory_format=torch.channels_last)
    layout = network.get_parameter("first.weight").stride()
    networks.save(tmp_path / "m", network, example=x.to(memory_format=torch.channels_last))
    assert torch.equal(networks.load(tmp_path / "m")(x), wanted)
    assert network.training
    assert network.get_parameter("first.weight").stride() == layout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_a_network_on_a_gpu_is_stored_from_there(tmp_path: Path) -> None:
    x = torch.randn(2, *nets.IMAGES)
    network = nets.shaken(nets.Padded())
    wanted = network(x)
    networks.save(tmp_path / "m", network.cuda(), example=x.cuda())
    assert torch.equal(networks.load(tmp_path / "m")(x), wanted)
    assert network.get_parameter("first.weight").is_cuda


def test_training_that_evaluation_does_not_show_needs_the_factory(tmp_path: Path) -> None:
    factory = {"model": "custom", "factory": "tests.networks.nets:Wobbling", "kwargs": {}}
    x, network = torch.randn(2, 4), nets.shaken(nets.Wobbling())
    networks.save(tmp_path / "m", network, example=x, origin=factory)
    found = networks.load(tmp_path / "m", factory=factory["factory"])
    assert isinstance(found, nets.Wobbling)
    networks.save(tmp_path / "m", network, example=x)
    assert architecture(tmp_path / "m")["graph"]["evaluation_only"] is True
    assert same(networks.load(tmp_path / "m"), network, x)


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        (
            None,
            r"cannot be stored: its forward pass cannot be recorded .*its factory.*is not known",
        ),
        (
            {"model": "custom", "factory": "tests.networks.nets:mlp", "kwargs": {}},
            "recorded .*; layer '0' is missing in the pruned network",
        ),
        (
            {"model": "custom", "factory": "no_such_module:make", "kwargs": {}},
            "recorded .*; model.factory: importing no_such_module raised ModuleNotFoundError",
        ),
        (
            {"model": "custom", "factory": "x:y", "kwargs": {"size": {1, 2}}},
            "model: Object of type set is not JSON serializable, accepted is what JSON has",
        ),
    ],
)
def test_a_network_that_cannot_be_made_again_is_not_written(
    tmp_path: Path, origin: dict[str, Any] | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        networks.save(tmp_path / "m", nets.OneWay(), example=torch.randn(3, 12), origin=origin)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    network = nets.shaken(nets.mlp())
    with pytest.raises(ConfigError, match="example: found None, accepted inputs of the network"):
        networks.save(tmp_path / "m", network)
    with pytest.raises(ShapeError, match=r"example of shape \(.*\): on it the network raises Run"):
        networks.save(tmp_path / "m", network, example=torch.randn(2, 5))
    with torch.no_grad():
        network.get_parameter("1.weight")[2, 3] = torch.nan
    with pytest.raises(NonFiniteError, match=r"model: tensor '1.weight' is nan at index \(2, 3\)"):
        networks.save(tmp_path / "m", network, example=torch.randn(2, 12))


def test_state_that_no_tensor_holds_is_refused(tmp_path: Path) -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> int:
            return 3

    with pytest.raises(ConfigError, match="its state has a int, '_extra_state', no tensor"):
        networks.save(tmp_path / "m", Counting(2, 2), example=torch.randn(1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"1.weight": None}, r"'1.weight': found no such tensor, accepted \(7, 12\)"),
        ({"1.weight": torch.ones(7, 13)}, r"'1.weight': found \(7, 13\), accepted \(7, 12\)"),
        ({"more": torch.ones(1)}, r"'more': found \(1,\), accepted no such tensor"),
        ({"1.bias": torch.ones(7, dtype=torch.int32)}, "'1.bias': found torch.int32, accepted fl"),
        ({"1.bias": torch.full((7,), torch.inf)}, "tensor '1.bias' is inf at index"),
    ],
)
def test_the_first_tensor_that_does_not_fit_is_named(
    tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    networks.save(tmp_path / "m", nets.shaken(nets.mlp()), example=torch.randn(2, 12))
    file = tmp_path / "m" / "model.safetensors"
    wrong = {**checkpoint.read_tensors(file), **change}
    checkpoint.write_tensors(file, {n: t for n, t in wrong.items() if t is not None})
    with pytest.raises(CheckpointError, match=f"model.safetensors: tensor .*{message}|{message}"):
        networks.load(tmp_path / "m")
