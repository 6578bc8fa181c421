"""The structure of the networks of the catalog, and of a trained one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gfs_dist import networks
from gfs_dist.pruning.structure.discover import find_structure
from gfs_dist.pruning.structure.shrink import mask, shrink

WEIGHTS = Path(__file__).parents[4] / "shared" / "data" / "weights" / "resnet20.safetensors"


@pytest.fixture(scope="module")
def resnet20() -> nn.Module:
    if not WEIGHTS.is_file():
        pytest.skip("the trained ResNet20 is not here")
    network = networks.make("resnet20_cifar", 10)
    networks.load_state(network, load_file(WEIGHTS), WEIGHTS)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "inner", "residual"),
    [
        ("resnet18", 8, 4),
        ("resnet34", 16, 4),
        ("resnet50", 33, 4),
        ("mobilenet_v2", 20, 5),
        ("mobilenet_v2_cifar", 18, 7),
        ("resnet20_cifar", 9, 1),
        pytest.param("resnet18_cifar", 8, 4, marks=pytest.mark.slow),
        pytest.param("resnet50_cifar", 33, 4, marks=pytest.mark.slow),
        pytest.param("resnet56_cifar", 27, 1, marks=pytest.mark.slow),
    ],
)
def test_inner_and_residual_widths_of_known_networks(name: str, inner: int, residual: int) -> None:
    network, x = networks.make(name, 10), torch.randn(2, 3, 32, 32)
    assert len(find_structure(network, x).layers) == inner
    structure = find_structure(network, x, coupled=True)
    assert len(structure.layers) == inner + residual
    assert [skip.reason for skip in structure.skipped] == ["network output"]


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_trained_network_shrinks_to_its_masked_self(
    resnet20: nn.Module, dtype: torch.dtype, coupled: bool
) -> None:
    network = networks.make("resnet20_cifar", 10).eval()
    network.load_state_dict(resnet20.state_dict())
    network.to(dtype)
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    structure = find_structure(network, x, coupled=coupled)
    kept = {layer.name: list(range(0, layer.num_candidates, 3)) for layer in structure.layers}
    with torch.no_grad():
        masked = mask(network, structure, kept)(x)
        smaller = shrink(network, structure, kept)
        distance = float((masked - smaller(x)).abs().max())
    assert distance <= (1e-4 if dtype == torch.float32 else 1e-9) * float(masked.abs().max())
    assert networks.count_macs(smaller, x) < networks.count_macs(network, x) / 2


def test_half_of_the_inner_channels_is_half_of_the_inner_multiply_adds(resnet20: nn.Module) -> None:
    """The dense network needs 40,551,040; 40,108,032 of them touch inner channels."""
    x = torch.randn(1, 3, 32, 32)
    structure = find_structure(resnet20, x)
    kept = {layer.name: list(range(layer.num_candidates // 2)) for layer in structure.layers}
    dense, half = (
        networks.count_macs(network, x) for network in (resnet20, shrink(resnet20, structure, kept))
    )
    assert dense == 40_551_040
    assert dense - half == 40_108_032 // 2


@pytest.mark.gpu
def test_a_gpu_finds_and_shrinks_the_same() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    network, x = networks.make("mobilenet_v2_cifar", 10).eval(), torch.randn(2, 3, 32, 32)
    structure = find_structure(network, x, coupled=True)
    network, x = network.cuda(), x.cuda()
    assert find_structure(network, x, coupled=True) == structure
    kept = {layer.name: list(range(layer.num_candidates // 2)) for layer in structure.layers}
    with torch.no_grad():
        masked = mask(network, structure, kept)(x)
        distance = float((masked - shrink(network, structure, kept)(x)).abs().max())
    assert distance <= 1e-4 * float(masked.abs().max())
