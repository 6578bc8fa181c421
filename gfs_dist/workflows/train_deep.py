"""Training of a deep network as its ranks do it: from the last checkpoint of a run folder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gfs_dist import networks
from gfs_dist.data import DataSpec, Images
from gfs_dist.files import RunFolder, checkpoint
from gfs_dist.files.find import read_iteration
from gfs_dist.networks import device_of
from gfs_dist.runtime.spec import Peers, Tick
from gfs_dist.training import DeepSpec, TrainState, train_deep
from gfs_dist.workflows.checkpoints import refuse_changes
from gfs_dist.workflows.images_and_networks import read_images
from gfs_dist.workflows.measuring import batched_rows, batches_of


@dataclass(frozen=True)
class DeepTraining:
    """One training, a group task: rank 0 reads and writes the checkpoints, all ranks train.

    What it ticks after a step: ``{"loss"}``, and ``{"checkpoint", "accuracy", "mean"}`` of the
    last one kept, if that is new: its mean loss is null at the start.

    Attributes:
        data: which images.
        network: makes the network that iteration 0 has, the same on every rank.
        spec: how it is trained.
        folder: the run folder, on a disk that rank 0 sees; ``checkpoints/`` is there.
        architecture: kept in every checkpoint.
        facts: what has to be the same for training to go on, kept in every checkpoint.
    """

    data: DataSpec
    network: Callable[[], nn.Module]
    spec: DeepSpec
    folder: str
    architecture: dict[str, Any]
    facts: dict[str, Any]

    def run(self, peers: Peers, device: torch.device, tick: Tick) -> None:
        """Train from the run folder's last checkpoint to the last iteration.

        Raises:
            RunFolderError: the checkpoints come from other data or settings.
            RunError: training diverged.
        """
        images = read_images(self.data)
        network = self.network().to(device)
        start = _share_state(network, self._resume(network) if peers.rank == 0 else None, peers)
        news: dict[str, float | None] = {}

        def on_checkpoint(network: nn.Module, state: TrainState) -> None:
            alive = functools.partial(tick, state.iteration)
            share = accuracy(network, images, peers, alive)
            news.update(checkpoint=state.iteration, accuracy=share, mean=state.loss)
            if peers.rank == 0:
                self._save(network, state, share)

        def on_progress(iteration: int, loss: float) -> None:
            tick(iteration, {"loss": loss, **news})
            news.clear()

        train_deep(
            network,
            images,
            self.spec,
            start=start,
            peers=peers,
            on_checkpoint=on_checkpoint,
            on_progress=on_progress,
        )

    def _resume(self, network: nn.Module) -> TrainState | None:
        done = RunFolder(self.folder).checkpoints()
        if not done:
            return None
        path = done[-1][1]
        found = checkpoint.load(path)
        refuse_changes(path, found.state, self.facts)
        networks.load_state(network, found.tensors, path / checkpoint.MODEL)
        return TrainState(read_iteration(found.state), found.state.get("loss"), found.optimizer)

    def _save(self, network: nn.Module, state: TrainState, accuracy: float) -> None:
        known = {
            "iteration": state.iteration,
            "loss": state.loss,
            "accuracy": accuracy,
            "architecture": self.architecture,
        }
        checkpoint.save(
            RunFolder(self.folder).checkpoint(state.iteration),
            network.state_dict(),
            known | self.facts,
            state.velocity,
        )


def accuracy(network: nn.Module, images: Images, peers: Peers, alive: Callable[[], None]) -> float:
    """Share of the test split that is classified right; each rank counts its own part of it."""
    own = torch.arange(len(images.x_test)).tensor_split(peers.num_ranks)[peers.rank]
    right = torch.zeros((), dtype=torch.float64, device=device_of(network))
    if len(own):
        batches = batches_of(images, batched_rows(network, images, own), lambda _: alive())
        right += round(networks.classify(network, batches).accuracy * len(own))
    peers.average([right])
    return round(float(right) * peers.num_ranks) / len(images.x_test)


def _share_state(network: nn.Module, state: TrainState | None, peers: Peers) -> TrainState | None:
    """Rank 0's weights, buffers and state on every rank; only rank 0 has read the checkpoint."""
    known = state or TrainState(-1)
    moving = [name in known.velocity for name, _ in network.named_parameters()]
    told = torch.tensor([known.iteration, *moving], device=device_of(network))
    peers.broadcast([told, *network.state_dict().values()])
    iteration, *moving = told.tolist()
    if iteration < 0:
        return None
    pairs = zip(network.named_parameters(), moving, strict=True)
    velocity = {name: torch.zeros_like(p, requires_grad=False) for (name, p), m in pairs if m}
    for name, own in velocity.items():
        if name in known.velocity:
            own.copy_(known.velocity[name])
    peers.broadcast(list(velocity.values()))
    return TrainState(iteration, velocity=velocity)
