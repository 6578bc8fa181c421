"""Layers that are all but dead, activations that cannot be squared, and half precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import gfs_dist
from gfs_dist.errors import NonFiniteError
from gfs_dist.pruning.calibration.moments import Geometry, add
from gfs_dist.pruning.pruner import errors_of_layer
from tests.pruning import zoo

OBJECTIVES = ["least_squares", "layer_output", "fisher", "network_loss"]
EXACT = 2.0**-83
"""About 1e-25, and a product with it is not rounded."""


def mlp(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 3)
    return nn.Sequential(*layers).to(dtype)


def batches(dtype: torch.dtype, *shape: int, samples: int = 60) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, *shape, generator=generator).to(dtype)
    return list(zip(x.split(25), (torch.arange(samples) % 3).split(25), strict=True))


@torch.no_grad()
def scaled(network: nn.Module, name: str, factor: float) -> None:
    """Weight and bias of one module."""
    module = network.get_submodule(name)
    for tensor in (module.weight, module.bias):
        tensor.mul_(factor)


def prune(network: nn.Module, *shape: int, samples: int = 60, **more: object) -> gfs_dist.Pruned:
    dtype = next(network.parameters()).dtype
    given = batches(dtype, *shape, samples=samples)
    pruned = gfs_dist.prune(network, given, **{"budget": {"keep": 0.5}, **more})
    assert all(torch.isfinite(tensor).all() for tensor in pruned.model.state_dict().values())
    return pruned


@pytest.mark.parametrize("objective", ["least_squares", "layer_output"])
@pytest.mark.parametrize(
    ("dtype", "factor"),
    [
        (torch.float32, EXACT),
        (torch.float32, 2.0**63),  # about 1e19
        (torch.float64, EXACT),
        (torch.float64, 2.0**-332),
        (torch.float64, 2.0**465),
    ],
)
def test_picks_do_not_depend_on_the_unit_of_a_layer(
    dtype: torch.dtype, factor: float, objective: str
) -> None:
    """What the next layer makes of the values is the same."""
    found = []
    for by in (1.0, factor):
        network = mlp(dtype)
        scaled(network, "0", by)
        network[2].weight.data.div_(by)
        paths = prune(network, 8, objective=objective).paths
        found.append([(path.path.picks, path.errors) for path in paths.values()])
    for (picks, errors), (other_picks, other_errors) in zip(*found, strict=True):
        assert picks == other_picks
        assert errors == pytest.approx(other_errors, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    ("dtype", "factor"), [(torch.float32, 1e19), (torch.float32, 1e34), (torch.float64, 1e60)]
)
def test_a_network_of_huge_activations_is_pruned(
    dtype: torch.dtype, factor: float, objective: str
) -> None:
    network = mlp(dtype)
    scaled(network, "0", factor)
    pruned = prune(network, 8, objective=objective)
    (x, _), *_ = batches(dtype, 8)
    with torch.no_grad():
        found, dense = pruned.model(x).double(), network(x).double()
    assert float((found - dense).square().sum()) < float((dense - dense.mean(0)).square().sum())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("factor", [EXACT, 1e-30, 1e-42, 0.0])
def test_a_dead_layer_ends_no_run(factor: float, objective: str) -> None:
    network = mlp(torch.float32)
    scaled(network, "0", factor)
    paths = prune(network, 8, objective=objective).paths
    assert [sorted(path.path.picks) for path in paths.values()] == [[*range(10)], [*range(12)]]
    if objective in ("least_squares", "layer_output"):
        # The layer that it feeds does not vary: whatever is picked, in order, nothing is lost.
        assert paths["2"].path.picks == [*range(12)]
        for path in paths.values():
            assert all(0 <= error < 1e-30 for error in path.errors)


@pytest.mark.parametrize("make", [zoo.resnet18, zoo.mobilenet, zoo.densenet])
def test_a_norm_that_is_all_but_dead_is_as_good_as_dead(make) -> None:
    found = []
    for factor in (1e-30, 0.0):
        torch.manual_seed(0)
        network = make().eval()
        norms = [name for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
        scaled(network, norms[len(norms) // 2], factor)
        pruned = prune(network, 3, 8, 8, coupled=True)
        (x, _), *_ = batches(torch.float32, 3, 8, 8)
        found.append(pruned.model(x))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("samples", [4, 16])
def test_few_samples_in_half_precision_are_as_good_as_in_float32(
    samples: int, dtype: torch.dtype, objective: str
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 4)).to(dtype)
    whole = copy.deepcopy(network).float()
    (x, _), *_ = batches(torch.float32, 64, samples=samples)
    errors = []
    for model in (network, whole):
        pruned = prune(model, 64, samples=samples, objective=objective)
        with torch.no_grad():
            difference = pruned.model.float()(x) - whole(x)
            errors.append(float(difference.square().mean() / whole(x).var()))
    assert errors[0] < errors[1] + 16 * torch.finfo(dtype).eps ** 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_convolutional_network_in_half_precision_is_pruned(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = zoo.resnet18().eval().to(dtype)
    pruned = prune(network, 3, 8, 8)
    (x, _), *_ = batches(dtype, 3, 8, 8)
    with torch.no_grad():
        error = (pruned.model(x) - network(x)).float().square().mean() / network(x).float().var()
    assert float(error) < 0.05


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_cannot_be_squared_names_the_layer(objective: str) -> None:
    network = mlp(torch.float64)
    scaled(network, "0", 1e160)
    network[2].weight.data.div_(1e160)
    with pytest.raises(NonFiniteError, match="layer '2': .* (overflow float64|NaN or infinity)"):
        prune(network, 8, objective=objective)


@pytest.mark.parametrize("value", [1e-25, 1e-42, 1e19, 3e38])
def test_moments_of_what_float32_cannot_square_are_those_of_float64(value: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for module, shape in ((nn.Linear(3, 2), (3,)), (nn.Conv2d(3, 2, 3, padding=1), (3, 4, 4))):
        x = value * torch.rand(20, *shape, generator=generator)
        target = value * torch.rand(20, 2, *shape[1:], generator=generator)
        geometry = Geometry.of(module)
        found = geometry.assemble(add(None, geometry.sums(x, target)), 3)
        exact = geometry.assemble(add(None, geometry.sums(x.double(), target.double())), 3)
        for name in ("inputs", "target", "input_mean"):
            assert torch.equal(getattr(found, name), getattr(exact, name))
        assert float(found.inputs.diagonal().min()) > 0


def test_errors_of_arithmetic_get_the_name_of_the_layer_once() -> None:
    told = "^layer 'blocks.1': .*not positive-definite"
    with pytest.raises(NonFiniteError, match=told), errors_of_layer("blocks.1"):
        torch.linalg.cholesky(-torch.eye(2))
    told = "^layer 'blocks.1': its loss is NaN$"
    with pytest.raises(NonFiniteError, match=told), errors_of_layer("blocks.1"):
        raise NonFiniteError("layer 'blocks.1': its loss is NaN")
