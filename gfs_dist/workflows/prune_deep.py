"""Deep networks in the pipeline of ``gfs prune``: every layer searched, sized for a budget, cut.

The path of each layer and each result are in the run folder as soon as they are finished. Samples
and sums of the run lie in ``scratch/`` meanwhile.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from torch import nn

from gfs_dist import networks
from gfs_dist.command_words import typed_place
from gfs_dist.config import commands as schema
from gfs_dist.config.command_line import cut_words, data_words, place_words
from gfs_dist.config.prune import EXPORTS
from gfs_dist.data import Texts, calibration_rows
from gfs_dist.errors import ConfigError
from gfs_dist.files import RunFolder, atomic, checkpoint
from gfs_dist.files.mirror import SCRATCH
from gfs_dist.files.scratch_folder import ScratchFolder
from gfs_dist.files.untrusted import read_json
from gfs_dist.networks.measure.quality import Counted
from gfs_dist.networks.storage.store import ARCHITECTURE
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.cut import CutResult, Repairs, cut, layer_rows, picks_sha256
from gfs_dist.pruning.pruner import Pruner, Settings
from gfs_dist.pruning.repair.stream_training import StreamSpec
from gfs_dist.pruning.widths.choose import choose_widths
from gfs_dist.pruning.widths.feasible import check_feasible
from gfs_dist.records import ResultRow, Status
from gfs_dist.runtime import Progress, RuntimeSpec, open_runtime
from gfs_dist.selection.path import GreedyPath
from gfs_dist.workflows import plan_text
from gfs_dist.workflows.deep_models import ModelFolder
from gfs_dist.workflows.measures import Measures
from gfs_dist.workflows.path_files import PathFiles
from gfs_dist.workflows.pipeline import Columns, PruneRun, path_facts, result_name
from gfs_dist.workflows.process import check_device, data_spec, given_keys, own_device
from gfs_dist.workflows.run_report import RunReport, check_reach
from gfs_dist.workflows.stored_networks import (
    architecture_of,
    check_fits,
    places_of,
    read_float32,
    read_samples,
)
from gfs_dist.workflows.train_deep import DeepTraining, finetune_spec, keep_as_cut


class DeepFamily:
    """Checkpoints of a deep network, all with the same structure.

    Args:
        searched: checkpoints whose paths are there already; None: all that the configuration
            names, still to be searched.

    Attributes:
        measures: data, calibration images, and where networks are measured.
        structure: what can be removed.
        settings: how layers are searched.
        architecture: what made the networks, as their files say it or the keys ``model.*``.
        lines: the plan in words.

    Raises:
        InputError: data, checkpoint, widths that do not fit, outputs that are no numbers,
            nothing can be pruned, or packages that ``export`` needs are missing.
        BudgetError: the budget cannot be met.
    """

    keeps_results: ClassVar[bool] = True
    columns: ClassVar[Columns] = {
        "result": lambda row: row["name"],
        "channels": lambda row: row["kept"],
        "multiply-adds": lambda row: f"{_share(row, 'macs'):.1%}",
        "parameters": lambda row: f"{_share(row, 'params'):.1%}",
        "binds": lambda row: row["binds"] if _limits(row) > 1 else None,
    }

    def __init__(
        self, config: schema.Prune, searched: list[tuple[int, Path | None]] | None = None
    ) -> None:
        places, budget = searched or places_of(config), config.budget.limit
        check_device(config)
        if "onnx" in EXPORTS[config.export]:
            networks.require_onnx("export")
        images, count = read_samples(data_spec(config.data)), config.calibration.samples
        assert count is not None, "settled"
        rows = calibration_rows(images.labels_train, count, config.seed, images.prune_rows)
        self.config, self.budget, self.places, self.images = config, budget, places, images
        measure = config.quality or "accuracy"
        self.measures = Measures(images, rows, own_device(config.device), measure)
        self.select = Counted(measure) if isinstance(images, Texts) else None
        for _, place in places:
            network = self.network(place)
            check_fits(network, images, str(place or config.model.name))
            self.measures.check_numbers(network)
        self.architecture = architecture_of(places[-1][1], config.model, images)
        self.settings = Settings(**given_keys(config, Settings))
        with self._trial(network) as pruner:
            _refuse_repairs(config, pruner)
            check_feasible(pruner, budget)
            self.structure = pruner.structure
            self.lines = plan_text.deep_pruning(
                config,
                images,
                self.architecture,
                pruner,
                places,
                budget,
                len(rows),
                finetune_spec(config) if config.repair.finetune else None,
                searched=searched is not None,
            )

    @contextmanager
    def _trial(self, network: nn.Module) -> Iterator[Pruner]:
        """A pruner of two samples in a folder of its own: the plan does not depend on samples."""
        two = replace(self.measures, rows=self.measures.rows[:2]).batches()
        spec = RuntimeSpec(kind="none", workers=1, device="cpu")
        with ScratchFolder("plan") as folder, open_runtime(spec) as runtime:
            place, select = folder / "workspace", self.select
            yield Pruner.prepare(network, two, self.settings, runtime, place, select=select)

    @property
    def channels(self) -> dict[str, int]:
        return {layer.name: layer.num_candidates for layer in self.structure.layers}

    def network(self, place: Path | None) -> nn.Module:
        return read_float32(place, self.config.model, self.images)

    def phases(self, report: RunReport) -> dict[str, int]:
        count = sum(report.row(result_name(iteration)) is None for iteration, _ in self.places)
        repair = self.config.repair
        each = {
            "measure": 2 + bool(repair.refit) + bool(repair.streams) + bool(repair.batch_norm),
            "prune": 1,
            "size": 1,
            "repair": int(bool(repair.refit)),
            "streams": int(bool(repair.streams)),
            "finetune": int(bool(repair.finetune)),
        }
        return {kind: times * count for kind, times in each.items()}

    def prunings(self, run: PruneRun) -> Iterator[DeepPruning]:
        check_reach(run.folder, run.runtime)
        for iteration, place in self.places:
            yield DeepPruning(self, iteration, place, run)

    def commands(self, folder: RunFolder, rows: list[ResultRow]) -> list[str]:
        config, row = self.config, rows[-1]
        last = place_words(folder.path / str(row["model"]), config.model)
        data = data_words(config.data, config.seed)
        tunes = [] if isinstance(self.measures.images, Texts) else [f"gfs finetune {last} {data}"]
        return [
            f"gfs evaluate {last} {data}",
            *tunes,
            f"gfs cut {cut_words(folder.path, config)} budget.macs={70 * _share(row, 'macs'):.2g}%",
            f"gfs report {typed_place('path', str(folder.path))}",
        ]


@dataclass
class DeepPruning:
    """One checkpoint: a path for each layer; entered, it has a workspace on disk.

    Attributes:
        name: of the result, if it is not that of the checkpoint, whose paths it is cut from.
        key: under which a user named the run folder, for messages.
        quick: take the best widths that need no search, measure only what is repaired.
    """

    family: DeepFamily
    iteration: int
    place: Path | None
    run: PruneRun
    name: str = ""
    key: str = "resume"
    quick: bool = False

    def __post_init__(self) -> None:
        family, run, source = self.family, self.run, result_name(self.iteration)
        self.name = self.name or source
        self.network = family.network(self.place)
        samples, data = len(family.measures.rows), family.images.fingerprint
        facts = path_facts(family.config, self.network, samples, data)
        self.files = PathFiles(run.folder, source, facts, self.key)
        self.found = self.files.layers(family.channels)
        self.model = ModelFolder(
            run.folder.model(self.name),
            family.measures,
            family.config,
            family.architecture,
            run.reporter,
            self.network,
        )
        known = run.report.row(source)
        self.dense = known["dense"] if known else None
        self.pruner: Pruner
        self.opened = ExitStack()

    def __enter__(self) -> Self:
        family, network = self.family, self.network
        with ExitStack() as opened:
            folder = opened.enter_context(scratch(self.run.folder, self.name))
            batches = family.measures.batches()
            workspace = Workspace.create(folder, network, batches, select=family.select)
            runtime, settings = self.run.runtime, family.settings
            self.pruner = Pruner(workspace, family.structure, settings, runtime, self.found)
            if self.quick:
                self.pruner.weights = self.files.read_weights()
            if self.dense is None:
                weights = workspace.subfolder("dense") / checkpoint.MODEL
                self.dense = self.model.measure("the dense network", network, weights)
            self.opened = opened.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self.opened.close()

    def search(self) -> None:
        """Search every layer that has no path yet, in forward order."""
        run, pruner, files, events = self.run, self.pruner, self.files, self.run.report.events
        if self.family.config.objective == "network_loss":
            assert self.dense is not None
            files.facts["dense_loss"] = self.dense["loss"]
        run.reporter.phase(f"prune {self.name}", sum(pruner.channels.values()))

        def start(layer: str) -> GreedyPath | None:
            events.where = layer
            return files.read(pruner.channels[layer], layer)

        def on_progress(layer: str, progress: Progress) -> None:
            files.write_partial(progress.path, layer)
            before = sum(len(done.path) for done in pruner.paths.values())
            run.reporter.step(
                before + len(progress.path),
                progress.path.loss[-1] if progress.path.loss else None,
                layer=layer,
                state=progress.phase,
                ranks=progress.num_ranks,
            )

        pruner.search(start=start, on_progress=on_progress, on_layer=files.write_layer)
        events.where = ""

    def cut(self) -> ResultRow:
        """Choose widths for the budget, cut, repair, store and measure the smaller network."""
        family, folder, name = self.family, self.run.folder, self.name
        self.run.reporter.phase(f"size {name}")
        chosen = choose_widths(
            self.pruner,
            family.budget,
            lambda done, most, best: self.run.reporter.step(done, best, at_most=most),
            quick=self.quick,
        )
        if chosen.weights and not self.quick:
            self.files.write_weights(chosen.weights)
        found = self._cut(chosen.widths)
        small, measured, storage = self.model.store(found.network)
        times, dense_times = family.measures.latencies(small, self.network)
        assert self.dense is not None
        measure = family.measures.measure
        row = {
            "name": name,
            "iteration": self.iteration,
            "dense": {**self.dense, "latency": dense_times},
            "objective": self.pruner.settings.objective,
            "budget": plan_text.budget_title(family.budget),
            "kept": sum(chosen.widths.values()),
            **measured,
            "latency": times,
            "accuracy_after": {},
            f"{measure}_after": found.accuracies(cast(dict[str, Any], measured)[measure]),
            "path": f"paths/{self.files.result}",
            "model": folder.relative(self.model.path),
            "picks_sha256": picks_sha256(self.pruner),
            "layers": layer_rows(self.pruner, found, chosen.widths),
            "sizing": vars(chosen),
            "binds": chosen.binds,
            "difference": found.difference,
            "storage": storage,
        }
        if found.streams:
            row["streams"] = found.streams
        return cast(ResultRow, row)

    def keep(self, row: ResultRow, status: Status = "stopped") -> None:
        """Write the report and the card beside the network; another run does not do it again.

        ``status``: of the run until the report is written once more.
        """
        report = self.run.report
        report.put(row)
        self.model.write_card(report.rows, self.place)
        report.write(status)
        self._stream_state.unlink(missing_ok=True)

    def finish(self, row: ResultRow) -> None:
        """Train on, where that is asked for and not done yet; export."""
        if self.family.config.repair.finetune and "finetune" not in row["accuracy_after"]:
            self.keep(self._finetune(row))
        self.model.export()

    @property
    def _stream_state(self) -> Path:
        """The file from which a repair of streams goes on where the run was killed."""
        return self.run.folder.path.resolve() / "streams" / f"{self.name}.safetensors"

    def _cut(self, widths: dict[str, int]) -> CutResult:
        name, config, reporter = self.name, self.family.config, self.run.reporter
        asked, state = config.repair, self._stream_state
        spec = StreamSpec(asked.steps, config.seed) if asked.streams and asked.steps else None
        repairs = Repairs(
            bool(asked.fold),
            bool(asked.refit),
            bool(asked.batch_norm),
            spec,
            bool(asked.reselect),
        )
        phases = {
            "refit": (f"repair {name}", len(self.pruner.sites)),
            "streams": (f"streams {name}", asked.steps),
            "batch_norm": (f"repair {name}", None),
        }

        def on_step(repair: str, done: int, loss: float | None) -> None:
            if done:
                reporter.step(done, loss)
            else:
                reporter.phase(*phases[repair])

        if spec is not None:
            with atomic.storage_errors(state):
                state.parent.mkdir(exist_ok=True)
        reporter.phase(f"cut {name}")
        return cut(
            self.pruner,
            widths,
            repairs,
            name=f"cut_{name}",
            state=state,
            evaluate=self._quality,
            on_step=on_step,
        )

    def _quality(self, stage: str, network: nn.Module) -> float | None:
        """Of a network that is repaired further; as it was cut, where that is not to take long."""
        if self.quick and stage == "cut":
            return None
        on_batch = self.model.on_batch(f"{self.name} before repair")
        return self.family.measures.quality(network, on_batch, self.network)

    def _finetune(self, row: ResultRow) -> ResultRow:
        """Train ``models/NAME`` on and write it again; the row that then holds.

        ``finetune/NAME/`` has the network as it was cut and the checkpoints since: a run that was
        killed goes on from the last one.
        """
        run, config = self.run, self.family.config
        # Ranks may have another current folder.
        home = run.folder.path.resolve() / "finetune" / self.name
        cut = keep_as_cut(self.model.path, home)
        training = DeepTraining.of_stored(config, cut, read_json(cut / ARCHITECTURE))
        run.reporter.phase(f"finetune {self.name}", training.spec.iterations)
        training.run(run.runtime, home, run.report.events, run.reporter)
        _, measured, _ = self.model.store(*training.trained(RunFolder(home)))
        after = {**row["accuracy_after"], "finetune": measured["accuracy"]}
        return {**row, **measured, "accuracy_after": after}


@contextmanager
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


def _refuse_repairs(config: schema.Prune, pruner: Pruner) -> None:
    if config.repair.streams and not pruner.has_streams:
        raise ConfigError(
            "repair.streams: found true, accepted false with this network: after the cut there is "
            "no convolution or linear layer whose output could be compared with the dense one's"
        )
    if not config.repair.finetune:
        return
    stored = (
        {}
        if pruner.workspace.follows
        else read_json(pruner.workspace.subfolder("dense") / ARCHITECTURE)
    )
    if stored.get("graph", {}).get("evaluation_only"):
        raise ConfigError(
            "repair.finetune: found true, accepted false with this network: what it does while it "
            "trains cannot be recorded"
        )


def _limits(row: ResultRow) -> int:
    """Of the budget; runs of before have one, and do not tell."""
    return len(row.get("sizing", {}).get("used", {}))


def _share(row: ResultRow, key: str) -> float:
    part, whole = (cast(dict[str, Any], network)[key] for network in (row, row["dense"]))
    return float(part / whole)
