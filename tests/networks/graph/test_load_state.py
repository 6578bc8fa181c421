from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gfs_dist import networks
from gfs_dist.errors import CheckpointError


def make(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4))


def stored(**changes: Tensor | None) -> dict[str, Tensor]:
    """Tensors of another network, with some changed or (None) absent; ``_`` stands for a dot."""
    tensors = dict(make(1).state_dict())
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    return tensors


def with_nan(dtype: torch.dtype = torch.float32) -> Tensor:
    weight = torch.zeros(4, 3, dtype=dtype)
    weight[2, 1] = float("nan")
    return weight


@pytest.mark.parametrize("counters", [True, False])
def test_all_tensors_are_copied_in_the_networks_own_dtype(counters: bool) -> None:
    network = make().double()
    tensors = {name: t for name, t in stored().items() if counters or "num_batches" not in name}
    kept = tensors["0.weight"].clone()
    networks.load_state(network, tensors, "file")
    found = network.state_dict()
    assert all(
        torch.equal(found[name], tensor.to(found[name].dtype)) for name, tensor in tensors.items()
    )
    assert found["0.weight"].dtype == torch.float64
    found["0.weight"].zero_()
    assert torch.equal(tensors["0.weight"], kept)  # copied, not shared


@pytest.mark.parametrize("absent", ["0.weight", "2.weight"])
def test_one_name_of_a_shared_tensor_is_enough(absent: str) -> None:
    shared = nn.Linear(3, 3, bias=False)
    network = nn.Sequential(shared, nn.ReLU(), shared)
    tensors = {"0.weight": torch.ones(3, 3), "2.weight": torch.ones(3, 3)}
    del tensors[absent]
    networks.load_state(network, tensors, "file")
    assert torch.equal(shared.weight, torch.ones(3, 3))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (stored(**{"0__weight": None}), "'0.weight': missing$"),
        (
            {f"module.{name}": tensor for name, tensor in stored().items()},
            r"'0.weight': missing \(it has 'module.0.weight' instead\)",
        ),
        (stored(**{"1__running_var": None, "3__bias": None}), "'1.running_var': missing"),
        (stored(**{"4__weight": torch.zeros(2)}), "'4.weight': the network has no such tensor"),
        (stored(**{"3__weight": torch.zeros(5, 3)}), r"found \(5, 3\), accepted \(4, 3\)"),
        (stored(**{"3__weight": torch.zeros(4, 3).long()}), "torch.int64, accepted torch.float32"),
        (stored(**{"3__weight": torch.zeros(4, 3) * 1j}), "found torch.complex64, accepted"),
        (stored(**{"3__weight": with_nan()}), r"'3.weight' is nan at index \(2, 1\)"),
        (stored(**{"3__weight": with_nan(torch.bfloat16)}), r"is nan at index \(2, 1\)"),
        (
            stored(**{"3__bias": torch.full((4,), 1e300, dtype=torch.float64)}),
            r"'3.bias' is .* \(0,\)",
        ),
    ],
)
def test_the_first_tensor_that_differs_is_named_and_nothing_is_copied(
    tensors: dict[str, Tensor], message: str
) -> None:
    network = make()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"^file: tensor .*{message}"):
        networks.load_state(network, tensors, "file")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
