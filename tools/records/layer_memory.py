"""Peak memory of searching, cutting and refitting all layers, at several numbers of images.

python -m tools.records.layer_memory [--model resnet34] [--images 64 256 1024] [--size 224]

One fresh process for each row; the peak is what the system reports for the process
(``ru_maxrss``), Python and torch included, and pages of scratch files that it had mapped. Images
are made one batch at a time, as a loader gives them; weights and images are random.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gfs_dist import networks
from gfs_dist.pruning.pruner import Pruner, Settings
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.runtime.resources import peak_bytes
from tools.records.record import keep

BATCH = 32
REFIT_SIZE = 64
"""Pixels at which networks are refitted as well."""
MIB = 2**20


def images_of(count: int, size: int) -> Iterator[Tensor]:
    """Batches, one at a time."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count // BATCH):
        yield torch.randn(BATCH, 3, size, size, generator=generator)


def measure(model: str, images: int, size: int, refit: bool) -> dict[str, Any]:
    """One row, of this process."""
    torch.manual_seed(0)
    network = networks.make(model, 1000).eval()
    network(next(images_of(BATCH, size))[:2])
    row: dict[str, Any] = {"images": images, "pixels": size, "start_mib": peak_bytes() / MIB}
    with tempfile.TemporaryDirectory() as folder, open_runtime(RuntimeSpec(kind="none")) as ranks:
        work = Pruner.prepare(
            network, images_of(images, size), Settings(), ranks, Path(folder) / "work"
        )
        row["prepared_mib"] = peak_bytes() / MIB
        work.search()
        row["searched_mib"] = peak_bytes() / MIB
        if refit:
            half = {name: n // 2 for name, n in work.channels.items()}
            kept = work.keep(half, fold=False)
            small, _ = work.refit(kept, "refit")
            row["refitted_mib"] = peak_bytes() / MIB
            work.check(small, kept)
            row["checked_mib"] = peak_bytes() / MIB
    return row


def main() -> None:
    """Measure and keep, or (``--alone``) print the row of this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet34")
    parser.add_argument("--images", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--refit", action="store_true")
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(measure(given.model, given.images[0], given.size, given.refit)))
        return
    rows = []
    for size, refit in ((given.size, []), (REFIT_SIZE, ["--refit"])):
        for images in given.images:
            words = f"--alone --model {given.model} --images {images} --size {size}".split()
            command = [sys.executable, "-m", "tools.records.layer_memory", *words, *refit]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout))
            print(rows[-1], file=sys.stderr)
    notes = [
        f"{given.model}, all layers, least_squares, paths to every width, one process of "
        f"{torch.get_num_threads()} threads, fresh for each row",
        "peak memory since the start of the process: with torch and the network in use, samples "
        "written, searched; smaller images also: all layers cut to half and refitted, checked "
        "against the masked network",
    ]
    told = (
        f"python -m tools.records.layer_memory --model {given.model} "
        f"--images {' '.join(map(str, given.images))} --size {given.size}"
    )
    keep("layer_memory", told, rows, notes, by="pixels")


if __name__ == "__main__":
    main()
