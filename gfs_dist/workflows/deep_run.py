"""The run folder of a job that trains a deep network: plan, training with its ranks, report."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from typing import Any, cast

from torch import nn

from gfs_dist import networks, report
from gfs_dist.config import commands as schema
from gfs_dist.data import Images
from gfs_dist.files import RunFolder, checkpoint
from gfs_dist.records import Event
from gfs_dist.runtime import GroupProgress, GroupResult, RuntimeSpec, open_runtime
from gfs_dist.training import DeepSpec, loss_rise_warning
from gfs_dist.workflows.process import fault_words, own_event
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_lifecycle import check_reach, failure_reported
from gfs_dist.workflows.train_deep import DeepTraining

LOSS = "cross_entropy"
MEANING_OF_LOSS = (
    "The loss of a checkpoint is the mean over the mini-batches since the checkpoint before it, "
    "augmented and each before its step."
)


def deep_spec(train: schema.Train, seed: int, **defaults: Any) -> DeepSpec:
    """How the keys ``train.*`` want it; ``defaults`` stand for keys that are null."""
    names = DeepSpec.__dataclass_fields__
    given = {key: value for key, value in vars(train).items() if value is not None}
    known = {key: value for key, value in given.items() if key in names}
    return DeepSpec(**defaults | known, seed=seed)


def plan_lines(
    config: schema.Pretrain | schema.Finetune, network: nn.Module, images: Images, spec: DeepSpec
) -> list[str]:
    """What is about to be done, in words."""
    shape = " x ".join(str(size) for size in images.x_train.shape[1:])
    size = 2 * sum(tensor.nbytes for tensor in network.state_dict().values())
    count = len({*range(0, spec.iterations, spec.checkpoint_every), spec.iterations})
    cost = sizes(network, images)
    return [
        f"data      {config.data.name}: {len(images.x_train):,} samples of {shape} to train on, "
        f"{len(images.x_test):,} to test on, {images.num_classes} classes",
        f"network   {cost['params']:,} parameters, {cost['macs']:,} multiply-adds",
        training_line(spec, len(images.x_train), config.workers),
        f"files     {count} checkpoints, {count * size / 2**20:.1f} MiB",
    ]


def training_line(spec: DeepSpec, num_samples: int, workers: int) -> str:
    """How a network is trained, in words."""
    epochs = spec.iterations / math.ceil(num_samples / spec.batch)
    ranks = f", {workers} ranks" if workers > 1 else ""
    return (
        f"training  {spec.iterations:,} iterations ({epochs:.1f} epochs) of {spec.batch} samples"
        f"{ranks}, lr {spec.lr:g} to 0 (cosine), momentum {spec.momentum:g}, "
        f"weight decay {spec.weight_decay:g}{', bfloat16' if spec.amp else ''}"
    )


def sizes(network: nn.Module, images: Images) -> dict[str, int]:
    """Multiply-adds for one input, and parameters."""
    example = images.inputs(images.x_test[:1]).to(networks.device_of(network))
    return {
        "macs": networks.count_macs(network, example),
        "params": networks.count_params(network),
    }


class DeepRun:
    """One run of ``job`` in its folder."""

    def __init__(
        self,
        job: str,
        config: schema.Pretrain | schema.Finetune,
        folder: RunFolder,
        reporter: Reporter,
    ) -> None:
        self.job, self.config, self.folder, self.reporter = job, config, folder, reporter
        self.began = time.perf_counter()
        self.trained: GroupResult | None = None
        self.lr = math.nan
        self.report: dict[str, Any] = {}

    def failure_reported(self) -> AbstractContextManager[None]:
        """Around the work: writes the report if it fails or is stopped."""

        def write(status: str, error: BaseException) -> None:
            self.write(status, [], None, {"error": str(error) or type(error).__name__})

        return failure_reported(write)

    def train(self, task: DeepTraining) -> None:
        """Train with the ranks that the configuration asks for."""
        self.folder.checkpoint(0)  # makes the folder: ranks write into it, and have no lock
        self.reporter.phase("train", task.spec.iterations)
        self.lr = task.spec.lr
        listener = TrainingListener(self.folder, self.reporter, self.lr)
        with open_runtime(self._runtime_spec()) as runtime:
            check_reach(self.folder, runtime)
            self.trained = runtime.run_group(task, listener)

    def checkpoints(self, size: dict[str, int]) -> list[dict[str, Any]]:
        """A row of results for each checkpoint."""
        rows = []
        for iteration, path in self.folder.checkpoints():
            state = checkpoint.read_json(path / checkpoint.STATE)
            rows.append(
                {
                    "name": path.name,
                    "iteration": iteration,
                    "objective": LOSS,
                    "kept": None,
                    "loss": state.get("loss"),
                    "accuracy": state.get("accuracy"),
                    **size,
                    "path": None,
                    "model": self.folder.relative(path),
                }
            )
        return rows

    def write(
        self,
        status: str,
        results: list[dict[str, Any]],
        dense: dict[str, Any] | None,
        more: dict[str, Any] | None = None,
    ) -> None:
        """Write ``report.json``, and the pages of a run that is over."""
        trained, rows = self.trained, self.checkpoints({})
        losses = {row["iteration"]: row["loss"] for row in rows if row["loss"] is not None}
        said = loss_rise_warning(losses, self.lr)
        self.report = {
            "format": 1,
            "job": self.job,
            "status": status,
            "dense": dense,
            "results": results,
            "timing": {
                "total_s": time.perf_counter() - self.began,
                **(trained.timing if trained else {}),
            },
            "faults": trained.faults if trained else [],
            "machine": report.machine(),
            "versions": report.versions(),
            "notes": [MEANING_OF_LOSS, *([said] if said else [])],
            **(more or {}),
        }
        self.report = self.folder.write_report(self.report)
        if status == "finished":
            report.write(self.folder.path, self.report, {})
        self.folder.written()

    def _runtime_spec(self) -> RuntimeSpec:
        """The ranks; a single local one is this process."""
        config = self.config
        known = {key: value for key, value in vars(config.runtime).items() if key != "kind"}
        kind = config.runtime.kind
        return RuntimeSpec(
            kind="none" if kind == "local" and config.workers == 1 else kind,
            workers=config.workers,
            device=config.device,
            threads=config.threads,
            log_folder=str(self.folder.logs),
            **known,
        )


class TrainingListener:
    """Passes on what rank 0 tells; a step worth an event is one that was kept."""

    def __init__(self, folder: RunFolder, reporter: Reporter, lr: float) -> None:
        self.folder, self.reporter, self.lr = folder, reporter, lr
        self.losses: dict[int, float] = {}
        self.accuracy: float | None = None
        self.first_rank: dict[str, Any] = {}

    def __call__(self, progress: GroupProgress) -> None:
        for step, value in progress.values:
            if "checkpoint" in value:
                self.accuracy = value["accuracy"]
                self._watch(value["checkpoint"], value["mean"])
                event = own_event("step", value["checkpoint"])
                self.folder.append_event(cast(Event, {**event, **self.first_rank}))
            self.reporter.step(step, value["loss"], accuracy=self.accuracy)
        for row in progress.events:
            if row["event"] == "step":
                continue
            if row["event"] == "rank_started" and row["rank"] == 0:
                self.first_rank = {key: row[key] for key in ("generation", "pid", "host")}
            self.folder.append_event(row)
            if row["event"] in ("fault", "recovered"):
                self.reporter.note(fault_words(row))

    def _watch(self, iteration: int, loss: float | None) -> None:
        """Say so if the loss of the checkpoints rises."""
        if loss is not None:
            self.losses[iteration] = loss
            if said := loss_rise_warning(self.losses, self.lr):
                self.reporter.note(said)


FINETUNE_DEFAULTS = {"iterations": 2500, "lr": 0.01, "checkpoint_every": 500}
"""The paper's 2,500 iterations from 0.01 (arXiv 2108.00259, Appendix E); all else as pretrain."""


def tuning_spec(config: schema.Finetune | schema.Prune) -> DeepSpec:
    """How a network is trained on."""
    return deep_spec(config.train, config.seed, **FINETUNE_DEFAULTS)
