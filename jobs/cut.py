"""``gfs cut RUN_DIR``: another size of a deep network from the paths that a run has stored."""

from __future__ import annotations

from dataclasses import replace

from gfs_dist.config import commands as schema
from gfs_dist.config.command_line import resume_word
from gfs_dist.config.compose import compose_stored
from gfs_dist.config.prune import Repair
from gfs_dist.errors import ConfigError, RunFolderError
from gfs_dist.files import RunFolder
from gfs_dist.files.run_folder import MAX_NAME
from gfs_dist.pruning.widths.budget import Budget
from gfs_dist.records import Report
from gfs_dist.runtime import open_runtime
from gfs_dist.workflows.pipeline import PruneRun, result_name, show_results
from gfs_dist.workflows.process import runtime_spec, use_threads
from gfs_dist.workflows.prune_deep import DeepFamily, DeepPruning
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_report import RunReport, lost_results
from gfs_dist.workflows.stored_networks import places_of
from gfs_dist.workflows.total_time import TotalTime


def run(config: schema.Cut, reporter: Reporter) -> Report:
    """Cut the last checkpoint of a run once more; returns what ``report.json`` holds then.

    Data and checkpoint are read again, as the run's configuration says.

    Raises:
        ConfigError: the run is of a two-layer network, or has a result of that name.
        RunFolderError: no run folder, its searches are not finished, or data, checkpoint or what
            it holds have changed since.
        BudgetError: the budget cannot be met.
    """
    pruned = _configuration(config)
    iteration, place = places_of(pruned)[-1]
    source = result_name(iteration)
    name = config.name or f"{source}_{_short_words(config.budget.limit)}"
    with use_threads(config.threads):
        _check_name(RunFolder(config.path), name)
        family = DeepFamily(pruned, [(iteration, place)])
        reporter.plan([f"cut       {source} once more, as {name}", *family.lines])
        with RunFolder.resume(config.path) as folder:
            folder.refuse_damage("path", but=name)
            reporter.run_folder(folder)
            report = RunReport(folder, "prune", reporter, continued=True, timed=False)
            timed = TotalTime(reporter, family.phases(report) | {"prune": 0})
            with open_runtime(runtime_spec(pruned, folder), observers=[report.events]) as runtime:
                job = PruneRun(runtime, report, timed)
                pruning = DeepPruning(family, iteration, place, job, name, key="path", quick=True)
                found, layers = len(pruning.found), len(family.channels)
                if found < layers:
                    raise RunFolderError(
                        f"path: {folder.path} has the paths of {found} of {layers} layers; finish "
                        f"it with gfs prune {resume_word(folder.path, family.config)}"
                    )
                with pruning:
                    row = pruning.cut()
            pruning.keep(row, report.status)
            if pruning.model.export():
                report.write(report.status)  # which lists the files of the run
            show_results(family, report, reporter)
            return report.content


def _short_words(budget: Budget) -> str:
    """``macs_0.35_round_to_8``."""
    shares = [f"{kind}_{float(share):.6g}" for kind, share in budget.shares.items()]
    rounded = [f"round_to_{budget.round_to}"] if budget.round_to > 1 else []
    uniform = ["uniform"] if budget.uniform else []
    return "_".join([*(shares or ["widths"]), *rounded, *uniform])


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
        repair=_repair(config, stored),
    )


def _repair(config: schema.Cut, stored: schema.Prune) -> Repair:
    """The run's repairs without fine-tuning, with or without that of streams."""
    asked, repair = config.repair, replace(stored.repair, finetune=False)
    if asked.streams is not None:
        repair.streams = asked.streams
        repair.steps = repair.steps if asked.streams else None
    if asked.steps is not None:
        repair.steps = asked.steps
    repair.settle_streams()
    return repair


def _check_name(folder: RunFolder, name: str) -> None:
    """Refuse a name that is taken by another result than one whose network was damaged."""
    if name != RunFolder.name_of(name):
        raise ConfigError(
            f"name: found {name!r}, accepted letters, digits, _ . = + -, at most {MAX_NAME}, not "
            "one of . = + - first"
        )
    names = {row["name"] for row in folder.read_report().get("results") or []}
    if name in names - lost_results(folder):
        raise ConfigError(f"name: {folder.path} has a result {name}, accepted another name=NAME")
