"""``gfs prune``: from checkpoints of a two-layer network to smaller networks and a report.

(Deep networks are pruned by :mod:`gfs_dist.workflows.prune_deep`.)

Plan, train where there is nothing to prune yet, search each checkpoint with the ranks of one
runtime, cut, measure, report. What is finished is in the run folder at once; a run that was
killed anywhere goes on from there.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from typing import Any

import torch
from torch import Tensor

from gfs_dist import networks, report
from gfs_dist.command_words import typed_place
from gfs_dist.config import commands as schema
from gfs_dist.errors import PicksDifferError, RunError
from gfs_dist.files import RunFolder, fingerprint
from gfs_dist.networks import TwoLayer
from gfs_dist.networks.models.two_layer import DTYPES
from gfs_dist.pruning.objectives.two_layer import TwoLayerContributions, TwoLayerProblem
from gfs_dist.records import Event, PathFile, read_path
from gfs_dist.runtime import Progress, Runtime, SearchResult, open_runtime
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objectives.factory import Recipe, make_objective
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop
from gfs_dist.theory import lemma1_constants, why_no_bound
from gfs_dist.training import loss_rise_warning
from gfs_dist.workflows import prune_deep
from gfs_dist.workflows.checkpoints import train_checkpoints
from gfs_dist.workflows.path_records import PathRecord
from gfs_dist.workflows.prune_two_layer import Plan, make_plan
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_lifecycle import failure_reported, open_folder
from gfs_dist.workflows.total_time import TotalTime
from gfs_dist.workflows.tracking import tracked
from gfs_dist.workflows.two_layer import input_words, measure

WRITE_EVERY_S = 0.5
SAME_LOSS = 1e-6


@tracked
def run(config: schema.Prune, reporter: Reporter) -> dict[str, Any]:
    """Prune, and write the run folder; returns what ``report.json`` holds."""
    if not isinstance(config.model, schema.TwoLayer):
        return prune_deep.run(config, reporter)
    plan = make_plan(config)
    reporter.plan(plan.lines)
    with open_folder(config, reporter) as folder:
        reporter.run_folder(folder)
        job = PruneJob(plan, folder, reporter)
        with (
            failure_reported(job.write_report),
            open_runtime(plan.runtime_spec(folder)) as runtime,
        ):
            for iteration, network in job.checkpoints():
                job.prune(iteration, network, runtime)
        job.write_report("finished")
        job.tell()
        return job.report


class PruneJob:
    """One run: its results so far, and the report that tells of them."""

    def __init__(self, plan: Plan, folder: RunFolder, reporter: Reporter) -> None:
        self.plan, self.config, self.folder = plan, plan.config, folder
        count, trained = plan.num_checkpoints, not plan.networks
        parts = {"train": int(trained), "prune": count, "measure": 2 * count}
        self.reporter = TotalTime(reporter, parts)
        self.began = time.perf_counter()
        self.data_fingerprint = plan.inputs.dataset().fingerprint
        self.report: dict[str, Any] = {}
        self.results: list[dict[str, Any]] = []
        self.paths: dict[str, dict[str, PathFile]] = {}
        self.searches: list[SearchResult] = []
        self.notes: list[str] = []
        self.trained_lr: float | None = None

    def checkpoints(self) -> list[tuple[int, TwoLayer]]:
        """Iteration and network of each checkpoint, trained first where none is given."""
        if self.plan.networks:
            return self.plan.networks
        trained = train_checkpoints(self.config, self.plan.inputs, self.folder, self.reporter)
        self.trained_lr = trained.lr
        return trained.networks

    def prune(self, iteration: int, network: TwoLayer, runtime: Runtime) -> None:
        """Search one checkpoint, write its path, cut, measure."""
        name = f"step_{iteration:08d}"
        began = time.perf_counter()
        dense = measure(network, self.plan.inputs)
        self.reporter.measured("measure", time.perf_counter() - began)
        record = PathRecord(self.folder, name, self._path_facts(network, dense["loss"]))
        stop = self.plan.stop(dense["loss"])
        self.reporter.phase(f"prune {name}", self.plan.rules.steps)
        problem = TwoLayerProblem(
            self.plan.inputs, network, self.plan.recipe, self.config.precision
        )
        found = runtime.search(
            problem,
            stop,
            self.plan.partition,
            path=record.read(),
            on_progress=self._progress(record),
        )
        self.searches.append(found)
        if missed := stop.missed(found.path):
            self.notes.append(f"{name}: {missed}")
            self.reporter.note(self.notes[-1])
        if self.config.verify:
            self._verify(problem, stop, found.path)
        file = record.keep(found.path)
        path = {**record.facts, "picks": found.path.picks, "loss": found.path.loss}
        self.paths[name] = {name: read_path(path)}
        small = network.shrink(found.path.coefficients())
        networks.save(self.folder.model(name), small)
        measured = measure(small, self.plan.inputs)
        _refuse_other_loss(name, found.path.loss[-1], measured["loss"])
        self.results.append(
            {
                "name": name,
                "iteration": iteration,
                "objective": self.config.objective,
                "kept": found.path.num_kept,
                "steps": len(found.path),
                "stop_reason": found.path.stop_reason,
                **measured,
                "accuracy_after": {"cut": measured["accuracy"]},
                "path": self.folder.relative(file),
                "model": self.folder.relative(self.folder.model(name)),
                "picks_sha256": found.path.sha256,
                "dense": dense,
                "evaluated_share": found.timing.get("evaluated_share"),
                "theory": self._theory(network, len(found.path)),
                "verified": self.config.verify,
            }
        )

    def _path_facts(self, network: TwoLayer, dense_loss: float) -> dict[str, Any]:
        weights = [tensor for _, tensor in sorted(network.state_dict().items())]
        return {
            "neurons": network.width,
            "samples": len(self.plan.inputs.dataset().x_train),
            "objective": self.config.objective,
            "weights": self.config.weights,
            "dense_loss": dense_loss,
            "inputs": {
                f"data={self.config.data.name}": self.data_fingerprint,
                "the checkpoint": fingerprint(*weights),
            },
        }

    def _progress(self, record: PathRecord) -> Any:
        written = -math.inf

        def on_progress(progress: Progress) -> None:
            nonlocal written
            for row in progress.events:
                self.folder.append_event(row)
                if row["event"] in ("fault", "recovered"):
                    self.reporter.note(_fault_words(row))
            path = progress.path
            if len(path) and time.monotonic() - written > WRITE_EVERY_S:
                record.write(path, finished=False)
                written = time.monotonic()
            self.reporter.step(
                len(path),
                path.loss[-1] if path.loss else None,
                path.num_kept,
                state=progress.phase,
                ranks=progress.num_ranks,
            )

        return on_progress

    def _contributions(self, network: TwoLayer) -> tuple[TwoLayerContributions, Tensor]:
        x, target = self.plan.inputs()
        return TwoLayerContributions(network, x, DTYPES[self.config.precision]), target

    def _theory(self, network: TwoLayer, steps: int) -> dict[str, Any]:
        """Lemma 1's bound after each pick, with its measured constants; or why there is none."""
        if reason := why_no_bound(self.plan.recipe.loss, self.plan.recipe.replacement):
            return {"reason": reason}
        x, target = self.plan.inputs()
        constants = lemma1_constants(
            functools.partial(network.contributions, x), target, num_neurons=network.width
        )
        return constants.row(steps)

    def _verify(self, problem: TwoLayerProblem, stop: Stop, path: GreedyPath) -> None:
        """Search again by the exhaustive oracle, in this process."""
        source, target = self._contributions(problem.network)
        recipe = Recipe(
            problem.recipe.loss, "exhaustive", problem.recipe.weights, problem.recipe.replacement
        )
        oracle = make_objective(recipe, source, target, torch.arange(problem.num_candidates))
        expected = greedy(
            oracle,
            stop,
            on_step=lambda p: self.reporter.step(len(p), p.loss[-1], p.num_kept, state="verify"),
        )
        if expected.picks != path.picks:
            pairs = enumerate(itertools.zip_longest(path.picks, expected.picks), start=1)
            k, (found, right) = next(row for row in pairs if row[1][0] != row[1][1])
            raise PicksDifferError(
                f"verify: pick {k} is {found}, of the exhaustive search {right} "
                f"({len(path)} and {len(expected)} picks)"
            )

    def write_report(self, status: str, error: BaseException | None = None) -> None:
        """Write report.json and, once there are results, the pages and plots."""
        self.report = {
            "format": 1,
            "job": "prune",
            "status": status,
            "dense": self.results[-1]["dense"] if self.results else None,
            "results": self.results,
            "timing": {"total_s": time.perf_counter() - self.began, **_sum_up(self.searches)},
            "faults": [row for search in self.searches for row in search.faults],
            "notes": [*self._rise(), *self.notes],
            "machine": report.machine(),
            "versions": report.versions(),
        }
        if error is not None:
            self.report["error"] = str(error) or type(error).__name__
        self.report = self.folder.write_report(self.report)
        if self.results:
            report.write(self.folder.path, self.report, self.paths)
        self.folder.written()

    def _rise(self) -> list[str]:
        """That the dense loss has risen in this run's own training, if it has."""
        if self.trained_lr is None:
            return []
        losses = {row["iteration"]: row["dense"]["loss"] for row in self.results}
        said = loss_rise_warning(losses, self.trained_lr)
        return [said] if said else []

    def tell(self) -> None:
        """The table, and what can be done next."""
        self.reporter.table(
            "pruned",
            ["iteration", "kept", "picks", "loss", "dense loss", "accuracy", "dense accuracy"],
            [
                [
                    row["iteration"],
                    row["kept"],
                    row["steps"],
                    row["loss"],
                    row["dense"]["loss"],
                    row["accuracy"],
                    row["dense"]["accuracy"],
                ]
                for row in self.results
            ],
        )
        run, last = (
            typed_place("path", str(path))
            for path in (self.folder.path, self.folder.path / self.results[-1]["model"])
        )
        self.reporter.next([f"gfs evaluate {last} {input_words(self.config)}", f"gfs report {run}"])


def _refuse_other_loss(name: str, recorded: float, measured: float) -> None:
    if abs(recorded - measured) > SAME_LOSS * max(abs(recorded), 1.0):
        raise RunError(
            f"{name}: the smaller network's loss is {measured!r}, its path says {recorded!r}"
        )


def _fault_words(row: Event) -> str:
    if row["event"] == "recovered":
        return f"rank {row['rank']} is back, the search goes on at step {row['step']}"
    return f"rank {row['rank']} was {row.get('kind', 'lost')} at step {row['step']}: replacing it"


def _sum_up(searches: list[SearchResult]) -> dict[str, Any]:
    """Seconds of all searches together, and of each rank over all of them."""
    totals = {
        key: sum(search.timing[key] for search in searches)
        for key in ("setup_s", "steps_s", "exchange_s", "wait_s")
    }
    ranks: dict[int, dict[str, Any]] = {}
    for search in searches:
        for row in search.timing["ranks"]:
            total = ranks.setdefault(row["rank"], {k: 0.0 for k in row if k.endswith("_s")})
            for key, value in row.items():
                total[key] = total[key] + value if key.endswith("_s") else value
    return {**totals, "ranks": [ranks[rank] for rank in sorted(ranks)]}
