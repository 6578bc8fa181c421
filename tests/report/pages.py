"""The page of a run as Markdown, and the tables in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gfs_dist.report.facts import Run
from gfs_dist.report.render import page as facts_of
from gfs_dist.report.render import to_markdown


def page(report: Mapping[str, Any], paths: Mapping[str, Any]) -> str:
    """The page without its plots, which take most of the time of writing."""
    return to_markdown("report", facts_of(Run.read(report, paths), [], None))


def table(markdown: str, heading: str, number: int = 0) -> list[dict[str, str]]:
    """A table after a heading, as dicts of words."""
    part = markdown.split(f"# {heading}\n\n", 1)[1].split("\n#")[0]
    blocks = [block for block in part.split("\n\n") if block.startswith("|")]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in blocks[number].splitlines()
    ]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
