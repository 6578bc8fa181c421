"""Joint stream repair: all weights of a smaller network trained so that its streams are the dense
network's on the same samples; no labels.

Every mini-batch is divided into parts of fixed size, each computed by one thread of one rank, and
their gradients are added in order: any number of ranks and threads takes the same steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from gfs_dist.errors import NonFiniteError
from gfs_dist.files import checkpoint, fingerprint
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.measure.inputs import Batch
from gfs_dist.networks.measure.threads import one_thread_each
from gfs_dist.pruning.calibration.layer_sites import Site
from gfs_dist.pruning.calibration.workspace import CPU, Workspace
from gfs_dist.pruning.repair import STREAM_STEPS
from gfs_dist.pruning.repair.streams import StreamPair
from gfs_dist.pruning.smaller import KeptChannels, make_smaller
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.runtime import GroupProgress, Peers, Runtime, Tick
from gfs_dist.training.batches import batch_rows, crop_and_flip, mixed_seed, paste_rectangles

BATCH, PART = 128, 16
"""Samples of a mini-batch, and of one of its parts on a CPU; a GPU takes the mini-batch at once."""

STEP, WARM_UP = 4e-2, 10
"""Of a tensor's root mean square, by which one step moves it at most; steps until it is that.

After 200 steps on CIFAR-10 (1,024 images, 35 % of the inner multiply-adds, widths by curves; refit
alone 81.2 % of ResNet20, 65.4 % of a ResNet8), the largest step 0.005: 84.3 and 67.0 %, 0.01: 84.7
and 67.3 %, 0.02: 85.1 and 67.4 %, 0.04: 85.6 and 67.5 %. After 600 steps of ResNet20, 0.005:
85.3 %, 0.04: 86.5 %. The last stream alone, 200 steps at 0.005: 83.8 % in the same time. To fit
block after block first does not pay: 100 steps each, then 600 of all, give 87.51 %, 940 steps of
all 87.49 % in the same time (ResNet20, 35 %, widths by trials)."""

BETAS, EPSILON = (0.9, 0.99), 1e-8

KEEP_EVERY = 20
"""Steps between states that are kept."""

COLOURS = 3
"""Channels of the images that are mirrored, shifted and pasted: digits mirrored are no digits."""


@dataclass(frozen=True)
class StreamSpec:
    """How streams are repaired.

    Attributes:
        steps: of Adam.
        seed: of the order of samples and their augmentation.
    """

    steps: int = STREAM_STEPS
    seed: int = 0

    def step_at(self, iteration: int) -> float:
        """``STEP``, after a linear start, to zero by cosine."""
        falling = (1 + math.cos(math.pi * iteration / self.steps)) / 2
        return STEP * min(1, (iteration + 1) / WARM_UP) * falling


@dataclass(frozen=True)
class StreamTask:
    """The repair of one smaller network, a group task; its ticks carry ``{"loss"}``.

    Attributes:
        sites: of the network.
        kept: channels of the smaller network.
        start: file of the smaller network's tensors before the repair.
        state: file of the weights and Adam's means after some steps: a repair that was killed goes
            on from there; one that began otherwise does not.
    """

    workspace: Workspace
    structure: Structure
    sites: tuple[Site, ...]
    kept: KeptChannels
    start: str
    state: str
    spec: StreamSpec

    def smaller(self, device: torch.device = CPU) -> GraphNetwork:
        """The smaller network before the repair."""
        small = make_smaller(self.workspace.dense(device), self.structure, self.kept)
        own = small.state_dict()
        for name, value in load_file(self.start).items():
            if not torch.equal(own[name], value.to(own[name])):  # expanded buffers take no values
                own[name].copy_(value)
        return small

    def pair(self, device: torch.device = CPU) -> StreamPair:
        """Both networks before the repair."""
        dense, x = self.workspace.dense(device), self.workspace.x(0).to(device)
        outputs = self.kept.outputs(self.structure, dense)
        return StreamPair(dense, self.smaller(device), self.sites, outputs, x)

    def run(self, peers: Peers, device: torch.device, tick: Tick) -> None:
        """Train to the last step; rank 0 keeps the state.

        Raises:
            NonFiniteError: the loss is NaN or infinite.
        """
        pair = self.pair(device)
        weights = pair.small.vector
        adam = Adam.start(weights, pair.small.parts(weights))
        began = json.dumps({**asdict(self.spec), "start": fingerprint(weights)})
        done = torch.tensor([self._resume(adam, began) if peers.rank == 0 else 0], device=device)
        peers.broadcast([done, *adam.tensors.values()])
        with one_thread_each() as pool:
            for iteration in range(int(done), self.spec.steps):
                x = self.batch(iteration).to(device)
                gradient, loss = _total_gradient(pair, x, peers, pool)
                if not math.isfinite(loss):
                    raise NonFiniteError(f"repair.streams: loss {loss} at step {iteration + 1}")
                adam.step(gradient, iteration, self.spec.step_at(iteration))
                end = iteration + 1
                if peers.rank == 0 and (end % KEEP_EVERY == 0 or end == self.spec.steps):
                    facts = {"done": str(end), "began": began}
                    checkpoint.write_tensors(self.state, adam.tensors, facts)
                tick(end, {"loss": loss})

    def batch(self, iteration: int) -> Batch:
        """The samples of a mini-batch, augmented if they are images of three colours."""
        rows = batch_rows(self.workspace.num_samples, BATCH, iteration, self.spec.seed)
        x = self.workspace.samples(rows)
        if not isinstance(x, Tensor):
            return x
        if x.ndim == 4 and x.shape[1] == COLOURS and x.is_floating_point():
            generator = torch.Generator().manual_seed(mixed_seed(self.spec.seed, iteration))
            x = paste_rectangles(crop_and_flip(x, generator), generator)
        return x

    def _resume(self, adam: Adam, began: str) -> int:
        """Steps in the state file, which ``adam`` then has; none if it began otherwise."""
        if not Path(self.state).is_file():
            return 0
        with safe_open(self.state, "pt") as file:
            facts = file.metadata()
            if facts["began"] != began:
                return 0
            for name, own in adam.tensors.items():
                own.copy_(file.get_tensor(name))
            return int(facts["done"])


@dataclass(frozen=True)
class Adam:
    """Adam with a step size for each tensor, all of them in one vector.

    Attributes:
        weights: changed in place.
        mean, square: running means of gradients and of their squares.
        scale: root mean square of its tensor at the start, for each weight.
    """

    weights: Tensor
    mean: Tensor
    square: Tensor
    scale: Tensor

    @classmethod
    def start(cls, weights: Tensor, parts: Sequence[Tensor]) -> Adam:
        scale = [part.square().mean().sqrt().expand(part.numel()) for part in parts]
        return cls(weights, torch.zeros_like(weights), torch.zeros_like(weights), torch.cat(scale))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What it takes to go on."""
        return {"weights": self.weights, "mean": self.mean, "square": self.square}

    def step(self, gradient: Tensor, done: int, size: float) -> None:
        """The step after ``done`` others, of ``size`` in units of ``scale``."""
        first, second = BETAS
        self.mean.lerp_(gradient, 1 - first)
        self.square.lerp_(gradient.square(), 1 - second)
        mean = self.mean / (1 - first ** (done + 1))
        deviation = (self.square / (1 - second ** (done + 1))).sqrt_()
        self.weights.sub_(mean.div_(deviation.add_(EPSILON)).mul_(self.scale).mul_(size))


def _total_gradient(
    pair: StreamPair, x: Batch, peers: Peers, pool: ThreadPoolExecutor
) -> tuple[Tensor, float]:
    """Gradient and loss of a mini-batch, of which each rank computes some parts."""
    parts = x.split(len(x) if x.is_cuda else PART)
    owners = [place * peers.num_ranks // len(parts) for place in range(len(parts))]
    own = [place for place, owner in enumerate(owners) if owner == peers.rank]
    done = dict(zip(own, pool.map(lambda place: pair.gradient(parts[place]), own), strict=True))
    total = pair.small.vector.new_zeros(len(pair.small.vector) + 1)
    for place, owner in enumerate(owners):
        found = done[place] if owner == peers.rank else torch.empty_like(total)
        peers.broadcast([found], owner)
        total += found * (len(parts[place]) / len(x))
    return total[:-1], float(total[-1])


def repair_streams(
    task: StreamTask, runtime: Runtime, on_step: Callable[[int, float], None] = lambda *_: None
) -> GraphNetwork:
    """The smaller network with all its weights trained by ranks.

    Args:
        on_step: called with the number of steps and the loss before the last one.

    Raises:
        NonFiniteError: see :meth:`StreamTask.run`.
    """

    def on_progress(progress: GroupProgress) -> None:
        for step, value in progress.values:
            on_step(step, value["loss"])

    runtime.run_group(task, on_progress)
    small, pair = task.smaller(), task.pair()
    pair.small.vector.copy_(load_file(task.state)["weights"])
    pair.small.unfold(small)
    return small
