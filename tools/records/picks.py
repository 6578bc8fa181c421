"""The picks of a fixed set of runs, kept in a file, so that a later change can be held against it.

    python tools/records/picks.py FILE             # runs the set and writes FILE
    python tools/records/picks.py --compare FILE   # runs it again; exits 1 if anything differs
    ... --only NAME [NAME ...]                     # these runs, and what they read from

Every run is a ``gfs`` command in a process of its own, one thread a rank, in a temporary folder. It
uses the gfs_dist that this interpreter imports, and nothing of it but the command line and
report.json. Runs on CIFAR-10 and the trained ResNet-20 are left out where ../shared/data is absent.
Picks and sizes must be equal, losses and accuracies within 1e-9 of their size.

What it does not know: whether picks are right; and how another torch or another processor rounds,
so compare where the file was made.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
LIMIT_S, CLOSE = 300, 1e-9
EXACT, ROUNDED = ("words", "picks_sha256", "kept", "macs"), ("loss", "accuracy")

TRAIN = "pretrain model.width=240 train.iterations=200 train.checkpoint_every=100 runtime=none"
TWO = "prune checkpoint=dense steps=40"
BCE = "prune checkpoint=dense_bce objective=bce steps=40 runtime=none"
OWN = "model=custom model.factory=tiny_digits:make data.samples=200"
TINY = f"prune checkpoint=tiny/checkpoints/step_00000025 {OWN} calibration.samples=60"
RESNET = (
    "prune checkpoint=shared/weights/resnet20.safetensors model=resnet20_cifar data=cifar10"
    " data.root=shared/cifar10 data.samples=500 data.test_samples=200"
)
SOME = f"{RESNET} calibration.samples=50 budget.trials=8 runtime=none"
ALONE, THREE, PAIR = "runtime=none", "runtime=local workers=3", "runtime=local workers=2"

RUNS = {
    "dense": TRAIN,
    "dense_bce": f"{TRAIN} objective=bce",
    "trained_first": f"{TRAIN.replace('pretrain', 'prune')} model.activation=relu seed=3 steps=40",
    **{
        f"squared_{method}": f"{TWO} method={method} {ALONE}"
        for method in ("panel", "lazy", "streaming", "exhaustive")
    },
    "line_search": f"{TWO} weights=line_search {ALONE}",
    "without_replacement": f"{TWO} replacement=false {ALONE}",
    "distinct": f"prune checkpoint=dense distinct=25 {ALONE}",
    "refitted": f"{TWO} objective=least_squares {ALONE}",
    "float32": f"{TWO} precision=float32 {ALONE}",
    "strided": f"{TWO} partition=strided {THREE}",
    "ring": f"{TWO} graph=ring {THREE}",
    "ray": f"{TWO} runtime=ray workers=2",
    "killed": f'GFS_FAULTS=[{{"rank":1,"step":20}}] {TWO} method=streaming {THREE}',
    "bce_screened": f"{BCE} method=screened",
    "bce_exhaustive": f"{BCE} method=exhaustive",
    "tiny": f"pretrain {OWN} train=sgd train.iterations=25 train.batch=32 {ALONE}",
    "tiny_macs": f"{TINY} {ALONE}",
    "tiny_cut": "cut tiny_macs budget.macs=30% factory=tiny_digits:make",
    "tiny_tolerance": f"{TINY} budget.tolerance=10% {ALONE}",
    "tiny_network_loss": f"{TINY} objective=network_loss budget.macs=60% {ALONE}",
    "tiny_drawn": f"{TINY} objective=network_loss candidates=4 budget.keep=50% {ALONE}",
    "tiny_killed": f'GFS_FAULTS=[{{"rank":1,"step":3,"generation":3}}] {TINY} {PAIR}',
    "resnet_macs": f"{SOME} budget.macs=50%",
    "resnet_cut": "cut resnet_macs budget.macs=36%",
    "resnet_layer_output": f"{SOME} objective=layer_output budget.macs=50%",
    "resnet_fisher": f"{SOME} objective=fisher budget.params=60%",
    "resnet_network_loss": (
        f"{RESNET} calibration.samples=10 objective=network_loss budget.keep=60% {ALONE}"
    ),
    "resnet_keep": f"{RESNET} calibration.samples=50 target=output budget.keep=40% {ALONE}",
    "resnet_coupled": f"{SOME} coupled=true budget.macs=70%",
    "resnet_round_to": f"{SOME} budget.macs=50% budget.round_to=8",
    "resnet_local": f"{RESNET} calibration.samples=50 budget.keep=70% {PAIR}",
}
"""By name: the words after ``gfs``; ``out=NAME threads=1`` is added, GFS_FAULTS is a variable."""

FACTORY = """
from torch import nn


def make():
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 10, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(10 * 16, 10),
    )
"""


def source(name: str) -> str:
    """The run whose folder a run reads; empty if it reads none."""
    found = re.search(r"(?:checkpoint=|cut )(\w+)", RUNS[name])
    return found[1] if found and found[1] in RUNS else ""


def record(folder: Path, name: str) -> dict[str, Any]:
    """Do one run, and keep what its report says.

    Raises:
        RuntimeError: the command failed, or the fault that it should survive did not come.
        subprocess.TimeoutExpired: the command took too long.
    """
    words = RUNS[name].split()
    faults = words.pop(0).partition("=")[2] if words[0].startswith("GFS_FAULTS=") else ""
    cut = words[0] == "cut"
    words += ["threads=1"] if cut else [f"out={name}", "threads=1"]
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "gfs_dist", *words],
        cwd=folder, env=env | {"OMP_NUM_THREADS": "1", "GFS_FAULTS": faults},
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    report = json.loads((folder / (words[1] if cut else name) / "report.json").read_text())
    if faults and not report["faults"]:
        raise RuntimeError(f"no worker was lost, in spite of GFS_FAULTS={faults}")
    rows = report["results"]
    values = {key: [row.get(key) for row in rows] for key in ("picks_sha256", *ROUNDED, *EXACT[2:])}
    return {"words": RUNS[name].split(), **values}


def record_all(names: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Do runs in a temporary folder: the records, and by name what went wrong."""
    runs: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="picks_") as path:
        folder = Path(path)
        (folder / "tiny_digits.py").write_text(FACTORY)
        (folder / "shared").symlink_to(DATA)
        for name in names:
            began = time.monotonic()
            try:
                runs[name] = record(folder, name)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                failed[name] = str(error)
            tell(f"{name}: {failed.get(name, 'done')}, {time.monotonic() - began:.1f} s")
    return runs, failed


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What is not the same in two records of one run, a line for each key."""
    return [
        f"{key}: recorded {old[key]}, now {new[key]}"
        for key in (*EXACT, *ROUNDED)
        if old[key] != new[key] and not (key in ROUNDED and close(old[key], new[key]))
    ]


def close(old: list[float | None], new: list[float | None]) -> bool:
    """Whether lists of numbers differ by rounding alone; one that is missing is close to none."""
    return len(old) == len(new) and all(
        math.isclose(math.nan if was is None else was, math.nan if now is None else now,
                     rel_tol=CLOSE) or was is now is None
        for was, now in zip(old, new, strict=True)
    )  # fmt: skip


def tell(line: str) -> None:
    """Say how it goes, at once."""
    print(line, flush=True)


def main() -> int:
    """Run, write, compare; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, help="where to write the record")
    parser.add_argument("--compare", metavar="FILE", type=Path, help="an earlier record")
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=RUNS, help="runs to do")
    given = parser.parse_args()
    if not (given.file or given.compare):
        parser.error("found neither a file to write nor --compare FILE")
    old: dict[str, Any] = json.loads(given.compare.read_text())["runs"] if given.compare else {}
    wanted = set(given.only or RUNS)
    for name in reversed(RUNS):  # what a run reads stands before it
        wanted |= {source(name)} if name in wanted else set()
    names = [name for name in RUNS if name in wanted]
    if not DATA.is_dir() and (left_out := {name for name in names if name.startswith("resnet_")}):
        tell(f"left out, as there is no {DATA}: {', '.join(sorted(left_out))}")
        names = [name for name in names if name not in left_out]

    began = time.monotonic()
    runs, failed = record_all(names)
    tell(f"{len(runs)} runs in {time.monotonic() - began:.0f} s")
    wrong = [f"{name}: {why}" for name, why in failed.items()]
    if given.compare:
        wrong += [f"{name}: not recorded" for name in runs if name not in old]
        wrong += [f"{name}: recorded, no longer run" for name in old if name not in RUNS]
        for name in [name for name in runs if name in old]:
            wrong += [f"{name}: {line}" for line in differences(old[name], runs[name])]
    tell("\n".join(wrong) or (f"all as in {given.compare}" if given.compare else "all done"))
    if given.file and not failed:
        versions = {"torch": importlib.metadata.version("torch")}
        content = {
            "format": 1,
            "command": " ".join(["python tools/records/picks.py", *sys.argv[1:]]),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "versions": versions | {"python": platform.python_version()},
            "runs": runs,
        }
        given.file.write_text(json.dumps(content, indent=1) + "\n")
    elif given.file:
        tell(f"{given.file}: not written")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
