"""How long full paths of all layers take, phase by phase, and what other searches would take.

python -m tools.records.layer_paths [--model resnet34] [--images 256] [--size 224] [--repeats 3]

Weights and images are random: times do not depend on them. The floor of a phase is its
multiply-adds at the rate of one large product of squares (float32; solving: float64), or its bytes
at the rate of one large copy, the best measured in the same run. Searches by the loss of the whole
network take days: a stated part is timed and scaled by counted work.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist import networks
from gfs_dist.bench.model.timing_model import spread
from gfs_dist.pruning.calibration import moments
from gfs_dist.pruning.calibration.dense_pass import DenseTask
from gfs_dist.pruning.objectives.evaluation_batches import (
    MOST_CELLS,
    BatchSizes,
    Sampling,
    SearchCosts,
    search_costs,
)
from gfs_dist.pruning.objectives.layer_replacement import LayerReplacement
from gfs_dist.pruning.objectives.network_loss import NetworkLossProblem
from gfs_dist.pruning.pruner import LayerPath, Pruner, Settings
from gfs_dist.pruning.structure.structure import Layer
from gfs_dist.runtime import (
    InProcessRuntime,
    MapResult,
    OnItem,
    OnProgress,
    RuntimeSpec,
    SearchJob,
    SearchResult,
    Task,
    open_runtime,
)
from gfs_dist.runtime.resources import peak_bytes
from gfs_dist.selection.objectives.factory import Recipe
from gfs_dist.selection.stop import Stop
from tools.records.record import keep

BATCH = 32
"""Images of the parts that are timed."""
FORWARDS = 5
COPIED = 2**28

PASS, WRITE, SEARCH, LOSSES = (
    "forward pass and moments",
    "moments of parts added up, given to ranks",
    "searches",
    "losses of all prefixes",
)

R = TypeVar("R")
Row = dict[str, Any]
Batches = list[tuple[Tensor, Tensor]]


class TimedRuntime(InProcessRuntime):
    """This process, which notes how long each phase of its work takes."""

    def __init__(self, spec: RuntimeSpec) -> None:
        super().__init__(spec)
        self.spent: dict[str, float] = defaultdict(float)
        self._ended = 0.0

    def _do_search(self, job: SearchJob, report: OnProgress | None) -> SearchResult:
        began = time.perf_counter()
        return self._done(SEARCH, began, super()._do_search(job, report))

    def _do_map(
        self, task: Task, items: Sequence[Any], keep: bool, report: OnItem | None
    ) -> MapResult:
        began = time.perf_counter()
        phase = PASS if isinstance(task, DenseTask) else WRITE
        return self._done(phase, began, super()._do_map(task, items, keep, report))

    def on_layer(self, _name: str, _path: LayerPath) -> None:
        """Between a search and this call, the losses of its prefixes are computed."""
        self.spent[LOSSES] += time.perf_counter() - self._ended

    def _done(self, phase: str, began: float, result: R) -> R:
        self._ended = time.perf_counter()
        self.spent[phase] += self._ended - began
        return result


@dataclass(frozen=True)
class Rates:
    """Of this machine, now: multiply-adds a second in both types, bytes a second copied."""

    float32: float
    float64: float
    copied: float

    @classmethod
    def measured(cls, device: torch.device) -> Rates:
        float32, float64 = (_product_rate(t, device) for t in (torch.float32, torch.float64))
        a, b = torch.ones(2, COPIED // 8, dtype=torch.float64, device=device)
        return cls(float32, float64, COPIED / min(_seconds(lambda: b.copy_(a), 20)))

    def better(self, other: Rates) -> Rates:
        """The best of each, which is what the machine gives when left alone."""
        return Rates(*map(max, dataclasses.astuple(self), dataclasses.astuple(other)))


def _product_rate(dtype: torch.dtype, device: torch.device) -> float:
    size = 2048 if device.type == "cpu" else 8192
    a = torch.randn(size, size, dtype=dtype, device=device)
    return size**3 / min(_seconds(lambda: a @ a, 20))


def _seconds(work: Callable[[], object], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return times


def full_paths(
    network: nn.Module, batches: Batches, repeats: int, device: torch.device
) -> tuple[list[Row], str]:
    """Our paths of all layers to every width: rows by phase, and a hash of all picks."""
    runs: list[dict[str, float]] = []
    found: set[str] = set()
    rates = Rates.measured(device)
    for _ in range(repeats):
        runtime = TimedRuntime(RuntimeSpec(kind="none", device=device.type))
        with tempfile.TemporaryDirectory() as folder, runtime:
            began = time.perf_counter()
            work = Pruner.prepare(network, batches, Settings(), runtime, Path(folder) / "work")
            prepared = time.perf_counter() - began
            began = time.perf_counter()
            work.search(on_layer=runtime.on_layer)
            total = time.perf_counter() - began
            spent = dict(runtime.spent)
            spent[WRITE] += total - sum(spent.values())
            runs.append({"samples and network written, structure found": prepared, **spent})
            picks = json.dumps({name: layer.path.picks for name, layer in work.paths.items()})
            found.add(hashlib.sha256(picks.encode()).hexdigest())
            rates = rates.better(Rates.measured(device))
            floors = _floors(work, work.workspace.num_samples, rates)
    for run in runs:
        run["all paths"] = sum(run.values())
    floors["all paths"] = sum(floors.values())
    (same,) = found
    rows = []
    for phase in runs[0]:
        seconds, floor = [run[phase] for run in runs], floors.get(phase)
        times = spread([one / floor for one in seconds]) if floor else None
        rows.append(
            {"phase": phase, "seconds": spread(seconds), "floor_s": floor, "times_floor": times}
        )
    return rows, same


def _floors(work: Pruner, images: int, rates: Rates) -> dict[str, float]:
    """Seconds that the arithmetic of each phase would take as one large product or copy."""
    macs = networks.macs_by_module(work.dense, work.example)
    passed = float(sum(macs.values()) * images)
    parts = len(work.workspace.parts())
    moved = eliminated = losses = 0.0
    for site in work.consumer_sites(work.structure.layers):
        module = work.dense.get_submodule(site.module)
        geometry = moments.Geometry.of(module)
        weight = module.get_parameter("weight")
        outputs, channels = weight.shape[:2]
        positions = macs[site.module] // weight.numel() * images
        passed += moments.multiply_adds(geometry, channels, 0, positions)
        n = weight[0].numel()
        terms = geometry.input_sums(torch.zeros(1, channels, *geometry.kernel))["products"]
        # Sums of all parts are read; moments are put together, centred, given to ranks.
        moved += 8 * (parts * terms.numel() + 3 * n * n)
        eliminated += n**3 / 3 + n * n * outputs
        losses += n**3 / 3 + 3 * n * n * outputs / 2
    return {
        PASS: passed / rates.float32,
        WRITE: moved / rates.copied,
        SEARCH: eliminated / rates.float64,
        LOSSES: losses / rates.float64,
    }


def by_network_loss(network: nn.Module, batches: Batches, images: int, device: torch.device) -> Row:
    """Our exhaustive search by the network's loss: first steps of one layer of each width."""
    recipe, everything = Recipe("squared", "auto", "uniform", False), Sampling(batch=images)
    rates: dict[int, float] = {}
    seconds = timed = losses = 0.0
    spec = RuntimeSpec(kind="none", device=device.type)
    with tempfile.TemporaryDirectory() as folder, open_runtime(spec) as ranks:
        work = Pruner.prepare(network, batches[:1], Settings(), ranks, Path(folder) / "work")
        shown = work.only_input.to(device)

        def cost(layer: Layer, samples: int, steps: int, sampling: Sampling) -> SearchCosts:
            example = work.only_input
            return search_costs(work.dense, layer, example, samples, steps, recipe, sampling)

        for layer in work.structure.layers:
            n = layer.num_candidates
            if n not in rates:
                replaced = LayerReplacement(work.workspace.dense(device), layer)
                sizes = BatchSizes.of(replaced, shown, BATCH, device.type)
                chunks = math.ceil(BATCH / sizes.samples)
                filled = math.ceil(MOST_CELLS / chunks) * sizes.trials(n, chunks)
                part = Sampling(batch=BATCH, candidates=min(n, filled))
                problem = NetworkLossProblem(work.workspace, layer, recipe, part)
                spent = ranks.search(problem, Stop(steps=1)).timing["steps_s"]
                rates[n] = cost(layer, BATCH, 1, part).macs / spent
                timed += spent
            whole = cost(layer, images, n, everything)
            losses += whole.losses
            seconds += whole.macs / rates[n]
    part_text = (
        f"the first step of {len(rates)} layers, {BATCH} images, as many candidates as fill "
        f"{MOST_CELLS} pairs of a batch and a chunk of images"
    )
    return _compared("network_loss, all candidates", part_text, timed, int(losses), seconds)


def by_full_forwards(
    network: nn.Module, batches: Batches, images: int, device: torch.device
) -> Row:
    """As public code does it: for each candidate the whole network runs with a mask."""
    x, labels = batches[0]
    with tempfile.TemporaryDirectory() as folder, open_runtime(RuntimeSpec(kind="none")) as ranks:
        work = Pruner.prepare(network, [(x[:2], labels[:2])], Settings(), ranks, folder + "/work")
    layer = work.structure.layers[0]
    network, x, labels = network.to(device), x.to(device), labels.to(device)
    mask = torch.zeros(layer.num_candidates, device=device)
    consumer = network.get_submodule(layer.consumers[0].module)
    gate = consumer.register_forward_pre_hook(lambda _, given: (given[0] * mask[:, None, None],))

    @torch.no_grad()
    def forward() -> float:
        return float(functional.cross_entropy(network(x), labels))

    forward()
    times = []
    for candidate in range(FORWARDS):
        mask.zero_()[candidate] = layer.num_candidates
        times += _seconds(forward, 1)
    gate.remove()
    channels = [layer.num_candidates for layer in work.structure.layers]
    losses = sum(n * (n + 1) // 2 for n in channels)
    seconds = statistics.median(times) * losses * images / len(x)
    part_text = f"{FORWARDS} candidates, {len(x)} images"
    return _compared("every candidate a full forward", part_text, sum(times), losses, seconds)


def _compared(search: str, part: str, timed: float, losses: int, seconds: float) -> Row:
    return {
        "search": search,
        "timed part": part,
        "part_s": timed,
        "losses of the network": losses,
        "seconds": seconds,
        "days": seconds / 86_400,
    }


def _busy() -> tuple[float, float]:
    """Seconds of all cores in which they worked, and of this process alone."""
    fields = Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    ticks = user + nice + system + irq + softirq + steal
    own = os.times()
    return ticks / os.sysconf("SC_CLK_TCK"), own.user + own.system


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet34")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    device = torch.device(given.device)
    torch.manual_seed(0)
    network = networks.make(given.model, 1000 if given.size > 64 else 10).eval()
    batches = [
        (torch.randn(BATCH, 3, given.size, given.size), torch.randint(10, (BATCH,)))
        for _ in range(given.images // BATCH)
    ]
    began, before = time.perf_counter(), _busy()
    rows, picks = full_paths(network, batches, given.repeats, device)
    elapsed, after = time.perf_counter() - began, _busy()
    others = (after[0] - before[0]) - (after[1] - before[1])
    peak = peak_bytes() / 2**20
    searches = (by_network_loss, by_full_forwards)
    compared = [search(network, batches, given.images, device) for search in searches]
    ours = rows[-1]["seconds"]["median"]
    for row in compared:
        row["times ours"] = row["seconds"] / ours
    cores = os.cpu_count() or 1
    notes = [
        f"all layers, {given.images} images of {given.size}x{given.size}, least_squares, paths to "
        f"every width; one process, {torch.get_num_threads()} threads; median (minimum to maximum) "
        f"of {given.repeats} runs with the same picks (sha256 {picks[:12]}); peak memory "
        f"{peak:,.0f} MiB, all images held by the caller included",
        f"while our searches ran, other processes took {others / (elapsed * cores):.0%} of the "
        "machine's time",
        "searches by the loss of the whole network are extrapolated from the part that is named, "
        "by multiply-adds (network_loss, set-up left out) or by losses (full forwards); both with "
        f"{given.images} images a loss",
    ]
    name = f"layer_paths_{given.model}" + ("_gpu" if given.device == "cuda" else "")
    command = (
        f"python -m tools.records.layer_paths --model {given.model} --images {given.images} "
        f"--size {given.size} --repeats {given.repeats} --device {given.device}"
    )
    keep(name, command, rows + compared, notes)


if __name__ == "__main__":
    main()
