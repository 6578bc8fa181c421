"""Pages from templates: as Markdown, or as one HTML file that refers to nothing outside itself.

A page is one template in ``templates/``. Its headings, tables, code and plots are macros of
``markdown.jinja`` or ``html.jinja``, which alone know a format. Names in a report come from files
that are not trusted: every macro escapes all that it is given, so that they make no tag, link or
image in any page.

A table is a list of rows, each a dict from the heading of a column to a cell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from gfs_dist.records import Measured, Report
from gfs_dist.report import text
from gfs_dist.report.advice import advice_table
from gfs_dist.report.facts import Run, time_split
from gfs_dist.report.summary import REPAIRS, summary

TEMPLATES = Path(__file__).parent / "templates"
Table = list[dict[str, str]]


def page(run: Run, plots: Sequence[Any], config: str | None) -> dict[str, Any]:
    """What ``report.jinja`` shows; ``config`` is the run's configuration as text."""
    machine = dict(run.report["machine"])
    if "memory_bytes" in machine:
        machine["memory"] = text.memory(machine.pop("memory_bytes"))
    reasons = {str(found) for r in run.results if (found := r.row["theory"].get("reason"))}
    return {
        "run": run,
        "title": title(run.report),
        "summary": summary(run),
        "repairs": REPAIRS,
        "reasons": sorted(reasons),
        "machine": machine,
        "plots": plots,
        "config": config,
    }


def title(report: Report) -> str:
    """The command, and of an experiment its name and size."""
    job, experiment = report["job"], report.get("experiment")
    return f"gfs {job} {experiment}, preset {report.get('preset')}" if experiment else f"gfs {job}"


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


def _cell(key: str, value: Any) -> str:
    hashed = key.endswith("sha256") and isinstance(value, str)
    return text.short_hash(value) if hashed else text.anything(value)


_TABLES = (advice_table, without_empty_columns, every_key, pairs, sizes_and_speeds, time_split)
FILTERS = {f.__name__: f for f in (*(getattr(text, name) for name in text.__all__), *_TABLES)}
"""By the names under which templates use them."""


def to_markdown(template: str, facts: dict[str, Any]) -> str:
    """The page as Markdown (GitHub's tables); plots by relative path."""
    return _body("markdown", template, facts).strip() + "\n"


def to_html(template: str, facts: dict[str, Any]) -> str:
    """The page as one HTML file; ``facts["title"]`` are words for the browser's tab."""
    body = _body("html", template, facts).strip()
    shell = _templates("html").get_template("shell.jinja")
    return shell.render(title=facts["title"], body=Markup(body)) + "\n"  # noqa: S704 - escaped


def _body(form: str, template: str, facts: dict[str, Any]) -> str:
    templates = _templates(form)
    doc = templates.get_template(f"{form}.jinja").module
    return templates.get_template(f"{template}.jinja").render(facts, doc=doc)


@cache
def _templates(form: str) -> Environment:
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=form == "html",  # noqa: S701 - Markdown is escaped by its own macros
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.do"],
    )
    templates.filters |= {**FILTERS, "line": _line, "fence": _fence, "inline": _inline}
    templates.globals |= FILTERS
    return templates


def _line(words: str) -> str:
    """One line, in which nothing begins a tag, and no bracket ends the words of a link."""
    line = " ".join(words.splitlines())
    line = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line)  # also between backticks: they may not pair
    return re.sub(r"\](?=[(\[:])", r"]\\", line)


def _fence(words: str) -> str:
    """Backticks around a block of code, more than there are in it."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", words)), default=0))


def _inline(words: str) -> Markup:
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(words))))  # noqa: S704 - escaped
