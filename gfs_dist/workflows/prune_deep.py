"""``gfs prune`` of a deep network: every layer searched, sized for a budget, cut, mended.

What is finished is in the run folder at once: the path of each layer, each result. A run that was
killed anywhere goes on from there. Samples and sums of the run lie in ``scratch/`` meanwhile.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from gfs_dist.command_words import typed_place
from gfs_dist.config import commands as schema
from gfs_dist.config.command_line import cut_words, data_words, place_words
from gfs_dist.files import RunFolder, atomic, fingerprint
from gfs_dist.files.mirror import SCRATCH
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.pruner import LayerPath, Pruner
from gfs_dist.runtime import Progress, Runtime, open_runtime
from gfs_dist.selection.path import GreedyPath
from gfs_dist.workflows import prune_deep_plan
from gfs_dist.workflows.deep_card import write_card
from gfs_dist.workflows.finetune_result import finetune
from gfs_dist.workflows.layer_records import LayerRecords
from gfs_dist.workflows.process import use_threads
from gfs_dist.workflows.prune_deep_plan import DeepPlan, make_plan
from gfs_dist.workflows.report_file import DeepReport
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.results import ResultMaker
from gfs_dist.workflows.run_events import RunEvents
from gfs_dist.workflows.run_lifecycle import check_reach, failure_reported, open_folder
from gfs_dist.workflows.total_time import TotalTime


def run(config: schema.Prune, reporter: Reporter) -> dict[str, Any]:
    """Prune, and write the run folder; returns what ``report.json`` holds."""
    with use_threads(config.threads):
        plan = make_plan(config, config.budget.limit, prune_deep_plan.checkpoints(config))
        reporter.plan(plan.lines)
        with open_folder(config, reporter) as folder:
            reporter.run_folder(folder)
            job = DeepJob(plan, folder, reporter)
            with failure_reported(job.write):
                job.run()
            job.write("finished")
            job.tell()
            return job.report.content


class DeepJob:
    """One run: a result for each checkpoint.

    Attributes:
        events: of the ranks, once there are any.
        report: what the run has come to.
    """

    def __init__(self, plan: DeepPlan, folder: RunFolder, reporter: Reporter) -> None:
        self.plan, self.folder = plan, folder
        self.events: RunEvents | None = None
        self.report = DeepReport(folder)
        new = [i for i, _ in plan.places if self.report.row(result_name(i)) is None]
        self.reporter = TotalTime(reporter, phases(plan.config, len(new)))
        self.maker = ResultMaker(folder, plan.measures, plan.config, plan.origin, self.reporter)

    def run(self) -> None:
        """Prune every checkpoint."""
        events = RunEvents(self.folder, self.reporter)
        spec = self.plan.runtime_spec(self.folder.logs)
        with open_runtime(spec, observers=[events]) as runtime:
            self.events = events
            check_reach(self.folder, runtime)
            for iteration, place in self.plan.places:
                self._prune(iteration, place, runtime)

    def _prune(self, iteration: int, place: Path, runtime: Runtime) -> None:
        """Search one checkpoint, cut it, measure; what an earlier run finished stays."""
        name = result_name(iteration)
        network = self.plan.network(place)
        records = LayerRecords(self.folder, name, path_facts(self.plan, network))
        found = records.read(self.plan.channels)
        row = self.report.row(name)
        if row is None:
            row = self._result(iteration, network, records, found, runtime)
            self._keep(row, place)
        if self.plan.config.repair.finetune and "finetune" not in row["accuracy_after"]:
            self._keep(finetune(self.maker, row, runtime), place)
        self.maker.export(name)

    def _result(
        self,
        iteration: int,
        network: nn.Module,
        records: LayerRecords,
        found: dict[str, LayerPath],
        runtime: Runtime,
    ) -> dict[str, Any]:
        name = records.result
        with scratch(self.folder, name) as folder:
            workspace = Workspace.create(folder, network, self.plan.measures.batches())
            pruner = Pruner(workspace, self.plan.structure, self.plan.settings, runtime, found)
            dense = self.maker.dense(network, pruner)
            if self.plan.config.objective == "network_loss":
                records.facts["dense_loss"] = dense["loss"]
            self._search(name, pruner, records)
            facts = {"iteration": iteration, "dense": dense}
            return self.maker.make(name, network, pruner, records, self.plan.budget, facts)

    def _keep(self, row: dict[str, Any], place: Path) -> None:
        """Write what is finished; another run does not do it again."""
        self.report.put(row)
        write_card(self.report, self.plan, place, row["name"])
        self.write("stopped")  # until another word is written

    def _search(self, name: str, pruner: Pruner, records: LayerRecords) -> None:
        assert self.events is not None
        events, channels = self.events, pruner.channels
        self.reporter.phase(f"prune {name}", sum(channels.values()))

        def start(layer: str) -> GreedyPath | None:
            events.where = layer
            return records.partial(layer, channels[layer])

        def on_progress(layer: str, progress: Progress) -> None:
            records.write_partial(layer, progress.path)
            before = sum(len(done.path) for done in pruner.paths.values())
            self.reporter.step(
                before + len(progress.path),
                progress.path.loss[-1] if progress.path.loss else None,
                layer=layer,
                state=progress.phase,
                ranks=progress.num_ranks,
            )

        pruner.search(start=start, on_progress=on_progress, on_layer=records.write)
        events.where = ""

    def write(self, status: str, error: BaseException | None = None) -> None:
        """Write the report as far as it is."""
        events = self.events
        timing, faults = (events.timing(), events.faults) if events else ({}, [])
        self.report.write(status, timing, faults, error)

    def tell(self) -> None:
        """The table, and what can be done next."""
        tell(self.report.rows, self.folder, self.plan.config, self.reporter)


def phases(config: schema.Prune, count: int) -> dict[str, int]:
    """Kinds of phases of ``count`` results from dense networks, and how many there are of each."""
    repair = config.repair
    measured = 2 + bool(repair.refit) + bool(repair.batch_norm)
    each = {
        "measure": measured,
        "prune": 1,
        "size": 1,
        "repair": int(bool(repair.refit)),
        "finetune": int(bool(repair.finetune)),
    }
    return {kind: times * count for kind, times in each.items()}


def result_name(iteration: int) -> str:
    """What the result of a checkpoint is called."""
    return f"step_{iteration:08d}"


def path_facts(plan: DeepPlan, network: nn.Module) -> dict[str, Any]:
    """What the files of all layers say besides their paths."""
    weights = [tensor for _, tensor in sorted(network.state_dict().items())]
    return {
        "samples": len(plan.measures.rows),
        "objective": plan.config.objective,
        "weights": plan.config.weights,
        "dense_loss": 0.0,
        "inputs": {
            f"data={plan.config.data.name}": plan.images.fingerprint,
            "the checkpoint": fingerprint(*weights),
        },
    }


@contextlib.contextmanager
def scratch(folder: RunFolder, name: str) -> Iterator[Path]:
    """A new folder for files of this process and its ranks; those that others left are removed.

    Its name is used once: ranks remember what they have read from where.
    """
    root = folder.path.resolve() / SCRATCH  # ranks may have another current folder
    with atomic.storage_errors(root):
        atomic.remove(root)
        root.mkdir()
        made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
    try:
        yield made / "workspace"
    finally:
        shutil.rmtree(root, ignore_errors=True)


def tell(
    rows: list[dict[str, Any]], folder: RunFolder, config: schema.Prune, reporter: Reporter
) -> None:
    """The table of results, and the commands that make sense next."""
    reporter.table(
        "pruned",
        [
            "result",
            "channels",
            "multiply-adds",
            "parameters",
            "loss",
            "dense loss",
            "accuracy",
            "dense accuracy",
        ],
        [
            [
                row["name"],
                row["kept"],
                f"{row['macs'] / row['dense']['macs']:.1%}",
                f"{row['params'] / row['dense']['params']:.1%}",
                row["loss"],
                row["dense"]["loss"],
                row["accuracy"],
                row["dense"]["accuracy"],
            ]
            for row in rows
        ],
    )
    run = typed_place("path", str(folder.path))
    last = place_words(folder.path / rows[-1]["model"], config.model)
    data = data_words(config.data, config.seed)
    share = rows[-1]["macs"] / rows[-1]["dense"]["macs"]
    reporter.next(
        [
            f"gfs evaluate {last} {data}",
            f"gfs finetune {last} {data}",
            f"gfs cut {cut_words(folder.path, config)} budget.macs={70 * share:.2g}%",
            f"gfs report {run}",
        ]
    )
