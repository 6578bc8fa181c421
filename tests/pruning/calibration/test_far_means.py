"""Hidden units whose mean is far from zero, held against least squares on deviations."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gfs_dist
from gfs_dist.pruning.calibration.moments import Geometry, add
from gfs_dist.pruning.smaller import TOLERANCE

WIDTH, KEPT, SAMPLES = 10, 5, 192
CONSUMERS = {
    "linear": lambda: [nn.Linear(WIDTH, 6)],
    "linear without bias": lambda: [nn.Linear(WIDTH, 6, bias=False)],
    "linear and norm": lambda: [nn.Linear(WIDTH, 6, bias=False), nn.BatchNorm1d(6)],
    "1x1": lambda: [nn.Conv2d(WIDTH, 6, 1)],
    "3x3": lambda: [nn.Conv2d(WIDTH, 6, 3)],
    "3x3 padded": lambda: [nn.Conv2d(WIDTH, 6, 3, padding=1)],
    "3x3 padded, without bias": lambda: [nn.Conv2d(WIDTH, 6, 3, padding=1, bias=False)],
    "3x3 padded, with stride": lambda: [nn.Conv2d(WIDTH, 6, 3, 2, 1)],
    "3x3 padded, and norm": lambda: [
        nn.Conv2d(WIDTH, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
    ],
}


class Far:
    """A network with one hidden layer behind a norm, whose units lie ``ratio`` deviations up."""

    def __init__(self, kind: str, ratio: float, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        consumer = CONSUMERS[kind]()
        self.is_flat = isinstance(consumer[0], nn.Linear)
        if self.is_flat:
            first: list[nn.Module] = [nn.Linear(8, WIDTH), nn.BatchNorm1d(WIDTH)]
            last: list[nn.Module] = []
        else:
            first = [nn.Conv2d(2, WIDTH, 3), nn.BatchNorm2d(WIDTH)]
            last = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        nn.init.uniform_(first[1].weight, 0.5, 1.5)
        first[1].bias.data.fill_(max(ratio, 1.0))
        self.body = nn.Sequential(*first, nn.ReLU(), *consumer).double()
        shape = (8,) if self.is_flat else (2, 8, 8)
        x = torch.randn(SAMPLES if self.is_flat else SAMPLES // 6, *shape).double()
        with torch.no_grad():
            self.body(x)  # running statistics
        self.model = nn.Sequential(*self.body, *last).to(dtype).eval()
        self.body, self.x = self.model[: len(self.body)], x.to(dtype)
        self.consumer = self.body[3]
        with torch.no_grad():
            self.num_outputs = self.body(self.x).numel()

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        labels = torch.arange(len(self.x)) % 6
        return list(zip(self.x.split(20), labels.split(20), strict=True))

    def patches(self, hidden: Tensor) -> np.ndarray:
        if self.is_flat:
            return hidden.numpy()
        module = self.consumer
        args = module.kernel_size, module.dilation, module.padding, module.stride
        return functional.unfold(hidden, *args).transpose(1, 2).flatten(0, 1).numpy()

    @torch.no_grad()
    def least(self, picks: list[int]) -> float:
        """Squared error of the body's output on some units, refitted by least squares."""
        patches = self.patches(self.body[:3](self.x).double())
        target = rows(self.body(self.x).double())
        block = patches.shape[1] // WIDTH
        chosen = patches[:, [i * block + k for i in picks for k in range(block)]]
        if self.consumer.bias is not None or len(self.body) > 4:
            chosen, target = chosen - chosen.mean(0), target - target.mean(0)
        return squares(target - chosen @ np.linalg.lstsq(chosen, target, rcond=1e-15)[0])

    @torch.no_grad()
    def reached(self, pruned: nn.Module) -> float:
        """The same of the pruned network."""
        return squares(rows(pruned[: len(self.body)](self.x).double()) - rows(self.body(self.x)))


def rows(values: Tensor) -> np.ndarray:
    return values.movedim(1, -1).flatten(0, -2).numpy()


def squares(values: np.ndarray) -> float:
    return float(np.square(values).sum())


@pytest.mark.parametrize(
    ("dtype", "ratio", "objective"),
    [
        (torch.float64, 176.0, "least_squares"),
        (torch.float64, 1e5, "least_squares"),
        (torch.float64, 1761.0, "layer_output"),
        (torch.float32, 1761.0, "least_squares"),
        (torch.float32, 1761.0, "layer_output"),
        (torch.float32, 528.0, "fisher"),
        (torch.float32, 528.0, "network_loss"),
    ],
)
@pytest.mark.parametrize("kind", CONSUMERS)
def test_no_fit_is_worse_than_least_squares(
    dtype: torch.dtype, kind: str, ratio: float, objective: str
) -> None:
    far = Far(kind, ratio, dtype)
    pruned = gfs_dist.prune(
        far.model, far.batches(), budget={"keep": KEPT / WIDTH}, objective=objective
    )
    (path,) = pruned.paths.values()
    least = far.least(path.path.picks[:KEPT])
    rounding = 2 * torch.finfo(dtype).eps * ratio  # of an output that sums up such means
    assert far.reached(pruned.model) <= 1.02 * least + rounding**2 * far.num_outputs


@pytest.mark.parametrize("objective", ["least_squares", "layer_output"])
@pytest.mark.parametrize("kind", ["linear", "linear and norm", "1x1", "3x3"])
def test_picks_and_losses_do_not_depend_on_the_mean_where_an_intercept_takes_it(
    kind: str, objective: str
) -> None:
    found = []
    for ratio in (20.0, 528.0, 1e5, 1e7):
        far = Far(kind, ratio, torch.float64)
        pruned = gfs_dist.prune(far.model, far.batches(), budget={"keep": 0.5}, objective=objective)
        (path,) = pruned.paths.values()
        found.append((path.path.picks, path.errors))
    for picks, errors in found[1:]:
        assert picks == found[0][0]
        assert errors == pytest.approx(found[0][1], rel=1e-5, abs=1e-9)


def test_biases_that_take_large_means_off_end_no_run() -> None:
    """Rounding of the large terms is then more than the check of the cut network lets pass."""
    far = Far("linear", 1e5, torch.float64)
    with torch.no_grad():
        far.consumer.bias -= far.body(far.x).mean(0)
    pruned = gfs_dist.prune(far.model.float(), [far.x.float()], budget={"keep": 0.5})
    assert len(pruned.model[0].weight) == KEPT
    assert TOLERANCE[torch.float32] < pruned.report["difference_from_masked"] < 1.0


MODULES = {
    "linear": nn.Linear(3, 4),
    "3x3": nn.Conv2d(3, 4, 3),
    "3x3 padded": nn.Conv2d(3, 4, 3, padding=1),
    "3x3 padded, with stride": nn.Conv2d(3, 4, 3, 2, 1),
}


def samples(kind: str) -> tuple[Tensor, Tensor]:
    """Parts of samples that have little in common, and what a layer makes of them."""
    generator = torch.Generator().manual_seed(0)
    shape = (3,) if kind == "linear" else (3, 5, 5)
    x = torch.randn(24, *shape, generator=generator).double()
    x[:8] = 0.0
    x[16:] += 2.0
    with torch.no_grad():
        return x, MODULES[kind].double()(x)


@pytest.mark.parametrize("shift", [0.0, 2.0**20, 2.0**24])
@pytest.mark.parametrize("kind", ["linear", "3x3"])
def test_sums_of_parts_lose_nothing_to_a_shift_of_all_inputs(kind: str, shift: float) -> None:
    """The shift is added to numbers that float64 holds exactly with it."""
    x, target = samples(kind)
    x, target = (x * 2**20).round() / 2**20, (target * 2**20).round() / 2**20
    geometry = Geometry.of(MODULES[kind])
    expected, found = (
        geometry.assemble(
            functools.reduce(
                add,
                (
                    geometry.sums(part + by, aimed - by)
                    for part, aimed in zip(x.split(8), target.split(8), strict=True)
                ),
                None,
            ),
            3,
        )
        for by in (0.0, shift)
    )
    for name in ("inputs", "target"):
        values, exact = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(values, exact, rtol=1e-8, atol=1e-8 * float(exact.abs().max()))
    assert found.energy == pytest.approx(expected.energy, rel=1e-8)
    torch.testing.assert_close(found.input_mean, expected.input_mean + shift)


@pytest.mark.parametrize("kind", MODULES)
def test_a_shift_of_the_target_changes_no_moment_in_float32(kind: str) -> None:
    x, target = (part.float() for part in samples(kind))
    target = (target * 64).round() / 64
    geometry = Geometry.of(MODULES[kind])
    near, far = (
        geometry.assemble(add(None, geometry.sums(x, target + shift)), 3)
        for shift in (0.0, 2.0**16 + 0.3)
    )
    size = float(near.target.abs().max())
    torch.testing.assert_close(far.target, near.target, rtol=0, atol=1e-5 * size)
    assert far.energy == pytest.approx(near.energy, rel=1e-4)


@pytest.mark.parametrize("kind", MODULES)
def test_spread_is_that_of_what_lies_inside(kind: str) -> None:
    """Padding next to large means is no variance of the inputs."""
    x, target = samples(kind)
    geometry = Geometry.of(MODULES[kind])
    near, far = (
        geometry.assemble(add(None, geometry.sums(x + shift, target)), 3).spread
        for shift in (0.0, 1000.0)
    )
    torch.testing.assert_close(far, near, rtol=1e-7, atol=1e-7)
    if kind == "linear":
        torch.testing.assert_close(near, (x - x.mean(0)).square().sum(0))
