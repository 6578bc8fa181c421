"""Facts as templates show them: sentences, tables, and the filters that make words of numbers.

A table is a list of rows, each a dict from the heading of a column to a cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gfs_dist.records import Measured
from gfs_dist.report import text
from gfs_dist.report.facts import Run, time_split
from gfs_dist.report.summary import REPAIRS, summary

Table = list[dict[str, str]]


def page(run: Run, plots: Sequence[Any], config: str | None) -> dict[str, Any]:
    """What ``report.jinja`` shows; ``config`` is the run's configuration as text."""
    reasons = {str(found) for r in run.results if (found := r.row["theory"].get("reason"))}
    return {
        "run": run,
        "title": f"gfs {run.report['job']}",
        "summary": summary(run),
        "repairs": REPAIRS,
        "reasons": sorted(reasons),
        "machine": _machine(run.report["machine"]),
        "plots": plots,
        "config": config,
    }


def without_empty_columns(table: Table) -> Table:
    """The table without the columns in which every cell is a dash."""
    columns = table[0] if table else ()
    kept = [name for name in columns if any(row[name] != text.NOTHING for row in table)]
    return [{name: row[name] for name in kept} for row in table]


def every_key(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of unknown meaning, every key a column."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return without_empty_columns(
        [{key.replace("_", " "): _cell(key, row.get(key)) for key in keys} for row in rows]
    )


def pairs(facts: Mapping[str, Any], left: str, right: str) -> Table:
    """One row for each fact."""
    return [{left: name, right: text.anything(value)} for name, value in facts.items()]


def sizes_and_speeds(run: Run) -> Table:
    """One row for each network; the dense one stands before the results that were cut from it."""
    conditions = dict.fromkeys((s.batch, s.device) for r in run.results for s in r.speeds)
    table: Table = []

    def add(name: str, measured: Measured, ratios: Mapping[tuple[int, str], str]) -> None:
        seconds = {(s["batch"], s["device"]): s["median_s"] for s in measured["latency"]}
        row = {
            "network": name,
            "multiply-adds": text.count(measured["macs"]),
            "parameters": text.count(measured["params"]),
            "file": text.memory(measured["file_bytes"]),
        }
        for key in conditions:
            time = text.seconds(seconds.get(key))
            row[f"batch {key[0]}, {key[1]}"] = time + ratios.get(key, "")
        table.append(row)

    seen = None
    for r in run.results:
        if r.dense != seen:
            seen = r.dense
            add("dense", seen, {})
        add(r.name, r.row, {(s.batch, s.device): f" ({s.ratio:.2f})" for s in r.speeds})
    return without_empty_columns(table)


def _machine(machine: Mapping[str, Any]) -> dict[str, Any]:
    facts = {name: value for name, value in machine.items() if name != "memory_bytes"}
    if "memory_bytes" in machine:
        facts["memory"] = text.memory(machine["memory_bytes"])
    return facts


def _cell(key: str, value: Any) -> str:
    hashed = key.endswith("sha256") and isinstance(value, str)
    return text.short_hash(value) if hashed else text.anything(value)


_TABLES = (without_empty_columns, every_key, pairs, sizes_and_speeds, time_split)
FILTERS = {f.__name__: f for f in (*(getattr(text, name) for name in text.__all__), *_TABLES)}
"""By the names under which templates use them."""
