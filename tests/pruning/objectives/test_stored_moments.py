"""Maps of a layer, made in blocks of a pass's sums by ranks, against float64 patches."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.files import checkpoint
from gfs_dist.pruning.calibration.dense_pass import SMALL_SUMS, Patches, Reading
from gfs_dist.pruning.calibration.moments import Geometry, add
from gfs_dist.pruning.calibration.workspace import read_sums
from gfs_dist.pruning.objectives import stored_moments
from gfs_dist.pruning.objectives.moment_objectives import LinearMap
from gfs_dist.pruning.objectives.stored_moments import StoredMap, make_map, stored_products
from gfs_dist.pruning.repair.least_squares import DAMPING
from gfs_dist.pruning.structure.structure import Slice
from gfs_dist.runtime import RuntimeSpec, open_runtime

CHANNELS, OUTPUTS, SAMPLES = 8, 5, 12
LAYERS = {
    "3x3": nn.Conv2d(CHANNELS, OUTPUTS, 3, padding=1),
    "1x1": nn.Conv2d(CHANNELS, OUTPUTS, 1),
    "strided": nn.Conv2d(CHANNELS, OUTPUTS, 3, padding=1, stride=2),
    "linear": nn.Linear(CHANNELS, OUTPUTS),
}
CANDIDATES = {
    "all channels": tuple((c,) for c in range(CHANNELS)),
    "some, in another order": ((6,), (1,), (4,), (3,)),
    "several each": ((0, 4), (1, 5), (2, 6), (3, 7)),
}


def patches_of(module: nn.Module, x: Tensor) -> Tensor:
    """One row a position."""
    if isinstance(module, nn.Linear):
        return x
    assert isinstance(module, nn.Conv2d)
    args = module.kernel_size, module.dilation, module.padding, module.stride
    return functional.unfold(x, *args).transpose(0, 1).flatten(1).T


class Problem:
    """Files of the sums of three parts of the samples, and the patches themselves."""

    def __init__(self, name: str, folder: Path, *, centred: bool = True) -> None:
        self.folder, self.centred, module = folder, centred, LAYERS[name]
        generator = torch.Generator().manual_seed(0)
        shape = (SAMPLES, CHANNELS) if name == "linear" else (SAMPLES, CHANNELS, 6, 5)
        x = 1 + torch.randn(shape, dtype=torch.float64, generator=generator)
        geometry = Geometry.of(module)
        self.files = [folder / f"part{i}.safetensors" for i in range(3)]
        for file, part in zip(self.files, x.split(4), strict=True):
            target = copy.deepcopy(module).double()(part).detach()
            sums = {**geometry.target_sums(target), **geometry.input_sums(part)}
            checkpoint.write_tensors(file, add(None, sums))
        self.patches, self.inside = patches_of(module, x), patches_of(module, torch.ones_like(x))
        self.weights = torch.randn(
            self.patches.shape[1], OUTPUTS, dtype=torch.float64, generator=generator
        )
        sums = read_sums(self.files, SMALL_SUMS)
        inside = sums["inside"].repeat(CHANNELS)
        patches = Patches(geometry, sums["input_mean"], inside, len(self.patches))
        self.reading = Reading(patches, self.weights, centred, 1.0)

    def store(self, channels: tuple[tuple[int, ...], ...], runtime: Any) -> StoredMap:
        with stored_products(runtime, self.files) as pieces:
            consumer = Slice("module", channels)
            return make_map(runtime, pieces, self.reading, consumer, SAMPLES, self.folder)

    def expected(self, channels: tuple[tuple[int, ...], ...]) -> LinearMap:
        kernel = self.patches.shape[1] // CHANNELS
        rows = [c * kernel + k for own in channels for c in own for k in range(kernel)]
        x, weights, inside = self.patches[:, rows], self.weights[rows], self.inside[:, rows]
        centred = x - x.mean(0) if self.centred else x
        inputs = centred.T @ centred / SAMPLES
        target = inputs @ weights
        deviations = (x - x.sum(0) / inside.sum(0)) * inside
        damping = DAMPING * float(deviations.square().sum(0).mean()) / SAMPLES
        return LinearMap(inputs, target, weights, float((weights * target).sum()), damping)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_moments, "ROWS_OF_A_BLOCK", 2)


def same(found: LinearMap, expected: LinearMap, rows: Tensor) -> None:
    torch.testing.assert_close(found.inputs, expected.inputs[rows])
    torch.testing.assert_close(found.target, expected.target)
    assert torch.equal(found.weights, expected.weights)
    assert found.energy == pytest.approx(expected.energy)
    assert found.damping == pytest.approx(expected.damping)


@pytest.mark.parametrize(("most", "centred"), [(2, True), (16, True), (16, False)])
@pytest.mark.parametrize("channels", CANDIDATES.values(), ids=CANDIDATES.keys())
@pytest.mark.parametrize("name", LAYERS)
def test_maps_are_those_of_the_patches(
    name: str,
    channels: tuple[tuple[int, ...], ...],
    most: int,
    centred: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stored_moments, "MAX_BLOCKS", most)
    problem, count = Problem(name, tmp_path, centred=centred), len(channels)
    with open_runtime(RuntimeSpec("none", 1, "cpu")) as runtime:
        stored = problem.store(channels, runtime)
    assert len(stored.blocks) > 1
    expected = problem.expected(channels)
    block = len(expected.weights) // count
    for own in (list(range(count)), [0], [1, 2], [0, count - 1], []):
        candidates = torch.tensor(own, dtype=torch.int64)
        rows = torch.tensor([block * i + k for i in own for k in range(block)], dtype=torch.int64)
        found = LinearMap.load(stored, count, candidates)
        same(found, expected, rows)
        moments = found.block_moments(count, candidates)
        torch.testing.assert_close(moments.target, expected.target[rows])
    stored.remove()
    assert sorted(tmp_path.iterdir()) == problem.files


def test_any_number_of_ranks_makes_the_same_bits(tmp_path: Path) -> None:
    channels, found = CANDIDATES["all channels"], []
    for kind, workers in (("none", 1), ("local", 3)):
        with open_runtime(RuntimeSpec(kind, workers, "cpu", 1)) as runtime:
            for name in LAYERS:
                folder = tmp_path / kind / name
                folder.mkdir(parents=True)
                stored = Problem(name, folder).store(channels, runtime)
                found.append(LinearMap.load(stored, CHANNELS, torch.arange(CHANNELS)))
    for one, three in zip(found[: len(LAYERS)], found[len(LAYERS) :], strict=True):
        assert torch.equal(one.inputs, three.inputs)
        assert torch.equal(one.target, three.target)
        assert (one.energy, one.damping) == (three.energy, three.damping)
