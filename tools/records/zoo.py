"""Networks that people have, pruned to half of their multiply-adds: what came of each.

python -m tools.records.zoo [--work FOLDER] [--only NAME ...]

Needs torchvision, timm and transformers. Each row runs in a process of its own with a time limit:
``gfs_dist.prune`` on a few random inputs, multiply-adds counted by hooks of this file, the network
stored and read by a fresh process. Finished rows lie in the work folder and are not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gfs_dist
from gfs_dist.errors import GfsError, InputError
from tools.records.networks import state_of, unchanged
from tools.records.record import keep
from tools.records.zoo_networks import ZOO

BUDGET = {"macs": 0.5, "trials": 1}
LIMIT_S = 150

FRESH = """
import pickle, sys, torch
sys.modules["tools"] = None  # importing what the network was written in is an error
import gfs_dist
from gfs_dist.networks.measure.inputs import tensors_of
x = pickle.load(open("x.pickle", "rb"))
model = gfs_dist.load("small").eval()
with torch.no_grad():
    y = model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)
pickle.dump(list(tensors_of(y)), open("y.pickle", "wb"))
"""

NOTES = [
    f"gfs_dist.prune(model, batches, budget={BUDGET}), defaults otherwise: no residual widths; "
    "where it says so, coupled=True, without which nothing could be pruned. Random weights and "
    "48 random samples: what is shown is that it works, not accuracy",
    "least share: multiply-adds with one candidate in every layer; counts: multiply-adds of "
    "convolutions and linear layers in the pruned network, counted by hooks of this script, are "
    "those of the report (less products inside of attention, which only the report counts)",
    "loaded: largest difference of outputs between the pruned network and what a fresh process "
    "reads of its folder, in units of the largest output; the classes of networks that are written "
    "here do not exist there",
    "untouched: state dict of the given network to the bit, training modes, requires_grad",
    "skipped: layers kept whole, by reason (names left out)",
]


def outputs(model: nn.Module, x: Any) -> list[Tensor]:
    """Tensors that an evaluated network gives for a batch."""
    from gfs_dist.networks.measure.inputs import tensors_of

    training = [module.training for module in model.modules()]
    model.eval()
    with torch.no_grad():
        found = run(model, x)
    for module, mode in zip(model.modules(), training, strict=True):
        module.training = mode
    return [out for out in tensors_of(found) if out.is_floating_point()]


def run(model: nn.Module, x: Any) -> Any:
    """The batch through the model."""
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, tuple) else model(x)


def hooked_macs(model: nn.Module, x: Any) -> int:
    """Multiply-adds for one sample: weights times output positions (transposed: input ones)."""
    total = 0

    def count(module: Any, args: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        weight = module.weight
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            total += weight.numel() * (output.numel() // output.shape[-1])
        else:
            seen = args[0] if module.transposed else output
            total += weight.numel() * (seen.numel() // seen.shape[1])

    kinds = (
        nn.Linear,
        *(getattr(nn, f"Conv{t}{d}d") for t in ("", "Transpose") for d in (1, 2, 3)),
    )
    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, kinds) or type(module).__name__ == "Conv1D"
    ]
    outputs(model, x)
    for hook in hooks:
        hook.remove()
    return total // samples(x)


def samples(x: Any) -> int:
    """In a batch."""
    parts = x.values() if isinstance(x, Mapping) else x
    return len(x) if isinstance(x, (Tensor, list)) else len(next(iter(parts)))


def reasons(layers: list[dict[str, Any]]) -> Iterator[str]:
    """Each reason without its names, and how many layers it kept whole."""
    found: Counter[str] = Counter()
    for row in layers:
        if row["reason"]:
            words = row["reason"].split("'")
            found["…".join(words[::2]) if len(words) > 1 else row["reason"]] += 1
    for reason, count in found.most_common():
        yield f"{count} x {reason[:160]}"


def loaded(result: gfs_dist.Pruned, x: Any) -> str | float:
    """How far outputs of the stored network in a fresh process are from those of the pruned one."""
    import pickle

    with tempfile.TemporaryDirectory() as folder:
        try:
            result.save(Path(folder, "small"))
        except (InputError, ValueError) as error:
            return f"not stored: {error}"[:300]
        Path(folder, "x.pickle").write_bytes(pickle.dumps(x))
        script = [sys.executable, "-c", FRESH]
        done = subprocess.run(script, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)
        if done.returncode:
            return f"not loaded: {done.stderr.strip().splitlines()[-1]}"[:300]
        found = pickle.loads(Path(folder, "y.pickle").read_bytes())
    expected = outputs(result.model, x)
    found = [out for out in found if out.is_floating_point()]
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if one.numel():
            worst = max(worst, float((one - other).abs().max() / other.abs().max()))
    return worst


def measure(name: str) -> dict[str, Any]:
    """The row of one network."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, batches = ZOO[name]()
    network.eval()
    before, began = state_of(network), time.perf_counter()
    row: dict[str, Any] = {"network": name}
    coupled = False
    try:
        with warnings.catch_warnings(action="ignore"):
            try:
                result = gfs_dist.prune(network, batches, budget=BUDGET)
            except GfsError as error:
                if "coupled=true" not in str(error):
                    raise
                coupled = True
                result = gfs_dist.prune(network, batches, budget=BUDGET, coupled=True)
    except GfsError as error:
        return row | {"result": f"refused: {error}", "untouched": unchanged(network, before)}
    seconds = time.perf_counter() - began
    report, costs = result.report, result._source.pruner.costs  # noqa: SLF001 - for the least share
    dense = report["dense"]["macs"]
    pruned = [layer for layer in report["layers"] if layer["reason"] is None]
    x = batches[0]
    return row | {
        "result": "pruned, coupled" if coupled else "pruned",
        "multiply-adds kept, %": 100 * report["macs"] / dense,
        "least share, %": 100 * costs.of("macs", costs.least()) / dense,
        "layers pruned": f"{len(pruned)} of {len(report['layers'])}",
        "cut against masked": report["difference_from_masked"],
        "counts": hooked_macs(result.model, x) == report["macs"],
        "loaded": loaded(result, x),
        "untouched": unchanged(network, before),
        "seconds": seconds,
        "skipped": "; ".join(reasons(report["layers"])),
    }


def measured_alone(name: str) -> dict[str, Any]:
    """The row, from a process of its own."""
    command = [sys.executable, "-m", "tools.records.zoo", "--row", name]
    began = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"network": name, "result": f"not done in {LIMIT_S} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        print(done.stderr[-3000:], file=sys.stderr)
        return {"network": name, "result": f"failed: {last}"[:400]}
    return json.loads(done.stdout.splitlines()[-1]) | {"all seconds": time.perf_counter() - began}


def main() -> None:
    """Measure what is not there yet; keep the record once all is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--row", choices=list(ZOO))
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(arguments.row)))
        return
    work = arguments.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in ZOO:
        file = work / f"{name.replace('/', ' ')}.json"
        wanted = arguments.only is None or any(part in name for part in arguments.only)
        if wanted and not file.exists():
            file.write_text(json.dumps(measured_alone(name)))
            print(file.read_text(), flush=True)
        if file.exists():
            rows.append(json.loads(file.read_text()))
    if len(rows) == len(ZOO):
        keep("zoo", "python -m tools.records.zoo", rows, NOTES)


if __name__ == "__main__":
    main()
