"""Trains a deep network with ranks, into the checkpoints of a folder."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import nn

from gfs_dist import networks
from gfs_dist.command_words import typed, typed_place
from gfs_dist.config import commands as schema
from gfs_dist.config.command_line import data_words, model_words
from gfs_dist.data import DataSpec, Images
from gfs_dist.files import RunFolder, atomic, checkpoint, fingerprint
from gfs_dist.files.find import read_iteration
from gfs_dist.networks import Classified, device_of
from gfs_dist.networks.storage.store import ARCHITECTURE
from gfs_dist.records import Measured, ResultRow
from gfs_dist.runtime import GroupProgress, Peers, Runtime, Tick, open_runtime
from gfs_dist.training import DeepSpec, TrainState, train_deep
from gfs_dist.workflows import plan_text
from gfs_dist.workflows.checkpoints import (
    LossWatch,
    checkpoint_rows,
    losses_of,
    refuse_changes,
    training_facts,
)
from gfs_dist.workflows.measures import (
    classify_splits,
    named,
    sizes,
    splits,
    training_split,
)
from gfs_dist.workflows.process import data_spec, given_keys, runtime_spec
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_events import RunEvents
from gfs_dist.workflows.run_report import RunReport, check_reach
from gfs_dist.workflows.stored_networks import (
    check_fits,
    describe,
    fresh_network,
    read_for_training,
    read_images,
)

LOSS = "cross_entropy"
MEANING_OF_LOSS = (
    "The loss of a checkpoint is the mean over the mini-batches since the checkpoint before it, "
    "augmented and each before its step."
)
FINETUNE_DEFAULTS = {"iterations": 2500, "lr": 0.01, "checkpoint_every": 500}
"""The paper's 2,500 iterations from 0.01 (arXiv 2108.00259, Appendix E); all else as pretrain."""


def deep_spec(train: schema.Train, seed: int, **defaults: Any) -> DeepSpec:
    """How the keys ``train.*`` want it; ``defaults`` stand for keys that are null."""
    return DeepSpec(**defaults | given_keys(train, DeepSpec), seed=seed)


def finetune_spec(config: schema.Finetune | schema.Prune) -> DeepSpec:
    """How the keys ``train.*`` have a pruned network trained on."""
    return deep_spec(config.train, config.seed, **FINETUNE_DEFAULTS)


@dataclass(frozen=True)
class TrainTask:
    """One training, a group task: rank 0 reads and writes the checkpoints, all ranks train.

    Its tick after a step carries ``{"loss"}``, and ``{"checkpoint", "accuracy", "mean"}`` of the
    last checkpoint, if that is new: its mean loss is null at the start.

    Attributes:
        network: makes the network that iteration 0 has, the same on every rank.
        folder: a run folder, on a disk that rank 0 sees; ``checkpoints/`` is there.
        architecture: kept in every checkpoint.
        facts: what has to be the same for training to go on, kept in every checkpoint.
        until: the checkpoint to end at; None: the last.
    """

    data: DataSpec
    network: Callable[[], nn.Module]
    spec: DeepSpec
    folder: str
    architecture: dict[str, Any]
    facts: dict[str, Any]
    until: int | None = None

    def run(self, peers: Peers, device: torch.device, tick: Tick) -> None:
        """Train from the folder's last checkpoint to ``until``.

        Raises:
            RunFolderError: the checkpoints come from other data or settings.
            RunError: training diverged.
        """
        images = read_images(self.data)
        network = self.network().to(device)
        start = _share_state(network, self._resume(network) if peers.rank == 0 else None, peers)
        new: dict[str, float | None] = {}

        def on_checkpoint(network: nn.Module, state: TrainState) -> None:
            alive = functools.partial(tick, state.iteration)
            found = measure(network, images, self.data.seed, peers, alive)
            new.update(checkpoint=state.iteration, accuracy=found["accuracy"], mean=state.loss)
            if peers.rank == 0:
                self._save(network, state, found)

        def on_progress(iteration: int, loss: float) -> None:
            tick(iteration, {"loss": loss, **new})
            new.clear()

        train_deep(
            network,
            images,
            self.spec,
            start=start,
            until=self.until,
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

    def _save(self, network: nn.Module, state: TrainState, found: Measured) -> None:
        known = {
            "iteration": state.iteration,
            "loss": state.loss,
            **found,
            "architecture": self.architecture,
        }
        checkpoint.save(
            RunFolder(self.folder).checkpoint(state.iteration),
            network.state_dict(),
            known | self.facts,
            state.velocity,
        )


def measure(
    network: nn.Module, images: Images, seed: int, peers: Peers, alive: Callable[[], None]
) -> Measured:
    """Loss and accuracy on the training and the test split; each rank counts its part of them."""
    found = {}
    for name, split in {**splits(images), "train": training_split(images, seed)}.items():
        own = split._replace(rows=split.rows.tensor_split(peers.num_ranks)[peers.rank])
        sums = torch.zeros(2, dtype=torch.float64, device=device_of(network))
        if count := len(own.rows):
            counted = classify_splits(network, images, {name: own}, lambda *_: alive())[name]
            sums += count * sums.new_tensor(counted)
        peers.average([sums])
        loss, right = (sums * peers.num_ranks).tolist()
        found[name] = Classified(loss / len(split.rows), round(right) / len(split.rows))
    return named(found)


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


class TrainProgress:
    """Tells a run of its training: each step, and a row of events for each checkpoint."""

    def __init__(self, events: RunEvents, reporter: Reporter, lr: float) -> None:
        self._events, self._reporter = events, reporter
        self._watch = LossWatch(reporter, lr)
        self._accuracy: float | None = None

    def __call__(self, progress: GroupProgress) -> None:
        for step, value in progress.values:
            if "checkpoint" in value:
                self._accuracy = value["accuracy"]
                self._watch.add(value["checkpoint"], value["mean"])
                self._events.first_rank("step", value["checkpoint"])
            self._reporter.step(step, value["loss"], accuracy=self._accuracy)


class DeepTraining:
    """Training of a fresh deep network, or of a stored one on; both begin at ``network``."""

    in_ranks: ClassVar[bool] = True

    def __init__(
        self,
        config: schema.Pretrain | schema.Finetune | schema.Prune,
        architecture: dict[str, Any],
        make: Callable[[], nn.Module],
        spec: DeepSpec,
        *,
        fresh: bool = False,
    ) -> None:
        self.config, self.spec = config, spec
        self.images = read_images(data_spec(config.data))
        self.network = make()
        self._architecture, self._make = architecture, make
        inputs = {f"data={config.data.name}": self.images.fingerprint}
        if not fresh:
            weights = [tensor for _, tensor in sorted(self.network.state_dict().items())]
            inputs["the network"] = fingerprint(*weights)
        self._facts = training_facts(spec, inputs)

    @classmethod
    def of_fresh(cls, config: schema.Pretrain) -> DeepTraining:
        """Training of the network that ``model.*`` describes.

        Raises:
            ConfigError: there is no such network.
            ShapeError: it does not take these images.
        """
        images = read_images(data_spec(config.data))
        architecture = describe(config.model, images)
        make = functools.partial(fresh_network, architecture, config.seed)
        spec = deep_spec(config.train, config.seed)
        made = cls(config, architecture, make, spec, fresh=True)
        check_fits(made.network, images, f"model={config.model.name}")
        return made

    @classmethod
    def of_stored(
        cls, config: schema.Finetune | schema.Prune, place: Path, architecture: dict[str, Any]
    ) -> DeepTraining:
        make = functools.partial(read_for_training, place, config.model, data_spec(config.data))
        return cls(config, architecture, make, finetune_spec(config))

    @property
    def lines(self) -> list[str]:
        assert not isinstance(self.config, schema.Prune)
        return plan_text.deep_training(self.config, self.network, self.images, self.spec)

    def train(
        self, report: RunReport, reporter: Reporter, enough: Callable[[int], bool] | None = None
    ) -> None:
        """Train with the ranks that the configuration asks for; a single local one is this process.

        It ends at the first checkpoint of which ``enough`` says so; this process then asks at each.

        Raises:
            RunFolderError: the run folder's checkpoints come from other data or settings.
            RunError: training diverged.
        """
        folder, spec = report.folder, runtime_spec(self.config, report.folder)
        if spec.kind == "local" and spec.workers == 1:
            spec = replace(spec, kind="none")
        folder.checkpoint(0)  # makes the folder: ranks write into it, and have no lock
        reporter.phase("train", self.spec.iterations)
        report.notes, report.lr = [MEANING_OF_LOSS], self.spec.lr
        try:
            with open_runtime(spec, observers=[report.events]) as runtime:
                check_reach(folder, runtime)
                if enough is None:
                    self.run(runtime, folder.path, report.events, reporter)
                    return
                for iteration in self.spec.checkpoints:
                    if iteration not in dict(folder.checkpoints()):
                        self.run(runtime, folder.path, report.events, reporter, iteration)
                    if enough(iteration):
                        return
        finally:
            report.losses = losses_of(self.rows(folder, {}))

    def run(
        self,
        runtime: Runtime,
        folder: Path,
        events: RunEvents,
        reporter: Reporter,
        until: int | None = None,
    ) -> None:
        data, facts = data_spec(self.config.data), self._facts
        task = TrainTask(data, self._make, self.spec, str(folder), self._architecture, facts, until)
        runtime.run_group(task, TrainProgress(events, reporter, self.spec.lr))

    def rows(self, folder: RunFolder, size: Measured | None = None) -> list[ResultRow]:
        size = sizes(self.network, self.images) if size is None else size

        def measured(path: Path) -> Measured:
            state = checkpoint.read_json(path / checkpoint.STATE)
            return {"loss": state.get("loss"), "accuracy": None, **measured_of(state), **size}

        return checkpoint_rows(folder, LOSS, None, measured)

    def commands(self, folder: RunFolder, rows: list[ResultRow]) -> list[str]:
        config, last = self.config, str(folder.path / str(rows[-1]["model"]))
        words = f"{model_words(config.model)} {data_words(config.data, config.seed)}"
        return [
            f"gfs prune {typed('checkpoint', last)} {words}",
            f"gfs evaluate {typed_place('path', last)} {words}",
        ]

    def trained(self, folder: RunFolder) -> tuple[nn.Module, Measured]:
        """The network at the last checkpoint in a folder, and what was measured of it then."""
        _, last = folder.checkpoints()[-1]
        found = checkpoint.load(last)
        networks.load_state(self.network, found.tensors, last / checkpoint.MODEL)
        return self.network.eval(), measured_of(found.state)


def measured_of(state: Mapping[str, Any]) -> Measured:
    """What the state of a checkpoint says that was measured of it, its loss apart."""
    keys = [key for key in Measured.__annotations__ if key in state and key != "loss"]
    return cast(Measured, {key: state[key] for key in keys})


def keep_as_cut(model: Path, home: Path) -> Path:
    """A copy of the network as it was cut, out of the way of the trained one; with checkpoints."""
    cut = home / "cut"
    with atomic.storage_errors(home):
        (home / "checkpoints").mkdir(parents=True, exist_ok=True)  # ranks have no lock to make it
    if not cut.is_dir():
        with atomic.folder(cut) as aside:
            for file in (ARCHITECTURE, checkpoint.MODEL):
                shutil.copyfile(model / file, aside / file)
    return cut
