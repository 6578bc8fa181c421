from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import fx

from gfs_dist import data, networks
from gfs_dist.data import DataSpec
from gfs_dist.errors import ConfigError
from gfs_dist.files import checkpoint
from gfs_dist.networks import CATALOG

REAL = Path(__file__).parents[4] / "shared" / "data"

# Parameters at 1,000 (ImageNet form) or 10 classes, multiply-adds of one image of 224 or 32
# pixels. ImageNet form: as torchvision states them. CIFAR ResNets: kuangliu/pytorch-cifar and
# akamaster/pytorch_resnet_cifar10. mobilenet_v2_cifar: pytorch-cifar's 2,296,922 less the
# expansion of the first block (32 x 32 and its norm), which torchvision leaves out.
KNOWN = {
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet34": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 4_089_184_256),
    "mobilenet_v2": (3_504_872, 300_774_272),
    "resnet18_cifar": (11_173_962, 555_422_720),
    "resnet34_cifar": (21_282_122, 1_159_402_496),
    "resnet50_cifar": (23_520_842, 1_297_829_888),
    "mobilenet_v2_cifar": (2_296_922 - 32 * 32 - 64, 90_106_368),
    "resnet8_cifar": (75_290, 12_239_488),
    "resnet20_cifar": (269_722, 40_551_040),
    "resnet56_cifar": (853_018, 125_485_696),
}


def side(name: str) -> int:
    return 32 if name.endswith("_cifar") else 224


@pytest.mark.parametrize("name", CATALOG)
def test_sizes_are_the_known_ones(name: str) -> None:
    with torch.device("meta"):  # nothing is computed, only shapes
        network = networks.make(name, 10 if side(name) == 32 else 1000)
        macs = networks.count_macs(network, torch.empty(1, 3, side(name), side(name)))
    assert (networks.count_params(network), macs) == KNOWN[name]


def cifar_resnet_sizes(blocks: int, widths: list[int], classes: int) -> tuple[int, int]:
    """Parameters and multiply-adds of a 6n + 2 layer ResNet on 32x32 RGB, layer by layer."""
    layers = [(3, widths[0], 32)]
    for stage, width in enumerate(widths):
        entering = widths[max(0, stage - 1)]
        layers += [
            (entering, width, 32 >> stage),
            *[(width, width, 32 >> stage)] * (2 * blocks - 1),
        ]
    params = sum(9 * a * b + 2 * b for a, b, _ in layers) + (widths[2] + 1) * classes
    return params, sum(9 * a * b * side**2 for a, b, side in layers) + widths[2] * classes


@pytest.mark.parametrize(
    ("width", "widths"),
    [
        (1.0, [16, 32, 64]),
        (0.5, [8, 16, 32]),
        (2, [32, 64, 128]),
        (0.3, [5, 10, 19]),
        (0.01, [1] * 3),
    ],
)
def test_every_layer_of_a_thin_network_is_thinner(width: float, widths: list[int]) -> None:
    for blocks, name in ((1, "resnet8_cifar"), (3, "resnet20_cifar")):
        network, x = networks.make(name, 10, width=width).eval(), torch.rand(1, 3, 32, 32)
        found = (networks.count_params(network), networks.count_macs(network, x))
        assert found == cifar_resnet_sizes(blocks, widths, 10)


@pytest.mark.parametrize(("width", "millions"), [(0.5, 1.97), (1.4, 6.11)])
def test_a_thin_and_a_wide_mobilenet_have_the_published_sizes(
    width: float, millions: float
) -> None:
    with torch.device("meta"):  # as timm states mobilenetv2_050 and mobilenetv2_140
        network = networks.make("mobilenet_v2", 1000, width=width)
    assert round(networks.count_params(network) / 1e6, 2) == millions


@pytest.mark.parametrize("name", CATALOG)
def test_at_half_the_width_every_layer_makes_half_as_much(name: str) -> None:
    with torch.device("meta"):
        whole, half = networks.make(name, 10), networks.make(name, 10, width=0.5)
    layers = dict(whole.named_modules())
    for place, thin in half.named_modules():
        if isinstance(thin, torch.nn.Conv2d):
            if name.startswith("mobilenet"):
                assert thin.out_channels % 8 == 0
            else:
                assert 2 * thin.out_channels == layers[place].out_channels


def norm(name: str) -> list[str]:
    ends = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [f"{name}.{end}" for end in ends]


def resnet_names(depths: list[int], convolutions: int, first_changes: bool) -> list[str]:
    """Torchvision's names in its order."""
    names = ["conv1.weight", *norm("bn1")]
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            place = f"layer{stage}.{block}"
            for number in range(1, convolutions + 1):
                names += [f"{place}.conv{number}.weight", *norm(f"{place}.bn{number}")]
            if block == 0 and (stage > 1 or first_changes):
                names += [f"{place}.downsample.0.weight", *norm(f"{place}.downsample.1")]
    return [*names, "fc.weight", "fc.bias"]


def mobilenet_names() -> list[str]:
    names = ["features.0.0.weight", *norm("features.0.1")]
    for block in range(1, 18):
        place, units = f"features.{block}.conv", 1 if block == 1 else 2
        for unit in range(units):
            names += [f"{place}.{unit}.0.weight", *norm(f"{place}.{unit}.1")]
        names += [f"{place}.{units}.weight", *norm(f"{place}.{units + 1}")]
    names += ["features.18.0.weight", *norm("features.18.1")]
    return [*names, "classifier.1.weight", "classifier.1.bias"]


@pytest.mark.parametrize("form", ["", "_cifar"])
def test_names_of_tensors_are_torchvisions(form: str) -> None:
    for name, expected in (
        ("resnet18", resnet_names([2, 2, 2, 2], 2, first_changes=False)),
        ("resnet34", resnet_names([3, 4, 6, 3], 2, first_changes=False)),
        ("resnet50", resnet_names([3, 4, 6, 3], 3, first_changes=True)),
        ("mobilenet_v2", mobilenet_names()),
    ):
        with torch.device("meta"):
            found = networks.make(name + form, 10).state_dict()
        # The CIFAR form of MobileNetV2 has shortcuts that torchvision's network does not.
        assert [key for key in found if ".shortcut." not in key] == expected


@pytest.mark.parametrize(
    "name", ["resnet18_cifar", "resnet50_cifar", "mobilenet_v2_cifar", "resnet20_cifar"]
)
def test_networks_are_traced_and_give_logits(name: str) -> None:
    network = networks.make(name, 7, in_channels=1).eval()
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        logits = network(x)
        assert logits.shape == (2, 7)
        assert torch.equal(fx.symbolic_trace(network)(x), logits)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_networks_for_large_images_are_traced(name: str) -> None:
    network = networks.make(name, 5).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(fx.symbolic_trace(network)(x), network(x))


def test_the_paper_s_mobilenet_adds_where_the_width_changes() -> None:
    network = networks.make("mobilenet_v2_cifar", 10)
    blocks = network.get_submodule("features")
    changed = [n for n in range(1, 18) if any(True for _ in blocks[n].shortcut.parameters())]
    assert changed == [1, 2, 11, 17]  # stride 1 and 32-16, 16-24, 64-96, 160-320
    assert not any(isinstance(module, torch.nn.ReLU6) for module in network.modules())


def test_fresh_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(3)
    first = networks.make("resnet20_cifar", 10).state_dict()
    torch.manual_seed(3)
    second = networks.make("resnet20_cifar", 10).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet21", 10), "model: found 'resnet21', accepted resnet18, .*, resnet56_cifar"),
        (("resnet18", 0), "model=resnet18: num_classes: found 0, accepted 1 or more"),
        (("resnet18", 10, 0), "model=resnet18: in_channels: found 0, accepted 1 or more"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        networks.make(*arguments)


@pytest.mark.parametrize("width", [0, -1.0, 65, float("nan"), float("inf"), True, "1"])
def test_a_width_that_is_none_is_refused(width: float) -> None:
    message = r"model=resnet8_cifar: width: found .*, accepted a number above 0 and at most 64"
    with pytest.raises(ConfigError, match=message):
        networks.make("resnet8_cifar", 10, width=width)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not beside this repository")
class TestRealWeights:
    def load(self) -> torch.nn.Module:
        network = networks.make("resnet20_cifar", 10)
        file = REAL / "weights" / "resnet20.safetensors"
        networks.load_state(network, checkpoint.read_tensors(file), file)
        return network

    def test_they_load_by_name_without_counters(self) -> None:
        stored = checkpoint.read_tensors(REAL / "weights" / "resnet20.safetensors")
        found = self.load().state_dict()
        assert set(found) - set(stored) == {name for name in found if "num_batches" in name}
        assert all(torch.equal(found[name], tensor) for name, tensor in stored.items())

    @pytest.mark.slow
    def test_accuracy_and_loss_are_the_published_ones(self) -> None:
        stated = json.loads((REAL / "weights" / "resnet20.json").read_text())
        pipeline, measured = stated["input_pipeline"], stated["measured"]
        mean, std = tuple(pipeline["mean"]), tuple(pipeline["std"])
        images = data.load_images(DataSpec("cifar10", root=str(REAL), mean=mean, std=std))
        parts = zip(images.x_test.split(500), images.labels_test.split(500), strict=True)
        batches = ((images.inputs(x), labels) for x, labels in parts)
        found = networks.classify(self.load(), batches)
        assert 100 * found.accuracy == pytest.approx(measured["accuracy_percent"], abs=0.015)
        assert found.loss == pytest.approx(measured["cross_entropy"], abs=2e-5)
