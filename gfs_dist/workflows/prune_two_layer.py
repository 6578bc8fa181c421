"""Two-layer networks in the pipeline of ``gfs prune``: one search over all hidden neurons."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self, cast

import torch

from gfs_dist import networks
from gfs_dist.command_words import typed_place
from gfs_dist.config import commands as schema
from gfs_dist.errors import PicksDifferError, RunError, ShapeError
from gfs_dist.files import RunFolder
from gfs_dist.files.find import find_checkpoints
from gfs_dist.networks import TwoLayer
from gfs_dist.networks.models.two_layer import DTYPES
from gfs_dist.pruning.objectives.two_layer import TwoLayerContributions, TwoLayerProblem
from gfs_dist.records import Measured, ResultRow, Theory
from gfs_dist.runtime import Progress, SearchResult, make_graph
from gfs_dist.runtime.resources import memory_per_rank_bytes
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objectives.factory import Recipe, make_objective, settle
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop
from gfs_dist.theory import lemma1_constants, why_no_bound
from gfs_dist.workflows import plan_text
from gfs_dist.workflows.checkpoints import num_checkpoints
from gfs_dist.workflows.measures import measure_two_layer
from gfs_dist.workflows.path_files import PathFiles
from gfs_dist.workflows.pipeline import Columns, PruneRun, path_facts, result_name
from gfs_dist.workflows.process import check_device, read_graph, read_partition
from gfs_dist.workflows.run_report import RunReport
from gfs_dist.workflows.stored_networks import load_network
from gfs_dist.workflows.train_two_layer import TwoLayerTraining
from gfs_dist.workflows.two_layer import Inputs, input_words, two_layer

SAME_LOSS = 1e-6
"""Share of a loss that the loss of the smaller network may differ from that of its path."""


class TwoLayerFamily:
    """Checkpoints of a two-layer network, given or still to be trained.

    Attributes:
        inputs: the data that is pruned on, as ranks read it.
        networks: iteration and network of each given checkpoint; empty if it is trained first.
        training: makes them where none is given.
        recipe: of the search, with the method settled.
        rules: when a search ends, tolerance apart.
        partition: candidates of each rank.
        lines: the plan in words.

    Raises:
        InputError: data, checkpoint, partition, graph or stop rules that do not fit.
    """

    keeps_results: ClassVar[bool] = False
    columns: ClassVar[Columns] = {
        "iteration": lambda row: row["iteration"],
        "kept": lambda row: row["kept"],
        "picks": lambda row: row["steps"],
    }

    def __init__(self, config: schema.Prune) -> None:
        check_device(config)
        model = two_layer(config.model)
        objective, replacement = config.objective, config.replacement
        assert objective is not None and replacement is not None, "settled"
        places = find_checkpoints(config.checkpoint) if config.checkpoint else []
        self.config = config
        self.networks = [(iteration, load_network(path, model)) for iteration, path in places]
        first = self.networks[0][1] if self.networks else None
        self.inputs = Inputs.of(config, first)
        dataset = self.inputs.dataset()
        dense = first or TwoLayer(model.width, dataset.features, model.activation)
        self._check_shapes(dense.width, dataset.features)
        self.rules = Stop.given(config.steps, config.distinct)
        self.rules.check(dense.width)
        if graph := read_graph(config.graph):
            make_graph(graph, config.workers)
        recipe = Recipe(objective, config.method, config.weights, replacement)
        source = TwoLayerContributions(dense, self.inputs()[0], DTYPES[config.precision])
        memory = memory_per_rank_bytes(config.workers, config.device)
        self.recipe, reason = settle(recipe, source, config.workers, self.rules, memory)
        self.partition = read_partition(config.partition, dense.width, config.workers)
        self.training = None if self.networks else TwoLayerTraining(config, self.inputs)
        spec = self.training.spec if self.training else None
        self._count = num_checkpoints(spec) if spec else len(self.networks)
        self.lines = plan_text.two_layer_pruning(
            config, dataset, dense, self._count, spec, self.rules, reason
        )

    def _check_shapes(self, width: int, features: int) -> None:
        for _, network in self.networks:
            if network.features != features or network.width != width:
                raise ShapeError(
                    f"checkpoint: found a network of {network.width} neurons on "
                    f"{network.features} inputs, accepted {width} neurons on {features} inputs "
                    f"(data={self.config.data.name})"
                )

    def phases(self, _report: RunReport) -> dict[str, int]:
        training = int(self.training is not None)
        return {"train": training, "prune": self._count, "measure": 2 * self._count}

    def prunings(self, run: PruneRun) -> Iterator[TwoLayerPruning]:
        checkpoints = self.networks
        if self.training is not None:
            self.training.train(run.report, run.reporter)
            model, places = two_layer(self.config.model), run.folder.checkpoints()
            checkpoints = [(iteration, load_network(path, model)) for iteration, path in places]
        for iteration, network in checkpoints:
            yield TwoLayerPruning(self, iteration, network, run)

    def commands(self, folder: RunFolder, rows: list[ResultRow]) -> list[str]:
        run, last = (
            typed_place("path", str(path))
            for path in (folder.path, folder.path / str(rows[-1]["model"]))
        )
        return [f"gfs evaluate {last} {input_words(self.config)}", f"gfs report {run}"]


@dataclass
class TwoLayerPruning:
    """One checkpoint: a single path over its neurons."""

    family: TwoLayerFamily
    iteration: int
    network: TwoLayer
    run: PruneRun

    def __post_init__(self) -> None:
        config, inputs = self.family.config, self.family.inputs
        self.name = result_name(self.iteration)
        samples, data = len(inputs()[0]), inputs.dataset().fingerprint
        facts = path_facts(config, self.network, samples, data)
        self.files = PathFiles(self.run.folder, self.name, facts)
        self.known = self.files.read(self.network.width)
        self.dense: Measured
        self.found: SearchResult

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def search(self) -> None:
        """Measure the dense network and search; its path is in the run folder as it grows."""
        family, run, began = self.family, self.run, time.perf_counter()
        config, network = family.config, self.network
        self.dense = measure_two_layer(network, family.inputs)
        loss = self.dense["loss"]
        assert loss is not None
        if family.training is not None:
            run.report.losses[self.iteration] = loss
        run.reporter.measured("measure", time.perf_counter() - began)
        files = self.files
        files.facts["dense_loss"] = loss
        limit = None if config.tolerance is None else loss + config.tolerance
        stop = replace(family.rules, loss=limit)
        problem = TwoLayerProblem(family.inputs, network, family.recipe, config.precision)

        def on_progress(progress: Progress) -> None:
            files.write_partial(progress.path)
            self._report_step(progress.path, progress.phase, ranks=progress.num_ranks)

        rules, repeat = family.rules, family.recipe.replacement
        most = rules.most_steps if repeat else rules.most_distinct(network.width)
        run.reporter.phase(f"prune {self.name}", most)
        self.found = run.runtime.search(
            problem,
            stop,
            family.partition,
            path=self.known,
            on_progress=on_progress,
        )
        path = self.found.path
        if missed := stop.missed(path):
            run.report.notes.append(f"{self.name}: {missed}")
            run.reporter.note(run.report.notes[-1])
        if config.objective == "least_squares":
            path.fit = problem.fit(path.picks)
        if config.verify:
            self._verify(problem, stop, path)
        files.write(path)

    def cut(self) -> ResultRow:
        """Store and measure the smaller network."""
        family, folder, path = self.family, self.run.folder, self.found.path
        model = folder.model(self.name)
        small = self.network.shrink(path.coefficients())
        networks.save(model, small)
        measured = measure_two_layer(small, family.inputs)
        recorded, loss = path.loss[-1], measured["loss"]
        assert loss is not None
        if abs(recorded - loss) > SAME_LOSS * max(abs(recorded), 1.0):
            raise RunError(
                f"{self.name}: the smaller network's loss is {loss!r}, its path says {recorded!r}"
            )
        row = {
            "name": self.name,
            "iteration": self.iteration,
            "objective": family.config.objective,
            "kept": path.num_kept,
            "steps": len(path),
            "stop_reason": path.stop_reason,
            **measured,
            "accuracy_after": {"cut": measured["accuracy"]},
            "path": folder.relative(self.files.file()),
            "model": folder.relative(model),
            "picks_sha256": path.sha256,
            "dense": self.dense,
            "evaluated_share": self.found.timing.get("evaluated_share"),
            "theory": self._theory(len(path)),
            "verified": family.config.verify,
        }
        return cast(ResultRow, row)

    def keep(self, row: ResultRow) -> None:
        """Have the report list it; its path is what another run goes on from."""
        self.run.report.put(row)

    def finish(self, row: ResultRow) -> None: ...

    def _report_step(self, path: GreedyPath, state: str, **facts: object) -> None:
        loss = path.loss[-1] if path.loss else None
        self.run.reporter.step(len(path), loss, kept=path.num_kept, state=state, **facts)

    def _theory(self, steps: int) -> Theory:
        """Lemma 1's bound after each pick, with its measured constants; or why there is none."""
        recipe, network = self.family.recipe, self.network
        if reason := why_no_bound(recipe.loss, recipe.replacement):
            return {"reason": reason}
        repeats = self.family.rules.repeats
        if repeats is not None and steps > repeats:
            return {"reason": f"Lemma 1 does not cover new neurons only, picked after {repeats:,}"}
        x, target = self.family.inputs()
        made = functools.partial(network.contributions, x)
        constants = lemma1_constants(made, target, num_neurons=network.width)
        return cast(Theory, constants.row(steps))

    def _verify(self, problem: TwoLayerProblem, stop: Stop, path: GreedyPath) -> None:
        """Search once more by the exhaustive oracle, in this process.

        Raises:
            PicksDifferError: it picks differently; names the first pick.
        """
        x, target = problem.inputs()
        source = TwoLayerContributions(problem.network, x, DTYPES[problem.precision])
        recipe = replace(problem.recipe, method="exhaustive")
        oracle = make_objective(recipe, source, target, torch.arange(problem.num_candidates))
        expected = greedy(oracle, stop, on_step=lambda path: self._report_step(path, "verify"))
        if expected.picks != path.picks:
            pairs = enumerate(itertools.zip_longest(path.picks, expected.picks), start=1)
            k, (found, right) = next(row for row in pairs if row[1][0] != row[1][1])
            raise PicksDifferError(
                f"verify: pick {k} is {found}, of the exhaustive search {right} "
                f"({len(path)} and {len(expected)} picks)"
            )
