"""What both kinds of training share: going on from a checkpoint, rows of results, rising losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from gfs_dist.errors import RunFolderError
from gfs_dist.files import RunFolder
from gfs_dist.records import CheckpointRow, Measured, ResultRow
from gfs_dist.training import DeepSpec, TrainSpec, loss_rise_warning
from gfs_dist.workflows.reporter import Reporter


class LossWatch:
    """Says so when the loss of the checkpoints of a training rises.

    Args:
        lr: step size of the training.
    """

    def __init__(self, reporter: Reporter, lr: float) -> None:
        self._reporter, self._lr = reporter, lr
        self._losses: dict[int, float] = {}

    def add(self, iteration: int, loss: float | None) -> None:
        """The loss of a checkpoint; None for one that has none."""
        if loss is not None:
            self._losses[iteration] = loss
            if said := loss_rise_warning(self._losses, self._lr):
                self._reporter.note(said)


def training_facts(spec: TrainSpec | DeepSpec, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What has to be the same for training to go on, as every checkpoint keeps it.

    Args:
        inputs: fingerprints, by name, of what the training depends on.
    """
    return {
        "training": {f"train.{key}": value for key, value in vars(spec).items()},
        "inputs": dict(inputs),
    }


def refuse_changes(path: Path, state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Refuse to go on from a checkpoint that other settings or data made.

    Raises:
        RunFolderError: one of ``facts`` is another in ``state``; names the first.
    """
    before = _flat({key: state.get(key) for key in facts})
    for key, now in _flat(facts).items():
        if before.get(key) != now:
            raise RunFolderError(
                f"resume: {key} changed since {path} was written "
                f"(found {now!r}, it has {before.get(key)!r}); start a new run"
            )


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return flat


def num_checkpoints(spec: TrainSpec | DeepSpec) -> int:
    """Checkpoints that a training keeps: at its start, its end, and on the way."""
    return len(spec.checkpoints)


def checkpoint_rows(
    folder: RunFolder,
    objective: str,
    kept: int | None,
    measure: Callable[[Path], Measured],
) -> list[ResultRow]:
    """A row of results for each checkpoint in a run folder."""
    rows = []
    for iteration, path in folder.checkpoints():
        row: ResultRow = {
            "name": path.name,
            "iteration": iteration,
            "objective": objective,
            "kept": kept,
            "path": None,
            "model": folder.relative(path),
        }
        rows.append(cast(ResultRow, {**row, **measure(path)}))
    return rows


def show_checkpoints(
    title: str, rows: Sequence[ResultRow | CheckpointRow], reporter: Reporter
) -> None:
    """The table of a training."""
    columns = {"iteration": "iteration", "loss": "loss", "accuracy": "accuracy"}
    for split in ("train", "validation"):
        if any(row.get(f"accuracy_{split}") is not None for row in rows):
            columns[f"accuracy_{split}"] = f"{split} accuracy"
    reporter.table(title, [*columns.values()], [[row.get(key) for key in columns] for row in rows])


def losses_of(rows: Sequence[ResultRow]) -> dict[int, float]:
    """The losses of checkpoints by iteration, where they have one."""
    found = [(row["iteration"], row["loss"]) for row in rows]
    return {step: loss for step, loss in found if step is not None and loss is not None}
