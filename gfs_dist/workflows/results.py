"""From searched layers to one result: widths, the cut network, its row in the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from gfs_dist import networks
from gfs_dist.config import commands as schema
from gfs_dist.config.prune import EXPORTS
from gfs_dist.files import RunFolder
from gfs_dist.files.checkpoint import MODEL
from gfs_dist.networks.storage.export import export_onnx, export_program
from gfs_dist.pruning.cut import CutResult, Repairs, cut, layer_rows, picks_sha256
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.widths.budget import Budget
from gfs_dist.pruning.widths.choose import ChosenWidths, choose_widths
from gfs_dist.workflows.images_and_networks import read_network
from gfs_dist.workflows.layer_records import LayerRecords
from gfs_dist.workflows.measures import Measures, OnBatch
from gfs_dist.workflows.plan_text import budget_title
from gfs_dist.workflows.reporter import Reporter

FORMS = {"program": (export_program, "model.pt2"), "onnx": (export_onnx, "model.onnx")}
"""How each form for other programs is written, and to which file beside the model."""


@dataclass(frozen=True)
class ResultMaker:
    """Makes results of one run.

    Attributes:
        folder: of the run.
        measures: what is measured of each network.
        config: of the run.
        origin: what made the dense network.
        reporter: told of progress.
        quick: take the best widths that need no search.
    """

    folder: RunFolder
    measures: Measures
    config: schema.Prune
    origin: dict[str, Any] | None
    reporter: Reporter
    quick: bool = False

    def dense(self, network: nn.Module, pruner: Pruner) -> dict[str, Any]:
        """The facts of the dense network.

        Raises:
            NonFiniteError: it does not give numbers; names the layer.
        """
        measured = self._measure("the dense network", network, None)
        return {**measured, "file_bytes": pruner.workspace.path("dense", MODEL).stat().st_size}

    def make(
        self,
        name: str,
        network: nn.Module,
        pruner: Pruner,
        records: LayerRecords,
        budget: Budget,
        facts: dict[str, Any],
    ) -> dict[str, Any]:
        """Size, cut, mend, measure, store; the row of the result.

        Args:
            name: of the result.
            network: the dense one.
            pruner: with the paths of all layers.
            records: their files.
            budget: can be met.
            facts: what else the row says; ``dense`` among it.
        """
        chosen = self._size(name, pruner, budget)
        found = self._cut(name, pruner, chosen)
        small, measured = self.store(name, found.network)
        times, dense_times = self.measures.latencies(small, network)
        return {
            "name": name,
            **facts,
            "dense": {**facts["dense"], "latency": dense_times},
            "objective": pruner.settings.objective,
            "budget": budget_title(budget),
            "kept": sum(chosen.widths.values()),
            **measured,
            "latency": times,
            "accuracy_after": found.accuracies(measured["accuracy"]),
            "path": records.place,
            "model": self.folder.relative(self.folder.model(name)),
            "picks_sha256": picks_sha256(pruner),
            "layers": layer_rows(pruner, found.network, chosen.widths),
            "sizing": vars(chosen) | {"widths": dict(chosen.widths)},
            "difference": found.difference,
        }

    def store(
        self, name: str, network: nn.Module, accuracy: float | None = None
    ) -> tuple[nn.Module, dict[str, Any]]:
        """Write ``models/NAME``; the network as it is read from there again, and its facts.

        ``accuracy``: if it is known.
        """
        images, folder = self.measures.images, self.folder.model(name)
        example = images.inputs(images.x_test[:2])
        networks.save(folder, network, example=example, origin=self.origin)
        stored = read_network(folder, self.config.model, images)
        measured = self._measure(name, stored, accuracy)
        return stored, {**measured, "file_bytes": (folder / MODEL).stat().st_size}

    def _measure(self, name: str, network: nn.Module, accuracy: float | None) -> dict[str, Any]:
        return self.measures.facts(network, self._on_batch(name), accuracy)

    def _on_batch(self, name: str) -> OnBatch:
        """Tells of a phase of its own."""

        def on_batch(done: int, total: int) -> None:
            if done:
                self.reporter.step(done)
            else:
                self.reporter.phase(f"measure {name}", total)

        return on_batch

    def export(self, name: str) -> bool:
        """The forms for other programs that were asked for and are not there yet, compared with
        ``models/NAME``. Last of all: what cannot be exported is in the report all the same.

        Returns:
            Whether any was written.

        Raises:
            RunError: a form cannot be made, or computes something else.
        """
        images, folder = self.measures.images, self.folder.model(name)
        asked = [FORMS[form] for form in EXPORTS[self.config.export]]
        missing = [(write, file) for write, file in asked if not (folder / file).exists()]
        if missing:
            self.reporter.phase(f"export {name}")
            network = read_network(folder, self.config.model, images)
            for write, file in missing:
                write(network, images.inputs(images.x_test[:2]), folder / file)
        return bool(missing)

    def _size(self, name: str, pruner: Pruner, budget: Budget) -> ChosenWidths:
        self.reporter.phase(f"size {name}")
        return choose_widths(
            pruner,
            budget,
            lambda done, most, best: self.reporter.step(done, best, at_most=most),
            quick=self.quick,
        )

    def _cut(self, name: str, pruner: Pruner, chosen: ChosenWidths) -> CutResult:
        self.reporter.phase(f"cut {name}")
        repairs = Repairs(
            fold=bool(self.config.repair.fold),
            refit=bool(self.config.repair.refit),
            batch_norm=bool(self.config.repair.batch_norm),
        )

        def evaluate(network: nn.Module) -> float:
            found = self.measures.accuracy(network, self._on_batch(f"{name} before repair"))
            self.reporter.phase(f"repair {name}", len(pruner.sites) if repairs.refit else None)
            return found

        return cut(
            pruner,
            chosen.widths,
            repairs,
            name=f"cut_{name}",
            evaluate=evaluate,
            on_site=lambda stage: self.reporter.step(stage + 1),
        )
