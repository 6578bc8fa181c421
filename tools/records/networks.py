"""Networks as users bring them: what was pruned, what was skipped and why, whether it is right.

python -m tools.records.networks [--work FOLDER] [--only NAME ...]

Each network is trained for a moment on real images, pruned to half of its multiply-adds by
``gfs_dist.prune``, stored, and read again by a fresh process in which its classes do not exist.
Every finished row lies in the work folder at once and is not measured again; the record is written
once all are there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

import gfs_dist
from tools.records.record import keep
from tools.records.user_networks import NETWORKS

DATA = Path(__file__).parents[3] / "shared" / "data"
BATCH, TEST = 64, 256
ITERATIONS = {"cifar10": 150, "noisy cifar10": 150, "tinyimagenet50": 30}
CALIBRATION = {"cifar10": 256, "noisy cifar10": 256, "tinyimagenet50": 128}
NOISE = 0.5
"""Of pictures with mean 0 and variance 1: what the U-Net-like network takes away."""

FRESH = """
import sys, torch
from safetensors.torch import load_file, save_file
sys.modules["tools"] = None  # importing what the network was written in is an error
import gfs_dist
with torch.no_grad():
    y = gfs_dist.load("small")(load_file("x.safetensors")["x"])
save_file({"y": y.contiguous()}, "y.safetensors")
"""

BUDGET = {"macs": 0.5, "trials": 2}

Examples = tuple[Tensor, Tensor]

NOTES = [
    f"pruned by gfs_dist.prune(network, batches, budget={BUDGET}), nothing fine-tuned: the "
    "starting widths of all rules are compared, none is improved on; "
    "at 70 %: multiply-adds of result.cut({'macs': 0.7})",
    "trained for 150 steps on CIFAR-10 (U-Net-like: to take noise away), ImageNet forms for 30 "
    "steps on 64-pixel images of 50 classes; 64 images a step: accuracies are those of beginners",
    "cut against masked, loaded against kept: largest difference over all calibration (256 test) "
    "images, in units of the largest output; loading is done by a fresh process in which the "
    "network's classes cannot be imported",
    "given network unchanged: state dict to the bit, training modes, requires_grad",
    "output variance lost: variance of the change of the outputs in units of the outputs', on "
    "test images",
]


def images(kind: str) -> tuple[Examples, Examples]:
    """Training and test images with what is to come out for them."""
    sys.path.insert(0, str(DATA))
    import load  # type: ignore[import-not-found]

    name = kind.split()[-1]
    read, test = getattr(load, name), "val" if name == "tinyimagenet50" else "test"
    generator = torch.Generator().manual_seed(0)
    splits = []
    for split in ("train", test):
        pixels, labels = (array[:10_000] for array in read(split))
        x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = (x * 2).contiguous()
        y = torch.from_numpy(labels)
        if kind != name:
            x, y = x + NOISE * torch.randn(x.shape, generator=generator), x
        splits.append((x, y))
    return splits[0], splits[1]


def train(network: nn.Module, examples: Examples, iterations: int) -> None:
    """A moment of AdamW."""
    x, y = examples
    loss = functional.mse_loss if y.is_floating_point() else functional.cross_entropy
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, iterations)
    generator = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(iterations):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        optimizer.zero_grad()
        loss(network(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    network.eval()


@torch.no_grad()
def outputs(network: nn.Module, x: Tensor) -> Tensor:
    """Of the evaluated network."""
    return torch.cat([network(part) for part in x.split(BATCH)])


def state_of(model: nn.Module) -> dict[str, Any]:
    """All that pruning must leave as it is."""
    return {
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "gradients": [parameter.requires_grad for parameter in model.parameters()],
    }


def unchanged(model: nn.Module, before: dict[str, Any]) -> bool:
    """Whether it is, to the last bit."""
    after = state_of(model)
    pairs = zip(after.pop("tensors").items(), before["tensors"].items(), strict=True)
    same = all(n == m and torch.equal(a, b) for (n, a), (m, b) in pairs)
    return same and after == {key: before[key] for key in after}


def batches(examples: Examples, count: int) -> Iterator[Any]:
    """Calibration images, with their labels where these are classes."""
    x, y = (part[:count].split(BATCH) for part in examples)
    return zip(x, y, strict=True) if not y[0].is_floating_point() else iter(x)


def loaded(result: gfs_dist.Pruned, x: Tensor, folder: Path) -> Tensor:
    """Outputs of the stored network in a process that knows nothing of its classes."""
    result.save(folder / "small")
    save_file({"x": x}, folder / "x.safetensors")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", FRESH]
    subprocess.run(command, check=True, cwd=folder, env=environment, timeout=600)
    return load_file(folder / "y.safetensors")["y"]


def relative(found: Tensor, wanted: Tensor) -> float:
    """The largest difference in units of the largest output."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def reasons(layers: list[dict[str, Any]]) -> str:
    """Each reason once, with the layers that it kept whole."""
    found: dict[str, list[str]] = {}
    for row in layers:
        if row["reason"]:
            found.setdefault(row["reason"], []).append(row["name"])
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in found.items())


def measure(name: str) -> dict[str, Any]:
    """The row of one network."""
    kind, make = NETWORKS[name]
    training, (x, y) = images(kind)
    x, y = x[:TEST], y[:TEST]
    torch.manual_seed(0)
    network = make()
    train(network, training, ITERATIONS[kind])
    dense, before = outputs(network, x), state_of(network)
    began = time.perf_counter()
    result = gfs_dist.prune(network, batches(training, CALIBRATION[kind]), budget=BUDGET)
    seconds = time.perf_counter() - began
    again = result.cut({"macs": 0.7}).report
    small = outputs(result.model, x)
    with tempfile.TemporaryDirectory() as folder:
        difference = relative(loaded(result, x, Path(folder)), small)
        architecture = json.loads(Path(folder, "small", "architecture.json").read_text())
    report = result.report
    pruned = [row for row in report["layers"] if row["reason"] is None]
    row = {
        "network": name,
        "layers pruned": f"{len(pruned)} of {len(report['layers'])}",
        "channels before": sum(row["channels"] for row in pruned),
        "after": sum(row["kept"] for row in pruned),
        "multiply-adds kept, %": 100 * report["macs"] / report["dense"]["macs"],
        "at 70 %": 100 * again["macs"] / again["dense"]["macs"],
        "cut against masked": report["difference_from_masked"],
        "stored as": "its steps" if "graph" in architecture else "a record of removals",
        "loaded against kept": difference,
        "given network unchanged": unchanged(network, before),
        "output variance lost, %": 100 * float((small - dense).var() / dense.var()),
    }
    classes = not y.is_floating_point()
    for column, found in (("dense accuracy, %", dense), ("pruned accuracy, %", small)):
        row[column] = 100 * float((found.argmax(1) == y).float().mean()) if classes else None
    return row | {"seconds": seconds, "skipped and why": reasons(report["layers"])}


def main() -> None:
    """Measure what is not there yet; keep the record once all is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    arguments = parser.parse_args()
    if not (DATA / "load.py").exists():
        sys.exit("no images: this record needs the real data beside the checkout (shared/data)")
    work = arguments.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        if (work / f"{name}.json").exists():
            continue
        row = measure(name)
        (work / f"{name}.json").write_text(json.dumps(row))
        print(json.dumps(row, indent=1), flush=True)
    files = [work / f"{name}.json" for name in NETWORKS]
    if not all(file.exists() for file in files):
        return
    rows = [json.loads(file.read_text()) for file in files]
    keep("networks", "python -m tools.records.networks", rows, NOTES)


if __name__ == "__main__":
    main()
