"""How long full paths of all layers take, phase by phase, each against its floor.

python -m tests.records.layer_paths [--model resnet34] [--images 256] [--size 224]

Weights are random (times do not depend on them); images are random as well. The floor of a phase
is its multiply-adds at the rate of one large float32 (solving: float64) product, measured in the
same run.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path as FilePath
from typing import Any

import torch

from gfs_dist import networks
from gfs_dist.pruning.layerwise import moments
from gfs_dist.pruning.layerwise.pruner import LayerPath, Pruner, Settings
from gfs_dist.runtime import RuntimeSpec, open_runtime
from tests.records.record import keep


def rate(dtype: torch.dtype, size: int = 2048) -> float:
    """Multiply-adds a second of one product of squares, the best of five."""
    a = torch.randn(size, size, dtype=dtype)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        _ = a @ a
        times.append(time.perf_counter() - began)
    return size**3 / min(times)


def measure(model: str, images: int, size: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows by phase, and notes."""
    torch.manual_seed(0)
    network = networks.make(model, 1000 if size > 64 else 10).eval()
    batches = [torch.randn(32, 3, size, size) for _ in range(images // 32)]
    spent = {"prepare": 0.0, "searches": 0.0}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, open_runtime(RuntimeSpec(kind="none")) as ranks:
        work = Pruner.prepare(network, batches, Settings(), ranks, FilePath(folder) / "work")
        spent["prepare"] = time.perf_counter() - began
        searched = work._search_layer

        def timed(*arguments: Any) -> LayerPath:
            start = time.perf_counter()
            try:
                return searched(*arguments)
            finally:
                spent["searches"] += time.perf_counter() - start

        work._search_layer = timed  # type: ignore[method-assign]
        start = time.perf_counter()
        work.search()
        total = time.perf_counter() - start
        rows = _rows(work, spent, total, images)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    notes = [
        f"{len(work.paths)} layers, {sum(work.channels.values())} channels, {images} images of "
        f"{size}x{size}; paths to every width",
        f"peak memory {peak / 2**20:,.0f} MiB",
    ]
    return rows, notes


def _rows(work: Pruner, spent: dict[str, float], total: float, images: int) -> list[dict[str, Any]]:
    float32, float64 = rate(torch.float32), rate(torch.float64)
    forward = work.costs.dense("macs") * images
    squares, eliminations = 0, 0.0
    macs = networks.macs_by_module(work.dense, work.example)
    for site in work.consumer_sites(work.structure.layers):
        module = work.dense.get_submodule(site.module)
        geometry = moments.Geometry.of(module)
        weight = module.get_parameter("weight")
        positions = macs[site.module] // weight.numel() * images
        squares += moments.multiply_adds(geometry, weight.shape[1], 0, positions)
        eliminations += weight[0].numel() ** 3 / 3
    passes = total - spent["searches"]
    return [
        _row("write samples and network, find structure", spent["prepare"], None),
        _row("forward pass and moments", passes, (forward + squares) / float32),
        _row("searches and losses of all prefixes", spent["searches"], 2 * eliminations / float64),
        _row("all paths", total, (forward + squares) / float32 + 2 * eliminations / float64),
    ]


def _row(phase: str, seconds: float, floor: float | None) -> dict[str, Any]:
    return {
        "phase": phase,
        "seconds": seconds,
        "floor_s": floor or 0.0,
        "times_floor": seconds / floor if floor else 0.0,
    }


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet34")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    given = parser.parse_args()
    rows, notes = measure(given.model, given.images, given.size)
    command = (
        f"python -m tests.records.layer_paths --model {given.model} --images {given.images} "
        f"--size {given.size}"
    )
    keep(f"layer_paths_{given.model}_{given.images}", command, rows, notes)
    print(FilePath(__file__).with_name(f"layer_paths_{given.model}_{given.images}.md").read_text())


if __name__ == "__main__":
    main()
