"""Keep a measurement: JSON for scripts, Markdown for readers, with command, machine, date.

python -m tools.records.record NAME RUN_DIR "COMMAND"   # keeps a run folder's report
"""

from __future__ import annotations

import datetime
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gfs_dist
from gfs_dist import jobs
from gfs_dist import report as pages
from gfs_dist.errors import RunFolderError
from gfs_dist.files import atomic
from gfs_dist.files.untrusted import read_json
from gfs_dist.report import text as words

Cell = dict[str, Any]

FOLDER = Path(__file__).parents[2] / "tests" / "records"
LONG = ("bound", "picks")
SPREADS = (
    {"median", "minimum", "maximum"},
    {"median", "min", "max"},
    {"median", "minimum", "maximum", "mean"},
)


def keep(
    name: str,
    command: str,
    rows: list[dict[str, Any]],
    notes: list[str],
    by: str | None = None,
    tables: dict[str, list[dict[str, Any]]] | None = None,
    plots: Sequence[Path] = (),
    *,
    listed: bool = True,
) -> None:
    """Write ``NAME.json`` and ``NAME.md`` into ``tests/records``; print what a reader gets.

    ``by``: a column; rows that differ in it go into tables of their own, under their value.
    ``tables``: what else was found, by title. ``plots``: images, copied beside it and shown.
    ``listed``: whether readers get the rows too; JSON always holds them.
    """
    content = {
        "format": 1,
        "job": "record",
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": pages.machine(),
        "versions": pages.versions(),
        "notes": notes,
        "results": rows,
        **({"tables": tables} if tables else {}),
    }
    atomic.write_json(FOLDER / f"{name}.json", content)
    shown = {**content, "results": rows if listed else []}
    page = _markdown(name, shown, by)
    for plot in plots:
        image = Path("plots") / f"{name}_{plot.name}"
        (FOLDER / image).parent.mkdir(exist_ok=True)
        atomic.write_bytes(FOLDER / image, plot.read_bytes())
        page += f"\n![{plot.stem.replace('_', ' ')}]({image})\n"
    atomic.write_text(FOLDER / f"{name}.md", page)
    print(page)


def keep_run(name: str, run: Path, command: str) -> None:
    """Keep the results, tables, timing and faults of a run folder, without its long lists."""
    report = read_json(run / "report.json")
    rows = [_short(row) for row in report["results"]]
    notes = [
        *report.get("notes", []),
        _cost(run) or f"the whole job took {report['timing']['total_s']:.0f} s",
        *(
            f"rank {rank['rank']}: set-up {rank['setup_s']:.1f} s, "
            f"compute {rank['compute_s']:.1f} s, exchange {rank.get('exchange_s', 0.0):.1f} s, "
            f"peak memory {rank['peak_rss_bytes'] / 2**20:,.0f} MiB"
            for rank in report["timing"].get("ranks", [])
        ),
    ]
    tables = {title: list(map(_short, found)) for title, found in report.get("tables", {}).items()}
    experiment = "experiment" in report
    plots = [plot for plot in sorted((run / "plots").glob("*.png")) if plot.stem != "time_per_rank"]
    keep(
        name, command, rows, notes, None, tables, plots if experiment else (), listed=not experiment
    )


def _cost(run: Path) -> str:
    """What the cells of an experiment took, whatever else the machine did; empty without cells."""
    cells = [read_json(file)["found"] for file in sorted((run / "cells").glob("*.json"))]
    spent = [cell["cpu_seconds"] for cell in cells if "cpu_seconds" in cell]
    return f"{len(spent):,} cells took {sum(spent):,.0f} CPU s in all" if spent else ""


def load_average() -> str:
    """Of the machine, in words."""
    return f"load average of the last quarter of an hour {os.getloadavg()[2]:.1f}"


def _short(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key in LONG or value is None:
            continue
        if isinstance(value, dict) and set(value) not in SPREADS:
            flat |= {f"{key}.{k}": v for k, v in value.items() if k not in LONG}
        else:
            flat[key] = value
    return flat


def _markdown(name: str, content: dict[str, Any], by: str | None) -> str:
    machine = content["machine"]
    lines = [
        f"# {name}",
        "",
        f"`{content['command']}`",
        "",
        f"{content['date']}; {', '.join([*machine['gpus'], machine['cpu']])}, "
        f"{machine['cores']} cores, "
        f"Python {machine['python']}, torch {content['versions'].get('torch')}",
        "",
        *(f"- {note}" for note in content["notes"]),
    ]
    lines += _tables(content["results"], by)
    for title, rows in content.get("tables", {}).items():
        lines += ["", f"## {title}", *_tables(rows, None)]
    return "\n".join(lines) + "\n"


def _tables(rows: list[dict[str, Any]], by: str | None) -> list[str]:
    """One for each value of ``by`` and each set of columns."""
    lines = []
    kinds = [(row.get(by) if by else None, tuple(row)) for row in rows]
    for value, columns in dict.fromkeys(kinds):
        shown = [column for column in columns if column != by]
        own = [row for row, kind in zip(rows, kinds, strict=True) if kind == (value, columns)]
        if value is not None:
            lines += ["", f"## {by} {value}"]
        lines += ["", "| " + " | ".join(shown) + " |", "|" + " --: |" * len(shown)]
        lines += ["| " + " | ".join(_cell(row[c]) for c in shown) + " |" for row in own]
    return lines


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return words.anything(value)
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, str) and len(value) == 64:
        return f"`{value[:12]}`"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


class Cells:
    """Finished parts of a long measurement by name, kept in one file: none is computed twice.

    Args:
        path: of the JSON file, new or of an earlier call.
        facts: what was measured, plain JSON.

    Raises:
        RunFolderError: the file holds cells of other facts; names the first that differs.
    """

    def __init__(self, path: Path, facts: Cell) -> None:
        self.path, self.facts = path, facts
        self.source = source()
        self.found = self._read()

    def once(self, name: str, make: Callable[[], Cell]) -> Cell:
        """The cell of this name, made if it is not there yet.

        It says how long that took (``seconds``), and by which code (``source``).
        """
        if name not in self.found:
            began = time.perf_counter()
            cell = make()
            cell = {**cell, "seconds": time.perf_counter() - began, "source": self.source}
            self.found = {**self._read(), name: cell}  # another call may have measured other parts
            atomic.write_json(self.path, {"format": 1, "facts": self.facts, "cells": self.found})
            shown = [
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in cell.items()
                if isinstance(value, float | int | str)
            ]
            print(f"{name}: {', '.join(shown)}", flush=True)
        return self.found[name]

    def _read(self) -> dict[str, Cell]:
        if not self.path.exists():
            return {}
        before = read_json(self.path)
        for key in self.facts.keys() | before["facts"].keys():
            if before["facts"].get(key) != self.facts.get(key):
                raise RunFolderError(
                    f"{self.path}: {key}: found {before['facts'].get(key)!r}, this run has "
                    f"{self.facts.get(key)!r}; measure into another folder"
                )
        return dict(before["cells"])


def source() -> str:
    """A name for the content of all modules of the package."""
    digest = hashlib.sha256()
    for folder in (gfs_dist.__path__[0], jobs.__path__[0]):
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    keep_run(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
