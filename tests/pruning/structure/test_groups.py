"""Grouped convolutions lose whole groups, or as many channels of each group."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gfs_dist.networks import count_macs, count_params
from gfs_dist.pruning.smaller import KeptChannels, expand_to_dense, make_smaller
from gfs_dist.pruning.structure.shrink import mask, shrink
from gfs_dist.pruning.structure.structure import Layer, Slice, Structure
from gfs_dist.pruning.widths.costs import measure_costs

GROUPS, READ, GIVEN = 2, 8, 12
CONVOLUTIONS = {
    "convolution": lambda: nn.Conv2d(READ, GIVEN, 3, padding=1, groups=GROUPS),
    "transposed": lambda: nn.ConvTranspose2d(READ, GIVEN, 2, 2, groups=GROUPS),
}


def equal_ranks(width: int) -> tuple[tuple[int, ...], ...]:
    """Candidate r: the channel of place r in each group."""
    size = width // GROUPS
    return tuple(tuple(r + g * size for g in range(GROUPS)) for r in range(size))


def whole_groups(width: int) -> tuple[tuple[int, ...], ...]:
    size = width // GROUPS
    return tuple(tuple(range(g * size, (g + 1) * size)) for g in range(GROUPS))


BY_RANK = Structure(
    (
        Layer(
            "0",
            READ // GROUPS,
            (Slice("0", equal_ranks(READ)),),
            (Slice("1", equal_ranks(READ)),),
            (Slice("3", equal_ranks(READ)),),
        ),
        Layer(
            "3",
            GIVEN // GROUPS,
            (Slice("3", equal_ranks(GIVEN)),),
            (Slice("4", equal_ranks(GIVEN)),),
            (Slice("6", equal_ranks(GIVEN)),),
        ),
    ),
    (),
)
BY_GROUP = Structure(
    (
        Layer(
            "0",
            GROUPS,
            (Slice("0", whole_groups(READ)),),
            (
                Slice("1", whole_groups(READ)),
                Slice("3", whole_groups(GIVEN)),
                Slice("4", whole_groups(GIVEN)),
            ),
            (Slice("6", whole_groups(GIVEN)),),
        ),
    ),
    (),
)
CASES = [
    (BY_RANK, {"0": (0, 2), "3": (1, 4, 5)}),
    (BY_RANK, {"0": (3,)}),
    (BY_RANK, {"3": (0,)}),
    (BY_GROUP, {"0": (1,)}),
]


def make(kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, READ, 1, bias=False), nn.BatchNorm2d(READ), nn.ReLU()),
        *(CONVOLUTIONS[kind](), nn.BatchNorm2d(GIVEN), nn.ReLU()),
        nn.Conv2d(GIVEN, 5, 1),
    ).double()
    for norm in (network[1], network[4]):
        nn.init.normal_(norm.bias)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize(("structure", "kept"), CASES)
def test_the_smaller_network_is_the_masked_one(structure: Structure, kept: dict, kind: str) -> None:
    network, x = make(kind), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    smaller = shrink(network, structure, kept)
    torch.testing.assert_close(smaller(x), mask(network, structure, kept)(x))
    costs = measure_costs(network, x, structure)
    widths = {name: len(own) for name, own in kept.items()}
    assert costs.of("macs", widths) == count_macs(smaller, x)
    assert costs.of("params", widths) == count_params(smaller)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize(("structure", "kept"), CASES)
def test_a_refitted_smaller_network_has_a_dense_twin(
    structure: Structure, kept: dict, kind: str
) -> None:
    network, x = make(kind), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    factors = {name: tuple(range(2, 2 + len(own))) for name, own in kept.items()}
    channels = KeptChannels(kept, factors)
    small = make_smaller(network, structure, channels)
    for weight in small.parameters():
        nn.init.normal_(weight)
    twin = expand_to_dense(small, network, structure, channels)
    torch.testing.assert_close(twin(x), small(x))


def test_groups_that_keep_different_numbers_are_an_error() -> None:
    uneven = Structure((Layer("0", 8, (Slice("0", tuple((c,) for c in range(8))),), (), ()),), ())
    network = nn.Sequential(CONVOLUTIONS["convolution"]())
    with pytest.raises(ValueError, match="expected sequence of length"):
        shrink(network, uneven, {"0": (0, 1, 2, 3, 4, 5, 6)})
