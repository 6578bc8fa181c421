"""A grid of cells: each is computed by any one rank, once, and kept in a file of the run folder."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from gfs_dist import networks
from gfs_dist.config import commands as schema
from gfs_dist.errors import CheckpointError, RunFolderError
from gfs_dist.files import RunFolder, atomic, checkpoint
from gfs_dist.files.checksums import verify_own_checksum, with_own_checksum
from gfs_dist.files.untrusted import kind, read_json
from gfs_dist.records import FORMAT
from gfs_dist.runtime import GroupProgress, Peers, Runtime, Task, Tick
from gfs_dist.runtime.progress import MapProgress
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.total_time import duration

Row = dict[str, Any]
"""Of a table; cells of one experiment have the same keys."""


START_S = {"none": 0.0, "local": 3.0, "ray": 10.0}
"""Seconds until the ranks of a runtime have loaded torch, on two quiet cores."""

FINISH_S = 3.0
"""Of what every run does once: each rank reads the data, and the page is written with its plots."""


class Cell(Protocol):
    """One computation of a grid: a frozen dataclass of plain values; they are in its row."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """Of its file; no other cell of the experiment has it."""
        ...


class TeamTask(Protocol):
    """Work on a cell that all ranks do at once, as :class:`gfs_dist.runtime.GroupTask` has it."""

    def together(self, cell: Any, peers: Peers, device: torch.device, tick: Tick) -> Any:
        """The share of one rank; rank 0 returns a dict of plain JSON values."""
        ...


@dataclass
class Findings:
    """What an experiment found.

    Attributes:
        rows: one for each cell, or what plots show of it.
        claims: of the paper: claim, verdict, evidence.
        tables: rows by title, in the order of the page.
        data: further rows by name, which only plots show.
        notes: sentences, the most important first: results, then what differs from the paper.
    """

    rows: list[Row] = field(default_factory=list)
    claims: list[Row] = field(default_factory=list)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    data: dict[str, list[Row]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def claim(self, claim: str, verdict: str, evidence: str) -> None:
        """Add a claim of the paper: it ``holds``, ``holds in part``, is ``contradicted``, or is
        ``undecided`` where the grid is too small to tell.
        """
        self.claims.append({"claim": claim, "verdict": verdict, "evidence": evidence})


class Experiment(Protocol):
    """An experiment at the size of a preset; made from a configuration, its inputs are checked.

    Attributes:
        lines: the plan in words: cells, memory, time.
    """

    lines: list[str]

    def run(self, grid: Grid) -> Findings:
        """Compute the cells that are missing; the same cells give the same findings."""
        ...


class Grid:
    """Computes cells by the ranks of a runtime and keeps them in a run folder."""

    def __init__(self, folder: RunFolder, runtime: Runtime, reporter: Reporter) -> None:
        self.folder, self.reporter, self._runtime = folder, reporter, runtime

    def compute(
        self,
        phase: str,
        task: Task,
        cells: Sequence[Cell],
        cost: Callable[[Any], float] = lambda _: 1.0,
    ) -> list[Row]:
        """The rows of ``cells``: read where they are there, computed where they are not.

        Args:
            phase: its name.
            task: ``run(cell, device, tick)`` returns a dict of plain JSON values.
            cells: need nothing of each other.
            cost: of a cell beside others, for the time left.

        Returns:
            one row a cell: its own fields, what the task found, ``seconds`` on the clock and
            ``cpu_seconds`` of it.

        Raises:
            Exception: what the task raised.
        """
        rows = {cell.name: row for cell in cells if (row := self._kept(cell)) is not None}
        missing = [cell for cell in cells if cell.name not in rows]
        if rows and missing:
            self.reporter.note(f"{phase}: {len(rows):,} of {len(cells):,} cells are there already")
        left, began = sum(map(cost, missing)), time.perf_counter()
        total = left

        def on_item(progress: MapProgress) -> None:
            nonlocal left
            cell = missing[progress.place]
            rows[cell.name] = self._keep(cell, progress.value)
            left -= cost(cell)
            # Cells in the hands of other ranks are half done on average.
            number = len(cells) - len(rows)
            half = min(number, progress.num_ranks - 1) / 2 * left / max(1, number)
            spent = time.perf_counter() - began
            left_s = spent * max(0.0, left - half) / (total - left + half)
            self.reporter.step(len(missing) - number, left_s=left_s, cell=cell.name)

        if missing:
            self.reporter.phase(phase, len(missing))
            self._runtime.map(_Timed(task), missing, on_item)
        return [rows[cell.name] for cell in cells]

    def together(self, phase: str, task: TeamTask, cells: Sequence[Cell], steps: int) -> list[Row]:
        """The same, one cell after another, each by all ranks at once.

        A cell whose ranks were lost goes on from the task's own checkpoint.

        Args:
            steps: of each cell.
        """

        def by_all(cell: Cell, _: Grid) -> dict[str, Any]:
            def on_progress(progress: GroupProgress) -> None:
                for step, value in progress.values:
                    self.reporter.step(step, value.get("loss"))

            began = time.perf_counter()
            found = self._runtime.run_group(_OfCell(task, cell), on_progress).value
            return {**found, "seconds": round(time.perf_counter() - began, 3)}

        return self.measure(phase, by_all, cells, steps)

    def measure(
        self,
        phase: str,
        measure: Callable[[Any, Grid], Mapping[str, Any]],
        cells: Sequence[Cell],
        steps: int | None = None,
    ) -> list[Row]:
        """The same by this process, one cell after another: timings want a machine for themselves.

        Args:
            measure: ``measure(cell, grid)`` returns a dict of plain JSON values.
            steps: that it reports of each cell.
        """
        rows = []
        for number, cell in enumerate(cells, 1):
            row = self._kept(cell)
            if row is None:
                self.reporter.phase(f"{phase} {number} of {len(cells)}: {cell.name}", steps)
                row = self._keep(cell, measure(cell, self))
            rows.append(row)
        return rows

    def _kept(self, cell: Cell) -> Row | None:
        """The row of a cell that an earlier run computed from the same values."""
        file = self.folder.cell(cell.name)
        if not file.exists():
            return None
        if not file.is_file():
            raise RunFolderError(
                f"{file}: found {kind(file)}, accepted the file of a cell; remove it, then resume"
            )
        try:
            content = read_json(file)
            verify_own_checksum(content, file)
        except (CheckpointError, RunFolderError):  # cut off, another's, or changed
            self.reporter.note(f"{file} is not what was written: the cell is computed again")
            return None
        same = "found" in content and content.get("cell") == _plain(asdict(cell))
        return {"name": cell.name, **content["cell"], **content["found"]} if same else None

    def _keep(self, cell: Cell, found: Mapping[str, Any]) -> Row:
        values = _plain(asdict(cell))
        content = {"format": FORMAT, "cell": values, "found": _plain(found)}
        atomic.write_json(self.folder.cell(cell.name), with_own_checksum(content))
        self.folder.written()
        return {"name": cell.name, **content["cell"], **content["found"]}


def _plain(value: Any) -> Any:
    """As JSON gives it back: a row is the same whether it was just computed or read."""
    return json.loads(json.dumps(value, allow_nan=False))


@dataclass(frozen=True)
class _Timed:
    task: Task

    def run(self, item: Any, device: Any, tick: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        found = self.task.run(item, device, tick)
        times = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
        }
        return {**found, **{key: round(value, 3) for key, value in times.items()}}


@dataclass(frozen=True)
class _OfCell:
    """One cell as a group task."""

    task: TeamTask
    cell: Any

    def run(self, peers: Peers, device: torch.device, tick: Tick) -> Any:
        return self.task.together(self.cell, peers, device, tick)


def load_trained(place: Path, training: str) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a checkpoint that the cell ``training`` left in the run folder, and what the
    checkpoint says of it.

    Raises:
        CheckpointError: it is gone or damaged, and how it is made again.
    """
    try:
        found = checkpoint.load(place)
        return networks.load_tensors(found.state["architecture"], found.tensors, place), found.state
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}\nto train it again remove trainings/{training} and cells/{training}.json "
            "of the run folder, then resume"
        ) from error


def write_csv(file: Path, rows: Sequence[Row]) -> None:
    """Write rows as a table with every key a column; values that are no numbers or text as JSON."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()}
        )
    atomic.write_text(file, text.getvalue())


def numbers(values: Iterable[int]) -> str:
    """``1,000, 5,000``."""
    return ", ".join(f"{value:,}" for value in values)


def time_line(config: schema.Reproduce, work: Mapping[str, float], of: str = "one CPU core") -> str:
    """The line of a plan on time.

    Args:
        work: seconds on the clock that all ranks need for each kind of it.
        of: what a rank has.
    """
    ranks, kind = config.workers, config.runtime.kind
    seconds = {"start and page": START_S[kind] + FINISH_S, **work}
    return (
        f"time      about {duration(sum(seconds.values()))} on {ranks} "
        f"{'rank' if ranks == 1 else 'ranks'} of {of} each: "
        + ", ".join(f"{name} {duration(spent)}" for name, spent in seconds.items())
    )
