"""The one pipeline of ``gfs prune``: the questions it asks of a kind of network, and its tables.

Plan, search, cut with its repairs, measure, report: two-layer networks (:mod:`prune_two_layer`)
and deep ones (:mod:`prune_deep`) differ in how they answer, not in the order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import nn

from gfs_dist.config import commands as schema
from gfs_dist.files import RunFolder, fingerprint
from gfs_dist.records import ResultRow
from gfs_dist.runtime import Runtime
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_report import RunReport
from gfs_dist.workflows.total_time import TotalTime

Columns = Mapping[str, Callable[[ResultRow], object]]
"""Columns of the table of results, and the value of each in a row."""

SHARED_COLUMNS: Columns = {
    "loss": lambda row: row["loss"],
    "dense loss": lambda row: row["dense"]["loss"],
    "perplexity": lambda row: row.get("perplexity"),
    "dense perplexity": lambda row: row["dense"].get("perplexity"),
    "KL": lambda row: row.get("kl"),
    "cosine": lambda row: row.get("cosine"),
    "accuracy": lambda row: row["accuracy"],
    "dense accuracy": lambda row: row["dense"]["accuracy"],
    "train accuracy": lambda row: row.get("accuracy_train"),
    "dense train accuracy": lambda row: row["dense"].get("accuracy_train"),
    "validation accuracy": lambda row: row.get("accuracy_validation"),
    "dense validation accuracy": lambda row: row["dense"].get("accuracy_validation"),
}


@dataclass(frozen=True)
class PruneRun:
    """A run at work: its ranks, its report, and the reporter that knows the time of the whole."""

    runtime: Runtime
    report: RunReport
    reporter: TotalTime

    @property
    def folder(self) -> RunFolder:
        return self.report.folder


class Pruning(AbstractContextManager[Any], Protocol):
    """One checkpoint being pruned; entered for a search and a cut that are not finished.

    Attributes:
        name: of the result.
    """

    name: str

    def search(self) -> None:
        """Measure the dense network and search; paths are in the run folder as they grow."""

    def cut(self) -> ResultRow:
        """Cut, repair, store and measure the smaller network."""
        ...

    def keep(self, row: ResultRow) -> None:
        """Write a finished result; a resumed run does not make it again."""

    def finish(self, row: ResultRow) -> None:
        """Do the steps after the cut that no earlier run has done."""


class NetworkFamily(Protocol):
    """A kind of networks; made from a configuration, it has read and checked all inputs.

    Attributes:
        lines: the plan in words.
        columns: of the table of results, before the shared ones.
        keeps_results: finished results of an earlier run stay; else paths are replayed.
    """

    lines: list[str]
    columns: ClassVar[Columns]
    keeps_results: ClassVar[bool]

    def phases(self, report: RunReport) -> dict[str, int]:
        """Kinds of phases by the first word of their names, and how many are still to come."""
        ...

    def prunings(self, run: PruneRun) -> Iterator[Pruning]:
        """Each checkpoint with what earlier runs have searched of it; trained where none is given.

        Raises:
            RunFolderError: path files are damaged, or belong to other inputs.
        """
        ...

    def commands(self, folder: RunFolder, rows: list[ResultRow]) -> list[str]:
        """What makes sense next."""
        ...


def prune_all(family: NetworkFamily, run: PruneRun) -> None:
    """Prune every checkpoint; what an earlier run finished stays."""
    for pruning in family.prunings(run):
        row = run.report.row(pruning.name)
        if row is None:
            with pruning:
                pruning.search()
                row = pruning.cut()
            pruning.keep(row)
        pruning.finish(row)


def result_name(iteration: int) -> str:
    """The name of the result of a checkpoint."""
    return f"step_{iteration:08d}"


def path_facts(
    config: schema.Prune, network: nn.Module, samples: int, data: str, dense_loss: float = 0.0
) -> dict[str, Any]:
    """What all path files of a network say besides their paths; ``data`` is a fingerprint."""
    weights = [tensor for _, tensor in sorted(network.state_dict().items())]
    return {
        "samples": samples,
        "objective": config.objective,
        "weights": config.weights,
        "dense_loss": dense_loss,
        "inputs": {f"data={config.data.name}": data, "the checkpoint": fingerprint(*weights)},
    }


def show_results(family: NetworkFamily, report: RunReport, reporter: Reporter) -> None:
    """The table of results, without columns of nothing, and commands that make sense next."""
    rows, columns = report.rows, {**family.columns, **SHARED_COLUMNS}
    found = {name: [value(row) for row in rows] for name, value in columns.items()}
    shown = {name: cells for name, cells in found.items() if any(c is not None for c in cells)}
    reporter.table("pruned", list(shown), list(zip(*shown.values(), strict=True)))
    reporter.next(family.commands(report.folder, rows))
