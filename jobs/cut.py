"""``gfs cut RUN_DIR``: another size of a deep network from the paths that a run has stored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gfs_dist.config import commands as schema
from gfs_dist.config.command_line import resume_word
from gfs_dist.config.compose import compose_stored
from gfs_dist.errors import ConfigError, RunFolderError
from gfs_dist.files import RunFolder
from gfs_dist.files.run_folder import MAX_NAME
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.pruner import LayerPath, Pruner
from gfs_dist.pruning.widths.budget import Budget
from gfs_dist.runtime import open_runtime
from gfs_dist.workflows.deep_card import write_card
from gfs_dist.workflows.layer_records import LayerRecords
from gfs_dist.workflows.process import use_threads
from gfs_dist.workflows.prune_deep import path_facts, phases, result_name, scratch, tell
from gfs_dist.workflows.prune_deep_plan import DeepPlan, checkpoints, make_plan
from gfs_dist.workflows.report_file import DeepReport
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.results import ResultMaker
from gfs_dist.workflows.run_events import RunEvents
from gfs_dist.workflows.total_time import TotalTime


def run(config: schema.Cut, reporter: Reporter) -> dict[str, Any]:
    """Cut the last checkpoint of a run once more; returns what ``report.json`` holds then.

    Data and checkpoint are read again, as the run's configuration says.

    Raises:
        ConfigError: the run is of a two-layer network, or has a result of that name.
        RunFolderError: no run folder, its searches are not finished, or data, checkpoint or what
            it holds have changed since.
        BudgetError: the budget cannot be met.
    """
    pruned = _configuration(config)
    iteration, place = checkpoints(pruned)[-1]
    source = result_name(iteration)
    name = config.name or _default_name(source, config.budget.limit)
    with use_threads(config.threads):
        _check_name(RunFolder(config.path), name)
        plan = make_plan(pruned, config.budget.limit, [(iteration, place)], searched=True)
        reporter.plan([f"cut       {source} once more, as {name}", *plan.lines])
        with RunFolder.resume(config.path) as folder:
            folder.refuse_damage("path", but=name)
            reporter.run_folder(folder)
            report = DeepReport(folder)
            timed = TotalTime(reporter, phases(plan.config, 1) | {"prune": 0})
            maker = ResultMaker(folder, plan.measures, plan.config, plan.origin, timed, quick=True)
            report.put(_cut(plan, report, name, maker))
            write_card(report, plan, place, name)
            report.write(report.status)
            if maker.export(name):
                report.write(report.status)  # which lists the files of the run
            tell(report.rows, folder, pruned, reporter)
            return report.content


def _configuration(config: schema.Cut) -> schema.Prune:
    """That of the run, for this process and the new budget."""
    stored = compose_stored("prune", config.path, config.factory)
    assert isinstance(stored, schema.Prune)
    if isinstance(stored.model, schema.TwoLayer):
        raise ConfigError(
            f"path: {config.path} has pruned a two-layer network, accepted is a run of a deep one"
        )
    return replace(
        stored,
        runtime=schema.Runtime("none"),
        workers=1,
        device=config.device,
        threads=config.threads,
        export=config.export or stored.export,
        budget=config.budget,
        repair=replace(stored.repair, finetune=False),
    )


def _default_name(source: str, budget: Budget) -> str:
    value = "" if budget.kind == "widths" else f"_{float(budget.share):.6g}"
    rounded = "" if budget.round_to == 1 else f"_round_to_{budget.round_to}"
    return f"{source}_{budget.kind}{value}{rounded}"


def _check_name(folder: RunFolder, name: str) -> None:
    """Refuse a name that is taken by another result than one whose network was damaged."""
    if name != RunFolder.name_of(name):
        raise ConfigError(
            f"name: found {name!r}, accepted letters, digits, _ . = + -, at most {MAX_NAME}, not "
            "one of . = + - first"
        )
    if DeepReport(folder).row(name) is not None:
        raise ConfigError(f"name: {folder.path} has a result {name}, accepted another name=NAME")


def _cut(plan: DeepPlan, report: DeepReport, name: str, maker: ResultMaker) -> dict[str, Any]:
    [(iteration, place)] = plan.places
    folder = maker.folder
    network = plan.network(place)
    source = result_name(iteration)
    records = LayerRecords(folder, source, path_facts(plan, network), key="path")
    paths = _finished(records, plan)
    events = RunEvents(folder, maker.reporter)
    runtime = open_runtime(plan.runtime_spec(folder.logs), observers=[events])
    with runtime, scratch(folder, name) as place_of_work:
        workspace = Workspace.create(place_of_work, network, plan.measures.batches())
        pruner = Pruner(workspace, plan.structure, plan.settings, runtime, paths)
        known = report.row(source)
        dense = known["dense"] if known else maker.dense(network, pruner)
        facts = {"iteration": iteration, "dense": dense}
        return maker.make(name, network, pruner, records, plan.budget, facts)


def _finished(records: LayerRecords, plan: DeepPlan) -> dict[str, LayerPath]:
    found = records.read(plan.channels)
    if len(found) < len(plan.channels):
        run = records.folder.path
        raise RunFolderError(
            f"path: {run} has the paths of {len(found)} of {len(plan.channels)} layers; finish it "
            f"with gfs prune {resume_word(run, plan.config)}"
        )
    return found
