"""The points of a sweep (``-m``), one after the other: equal trainings are done once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from gfs_dist.config import commands as schema
from gfs_dist.config.compose import to_yaml
from gfs_dist.config.stored import read_stored
from gfs_dist.files import RunFolder, atomic
from gfs_dist.records import Report
from gfs_dist.urls import below, is_url
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.train_two_layer import training_key

Run = Callable[[Any, Reporter], Any]
"""Of a job."""

COMPARED = ("pretrain", "prune", "finetune", "evaluate", "benchmark", "reproduce", "advise")
"""Commands whose points are shown in one table; ``gfs cut`` shows all sizes of its run anyway."""


class Sweep:
    """Called once a point, in the place of the job's ``run``.

    A point whose training an earlier one has done begins with its checkpoints, as a run that goes
    on from them: it has the same results as alone, bit for bit. A point that an earlier sweep in
    this folder has finished is not run again.

    Args:
        command: of the points.
        run: of its job.
        folder: that holds the points' run folders, a path or a URL; None where there is none.
        values: of each point, its values of the keys that are swept.
        again: the words that go on with the whole sweep; None where it cannot.
    """

    def __init__(
        self,
        command: str,
        run: Run,
        folder: str | None,
        values: Sequence[Mapping[str, Any]],
        again: str | None,
    ) -> None:
        self.again = again
        self._command, self._run, self._folder, self._values = command, run, folder, values
        self._reports: list[Report] = []
        self._trained: dict[Hashable, str] = {}

    def __call__(self, config: Any, reporter: Reporter) -> Report:
        report = self._finished(config)
        if report is None:
            self._begin(config, reporter)
            report = self._run(config, reporter)
        else:
            reporter.run_folder(RunFolder(config.resume))
            reporter.note(f"{config.resume}: finished already")
        if _trains(config):
            self._trained.setdefault(training_key(config), config.resume or config.out)
        self._reports.append(report)
        return report

    def end(self, reporter: Reporter) -> dict[str, str]:
        """Show one table of all points, and write one page on them where they have folders.

        Returns:
            ``run_folder`` and ``report`` of the sweep; empty where nothing was written.
        """
        if self._command not in COMPARED:
            return {}
        from gfs_dist.report.comparison import ComparedRun, Comparison  # matplotlib takes a second
        from gfs_dist.workflows import comparison

        folders = [None if self._folder is None else str(n) for n in range(len(self._reports))]
        runs = [
            ComparedRun(str(number), folder, values, {"job": self._command, **report})
            for number, (folder, values, report) in enumerate(
                zip(folders, self._values, self._reports, strict=True)
            )
        ]
        found = Comparison(runs)
        comparison.show(found, reporter)
        if self._folder is None:
            return {}
        comparison.write(found, self._folder)
        reporter.note(f"\nsweep: {self._folder}")
        return {"run_folder": self._folder, "report": below(self._folder, "report.json")}

    def _finished(self, config: Any) -> Report | None:
        """The report of a point that is finished and whole, and of which nothing more is asked."""
        place = getattr(config, "resume", None)
        if place is None or is_url(place):
            return None
        folder, stored = RunFolder(place), read_stored(self._command, place, "resume")
        report = folder.read_report()
        done = report.get("status") == "finished" and not folder.damage()
        same = stored.get("export") == getattr(config, "export", None)
        return report if done and same else None

    def _begin(self, config: Any, reporter: Reporter) -> None:
        """Give a new point the checkpoints of an earlier one with the same training."""
        if not _trains(config) or config.resume is not None:
            return
        source = self._trained.get(training_key(config))
        if source is None:
            return
        with (
            RunFolder.resume(source) if is_url(source) else nullcontext(RunFolder(source)) as had,
            RunFolder.create(config.out, to_yaml(config)) as folder,
        ):
            for iteration, checkpoint in had.checkpoints():
                _link_folder(checkpoint, folder.checkpoint(iteration))
            folder.written()
        reporter.note(f"{config.out}: trained in {source}, whose checkpoints are taken")
        config.resume = config.out


def _trains(config: Any) -> bool:
    """Whether a run trains a network before it prunes it."""
    is_prune = isinstance(config, schema.Prune) and isinstance(config.model, schema.TwoLayer)
    return is_prune and config.checkpoint is None


def _link_folder(source: Path, target: Path) -> None:
    """The same files under another name, copied where the file system cannot share them.

    Files of a checkpoint are replaced, never changed, so that none changes with its other name.
    """
    with atomic.folder(target) as aside:
        for file in source.iterdir():
            try:
                os.link(file, aside / file.name)
            except OSError:
                shutil.copyfile(file, aside / file.name)
