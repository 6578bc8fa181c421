"""What is told while ranks train a deep network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gfs_dist.files import RunFolder
from gfs_dist.runtime import GroupProgress, Phase
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_events import RunEvents
from gfs_dist.workflows.train_deep import TrainProgress


class Notes(Reporter):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


def test_a_loss_that_rises_is_told_when_its_checkpoint_is_kept(tmp_path: Path) -> None:
    told = Notes()
    folder = RunFolder.create(tmp_path / "run", "")
    listener = TrainProgress(RunEvents(folder, told), told, lr=0.5)

    def tick(step: int, mean: float | None) -> None:
        value: dict[str, Any] = {"loss": 1.0, "checkpoint": step, "accuracy": 0.5, "mean": mean}
        listener(GroupProgress(phase=Phase.WORK, step=step, values=((step, value),)))

    for step, mean in ((0, None), (10, 2.0), (20, 1.0), (30, 1.05)):
        tick(step, mean)
    assert told.lines == []
    tick(40, 1.4)
    assert told.lines == [
        "training: the loss has risen from 1 (iteration 20) to 1.4 (iteration 40); take a smaller "
        "train.lr than 0.5"
    ]
    folder.close()
