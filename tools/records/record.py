"""Keep a measurement: JSON for scripts, Markdown for readers, with command, machine, date.

python -m tools.records.record NAME RUN_DIR "COMMAND"   # keeps a run folder's report
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import Any

from gfs_dist import report as pages
from gfs_dist.files import atomic
from gfs_dist.files.untrusted import read_json
from gfs_dist.report import text as words

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
) -> None:
    """Write ``NAME.json`` and ``NAME.md`` into ``tests/records``; print what a reader gets.

    ``by``: a column; rows that differ in it go into tables of their own, under their value.
    ``tables``: what else was found, by title.
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
    atomic.write_text(FOLDER / f"{name}.md", page := _markdown(name, content, by))
    print(page)


def keep_run(name: str, run: Path, command: str) -> None:
    """Keep the results, tables, timing and faults of a run folder, without its long lists."""
    report = read_json(run / "report.json")
    rows = [_short(row) for row in report["results"]]
    notes = [
        *report.get("notes", []),
        f"the whole job took {report['timing']['total_s']:.0f} s",
        *(
            f"rank {rank['rank']}: set-up {rank['setup_s']:.1f} s, "
            f"compute {rank['compute_s']:.1f} s, exchange {rank['exchange_s']:.1f} s, "
            f"peak memory {rank['peak_rss_bytes'] / 2**20:,.0f} MiB"
            for rank in report["timing"].get("ranks", [])
        ),
    ]
    tables = {title: list(map(_short, found)) for title, found in report.get("tables", {}).items()}
    keep(name, command, rows, notes, tables=tables)


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


if __name__ == "__main__":
    keep_run(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
