"""``models/NAME`` of a deep network: stored, read back, measured, described, exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gfs_dist import networks
from gfs_dist import report as pages
from gfs_dist.config import commands as schema
from gfs_dist.config.prune import EXPORTS
from gfs_dist.files.checkpoint import MODEL
from gfs_dist.files.untrusted import read_json
from gfs_dist.networks.storage.export import export_onnx, export_program
from gfs_dist.networks.storage.store import ARCHITECTURE
from gfs_dist.records import Measured, ResultRow
from gfs_dist.workflows import plan_text
from gfs_dist.workflows.measures import Measures, OnBatch, example_of
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.stored_networks import origin_of, read_network

FORMS = {"program": (export_program, "model.pt2"), "onnx": (export_onnx, "model.onnx")}
"""How each form for other programs is written, and to which file beside the model."""


@dataclass(frozen=True)
class ModelFolder:
    """The folder of one pruned network.

    Attributes:
        path: of the folder; its name is that of the result.
        measures: measures the network as it is read from there.
        config: of the run.
        architecture: of the dense network.
        dense: that network, if outputs are compared with its.
    """

    path: Path
    measures: Measures
    config: schema.Prune
    architecture: dict[str, Any]
    reporter: Reporter
    dense: nn.Module | None = None

    def store(
        self, network: nn.Module, known: Measured | None = None
    ) -> tuple[nn.Module, Measured, dict[str, str]]:
        """Write a network; the one that is read from there, its facts, and what else loads it."""
        images = self.measures.images
        root = getattr(network, "gfs_root", None)  # one that was not recorded is stored as it is
        storage = networks.save(
            self.path,
            root or network,
            example=example_of(images, 2),
            origin=origin_of(self.architecture),
            builder=networks.builder_of(self.dense) if root and self.dense else None,
        )
        stored = read_network(self.path, self.config.model, images)
        measured = self.measure(self.path.name, stored, self.path / MODEL, known)
        return stored, measured, storage

    def measure(
        self, name: str, network: nn.Module, weights: Path, known: Measured | None = None
    ) -> Measured:
        """Facts of a network whose weights are in a file, if they are in one, and not as its
        maker left them; ``known``: see :class:`Measures`.

        Raises:
            NonFiniteError: it does not give numbers; names the layer.
        """
        dense = None if network is self.dense else self.dense
        measured = self.measures.facts(network, self.on_batch(name), known, dense)
        held = sum(tensor.nbytes for tensor in network.state_dict().values())
        return {**measured, "file_bytes": weights.stat().st_size if weights.exists() else held}

    def on_batch(self, name: str) -> OnBatch:
        def on_batch(done: int, total: int) -> None:
            if done:
                self.reporter.step(done)
            else:
                self.reporter.phase(f"measure {name}", total)

        return on_batch

    def write_card(self, rows: list[ResultRow], source: Path | None) -> None:
        """Write the card of the result, which is one of ``rows`` and was cut from ``source``."""
        config, images = self.config, self.measures.images
        stored = read_json(self.path / ARCHITECTURE)
        origin = pages.Origin(
            network=plan_text.network_words(self.architecture),
            checkpoint="its factory's own weights" if source is None else str(source),
            data=f"{config.data.name}, {len(self.measures.rows):,} calibration "
            f"{plan_text.unit(images)}",
            inputs=images.input_words,
            budget=plan_text.budget_title(config.budget.limit),
            method=f"{config.objective}, {config.weights} weights; repairs: "
            f"{', '.join(plan_text.repairs(config)) or 'none'}",
            factory="" if "graph" in stored else stored.get("factory", ""),
        )
        facts = {"results": rows, "machine": pages.machine(), "versions": pages.versions()}
        pages.write_card(self.path, facts, self.path.name, origin)

    def export(self) -> bool:
        """Write the forms for other programs that are not there yet, and compare; whether any was.

        Last of all: what cannot be exported is in the report all the same.

        Raises:
            RunError: a form cannot be made, or computes something else.
        """
        images, asked = self.measures.images, [FORMS[form] for form in EXPORTS[self.config.export]]
        missing = [(write, file) for write, file in asked if not (self.path / file).exists()]
        if missing:
            self.reporter.phase(f"export {self.path.name}")
            network = read_network(self.path, self.config.model, images)
            example: Any = example_of(images, 2)
            for write, file in missing:
                write(network, example, self.path / file)
        return bool(missing)
