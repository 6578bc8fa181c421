"""Sums over shifted inputs, held against patches written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.pruning.calibration.moments import (
    Geometry,
    Moments,
    Sums,
    add,
    add_halves,
    multiply_adds,
)
from gfs_dist.pruning.calibration.shifted_products import Window
from gfs_dist.pruning.calibration.workspace import Workspace, sum_parts

CHANNELS, OUTPUTS, SAMPLES = 3, 4, 5

CONVOLUTIONS = {
    "1x1": {"kernel_size": 1},
    "1x1 with stride": {"kernel_size": 1, "stride": 2},
    "3x3": {"kernel_size": 3, "padding": 1},
    "3x3 with stride": {"kernel_size": 3, "padding": 1, "stride": 2},
    "3x3 without padding": {"kernel_size": 3},
    "3x3 with too much padding": {"kernel_size": 3, "padding": 2},
    "3x3 dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "2x2": {"kernel_size": 2},
    "5x5": {"kernel_size": 5, "padding": 2},
    "7x7": {"kernel_size": 7, "padding": 3},
    "7x7 with stride": {"kernel_size": 7, "padding": 3, "stride": 2},
    "1x5": {"kernel_size": (1, 5), "padding": (0, 2)},
    "5x3": {"kernel_size": (5, 3), "padding": (2, 1)},
    "3x3, stride along rows": {"kernel_size": 3, "padding": 1, "stride": (1, 2)},
}
SIZES = [(7, 5), (4, 4), (2, 3), (1, 6), (3, 1), (1, 1)]


def fits(options: dict, size: tuple[int, int]) -> bool:
    try:
        nn.Conv2d(1, 1, **options)(torch.zeros(1, 1, *size))
    except RuntimeError:  # the kernel is larger than the padded input
        return False
    return True


CASES = [
    pytest.param(options, size, id=f"{name}, {size[0]}x{size[1]}")
    for name, options in CONVOLUTIONS.items()
    for size in SIZES
    if fits(options, size)
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) + 0.3


def of_patches(module: nn.Conv2d, x: Tensor, target: Tensor) -> Moments:
    """From the definition: deviations from means, multiplied."""
    patches = functional.unfold(
        x, module.kernel_size, module.dilation, module.padding, module.stride
    )
    inside = functional.unfold(
        torch.ones_like(x), module.kernel_size, module.dilation, module.padding, module.stride
    )
    return of_rows(
        patches.transpose(1, 2).flatten(0, 1),
        target.movedim(1, -1).flatten(0, -2),
        inside.sum((0, 2)),
    )


def of_rows(x: Tensor, target: Tensor, inside: Tensor) -> Moments:
    """One row a position."""
    mean, target_mean = x.mean(0), target.mean(0)
    x, target = x - mean, target - target_mean
    energy = float(target.square().sum())
    return Moments(x.T @ x, x.T @ target, mean, target_mean, energy, float(len(x)), inside)


def assert_same(found: Moments, expected: Moments) -> None:
    for name in ("inputs", "target", "input_mean", "target_mean", "inside"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    assert found.energy == pytest.approx(expected.energy)
    assert found.positions == expected.positions


@pytest.mark.parametrize(("options", "size"), CASES)
def test_moments_are_those_of_the_patches(options, size) -> None:
    module = nn.Conv2d(CHANNELS, OUTPUTS, **options).double()
    geometry = Geometry.of(module)
    x = draw(SAMPLES, CHANNELS, *size)
    target = draw(*module(x).shape, seed=1)
    expected = of_patches(module, x, target)
    whole = add(None, geometry.sums(x, target))
    assert_same(geometry.assemble(whole, CHANNELS), expected)
    parts: Sums | None = None
    for part in (slice(0, 2), slice(2, 5)):
        parts = add(parts, geometry.sums(x[part], target[part]))
    assert parts is not None
    assert_same(geometry.assemble(parts, CHANNELS), expected)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_moments_give_the_energy_of_the_layers_own_output(name) -> None:
    """Ties rows of ``A`` and ``B`` to the order of the layer's weights, without patches."""
    module = nn.Conv2d(CHANNELS, OUTPUTS, **CONVOLUTIONS[name], bias=False).double()
    x = draw(SAMPLES, CHANNELS, 8, 9)
    target = module(x).detach()
    geometry = Geometry.of(module)
    moments = geometry.assemble(add(None, geometry.sums(x, target)), CHANNELS)
    weights = module.weight.detach().flatten(1).T
    assert float((weights * moments.target).sum()) == pytest.approx(moments.energy)
    torch.testing.assert_close(moments.inputs @ weights, moments.target)
    torch.testing.assert_close(weights.T @ moments.input_mean, moments.target_mean)


@pytest.mark.parametrize("shape", [(6, 3), (2, 4, 3), (2, 2, 3, 3)], ids=str)
def test_a_linear_layer_reads_rows_of_features(shape) -> None:
    geometry = Geometry.of(nn.Linear(CHANNELS, OUTPUTS))
    x, target = draw(*shape), draw(*shape[:-1], OUTPUTS, seed=1)
    rows, aims = x.reshape(-1, CHANNELS), target.reshape(-1, OUTPUTS)
    moments = geometry.assemble(add(None, geometry.sums(x, target)), CHANNELS)
    assert_same(moments, of_rows(rows, aims, torch.full((CHANNELS,), len(rows)).double()))


@pytest.mark.parametrize("name", ["3x3", "3x3 with stride"])
def test_the_target_alone_gives_the_same_bits(name) -> None:
    module = nn.Conv2d(CHANNELS, OUTPUTS, **CONVOLUTIONS[name])
    geometry = Geometry.of(module)
    x = draw(SAMPLES, CHANNELS, 6, 6).float()
    target = draw(*module(x).shape, seed=1).float()
    both = geometry.assemble(add(None, geometry.sums(x, target)), CHANNELS)
    alone = geometry.assemble(add(None, geometry.sums(x, target, only_target=True)), CHANNELS)
    for name in ("target", "target_mean", "input_mean"):
        assert torch.equal(getattr(alone, name), getattr(both, name))
    assert (alone.energy, alone.positions) == (both.energy, both.positions)
    assert alone.inputs.numel() == 0


def test_sums_of_float32_inputs_are_float64_and_all_but_exact_where_numbers_are_integers() -> None:
    """No product of small integers is rounded, nor a sum of them."""
    module = nn.Conv2d(CHANNELS, OUTPUTS, 3, padding=1)
    geometry = Geometry.of(module)
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(-3, 4, (SAMPLES, CHANNELS, 6, 6), generator=generator).float()
    target = torch.randint(-3, 4, (SAMPLES, OUTPUTS, 6, 6), generator=generator).float()
    found = geometry.assemble(add(None, geometry.sums(x, target)), CHANNELS)
    expected = of_patches(module, x.double(), target.double())
    assert found.inputs.dtype == found.target.dtype == found.input_mean.dtype == torch.float64
    torch.testing.assert_close(found.inputs, expected.inputs, rtol=1e-14, atol=1e-12)
    torch.testing.assert_close(found.target, expected.target, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(found.input_mean, expected.input_mean, rtol=1e-15, atol=1e-15)


def test_raw_moments_are_those_of_the_values() -> None:
    geometry = Geometry.of(nn.Linear(CHANNELS, OUTPUTS))
    x, target = draw(SAMPLES, CHANNELS), draw(SAMPLES, OUTPUTS, seed=1)
    found = geometry.assemble(add(None, geometry.sums(x, target)), CHANNELS)
    torch.testing.assert_close(found.raw_inputs(), x.T @ x)
    torch.testing.assert_close(found.raw_target(), x.T @ target)


@pytest.mark.parametrize(
    ("module", "size"),
    [
        pytest.param(nn.Conv2d(64, 1, 3, padding=1), (16, 16), id="3x3"),
        pytest.param(nn.Conv2d(64, 1, 1), (16, 16), id="1x1"),
        pytest.param(nn.Conv2d(64, 1, 3, 2, 1), (8, 8), id="3x3 with stride"),
        pytest.param(nn.Linear(64, 1), (), id="linear"),
    ],
)
def test_constant_channels_leave_no_rounding_behind(module, size) -> None:
    """In float32 their products round by more than the others' damping, unless means go first."""
    geometry, total = Geometry.of(module), None
    levels = 0.2 + 2 * torch.rand(32, generator=torch.Generator().manual_seed(3))
    for seed in range(4):
        x = draw(64, 64, *size, seed=seed).float().relu()
        x[:, :32] = levels.view(32, *(1 for _ in size))
        total = add(total, geometry.sums(x, x[:, :1] if size == () else module(x).detach()))
    inputs = geometry.assemble(total, 64).inputs
    least = float(torch.linalg.eigvalsh(inputs)[0])
    assert least > -1e-7 * float(inputs.diagonal().mean())


@pytest.mark.parametrize(("options", "size"), CASES)
def test_large_means_make_no_difference(options, size) -> None:
    module = nn.Conv2d(CHANNELS, OUTPUTS, **options).double()
    x = draw(SAMPLES, CHANNELS, *size)
    x[:, 1] += 50.0
    geometry, target = Geometry.of(module), module(x).detach()
    found = geometry.assemble(add(None, geometry.sums(x, target)), CHANNELS)
    assert_same(found, of_patches(module, x, target))


def test_nothing_given_is_modified() -> None:
    geometry = Geometry.of(nn.Conv2d(CHANNELS, OUTPUTS, 3, padding=1))
    x, target = draw(SAMPLES, CHANNELS, 5, 5).float(), draw(SAMPLES, OUTPUTS, 5, 5).float()
    before = x.clone(), target.clone()
    total = add(None, geometry.sums(x, target))
    add(total, geometry.sums(x, target))
    assert torch.equal(x, before[0])
    assert torch.equal(target, before[1])


def test_a_3x3_window_takes_13_products_and_16_thin_ones() -> None:
    window = Window(1, 1)
    assert window.num_whole_products == 13
    assert len(window.products(torch.zeros(1, 1, 4, 4))) == 29
    assert [Window(r, r).num_whole_products for r in range(4)] == [
        math.ceil((4 * r + 1) ** 2 / 2) for r in range(4)
    ]


def test_the_plan_counts_products_of_shifts_where_they_are_made() -> None:
    shifting, striding = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(8, 6, 3, 2, 1)
    assert multiply_adds(Geometry.of(shifting), 8, 6, 10) == 10 * (13 * 64 + 9 * 48)
    assert multiply_adds(Geometry.of(striding), 8, 6, 10) == 10 * (81 * 64 + 9 * 48)


@pytest.mark.parametrize("chunks", [1, 2, 5, 16, 37])
def test_sums_are_the_same_bits_for_any_number_of_ranks(chunks: int) -> None:
    workspace = Workspace("nowhere", 8 * chunks, chunks, labelled=False)
    geometry = Geometry.of(nn.Conv2d(CHANNELS, OUTPUTS, 3, padding=1))
    x, target = draw(8 * chunks, CHANNELS, 4, 4).float(), draw(8 * chunks, OUTPUTS, 4, 4).float()

    def sums(chunk: int) -> Sums:
        rows = slice(8 * chunk, 8 * (chunk + 1))
        return geometry.sums(x[rows], target[rows])

    found = []
    for ranks in (1, 2, 3, 4, 7, 16):
        shares = workspace.shares(ranks)
        assert [chunk for share in shares for part in share for chunk in part] == [*range(chunks)]
        assert len(shares) >= min(ranks, 2 ** (len(workspace.parts()).bit_length() - 1))
        own = [sum_parts(sums, share) for share in shares]
        found.append(add_halves(len(own), own.__getitem__))
    for other in found[1:]:
        assert all(torch.equal(other[name], found[0][name]) for name in found[0])
    whole = geometry.assemble(add(None, geometry.sums(x, target)), CHANNELS)
    together = geometry.assemble(found[0], CHANNELS)
    torch.testing.assert_close(together.inputs, whole.inputs, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(together.target, whole.target, rtol=1e-5, atol=1e-3)
