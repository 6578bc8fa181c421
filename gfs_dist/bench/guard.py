"""``suite=guard``: a few ratios, measured again, against an earlier run.

Ratios of two times of one run hold from machine to machine where seconds do not. Every ratio says
how many times as fast ours is as something else, so that less is worse; each side is the least of
some repeats, which other work on the machine disturbs least.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gfs_dist.bench.guard_ratios import RATIOS
from gfs_dist.bench.suite import Bench, Row, tell_rows
from gfs_dist.config import commands as schema
from gfs_dist.errors import ConfigError, WorseError
from gfs_dist.files.untrusted import load_json
from gfs_dist.workflows.reporter import Reporter

MARGIN = 2.0
REPEATS = {"smoke": 3, "paper": 10}


def run(config: schema.Benchmark, reporter: Reporter) -> dict[str, Any]:
    """Measure, and write the run folder; returns what ``report.json`` holds.

    Raises:
        WorseError: a ratio is worse than its record.
    """
    margin = config.margin or MARGIN
    recorded = {} if config.record is None else read_record(Path(config.record))
    lines = _words(config, margin)
    reporter.plan(lines)
    with Bench.opened(config, reporter, lines) as bench:
        reporter.phase("guard", len(RATIOS))
        repeats = config.repeats or REPEATS[config.preset]
        for number, (name, measure) in enumerate(RATIOS.items(), start=1):
            bench.rows.append(compared(name, measure(repeats, config.seed), recorded, margin))
            reporter.step(number)
        tell_rows(reporter, "ratios: more is better", bench.rows, tuple(bench.rows[0]))
        refuse_worse(bench.rows, margin)
    return bench.content


def compared(name: str, ratio: float, recorded: Mapping[str, float], margin: float) -> Row:
    """One row; what has no record is not compared."""
    before = recorded.get(name)
    worse = None if before is None else ratio * margin < before
    return {"name": name, "ratio": ratio, "recorded": before, "worse": worse}


def refuse_worse(rows: list[Row], margin: float) -> None:
    """Fail if anything got worse.

    Raises:
        WorseError: names all that did.
    """
    worse = [row for row in rows if row["worse"]]
    if worse:
        found = "; ".join(f"{r['name']} {r['ratio']:.3g}, was {r['recorded']:.3g}" for r in worse)
        raise WorseError(f"guard: worse by more than {margin:g} times: {found}")


def read_record(file: Path) -> dict[str, float]:
    """Ratios by name, of a report or record.

    Raises:
        ConfigError: no such file, or none of our ratios in it.
    """
    try:
        rows = load_json(file)["results"]
        ratios = {row["name"]: float(row["ratio"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"record: {file} cannot be read ({type(error).__name__}), accepted the report.json of "
            "an earlier suite=guard, or its record"
        ) from error
    if not ratios.keys() & RATIOS.keys():
        raise ConfigError(f"record: found none of {', '.join(RATIOS)} in {file}")
    return ratios


def _words(config: schema.Benchmark, margin: float) -> list[str]:
    against = (
        "nothing to compare with: record=FILE names an earlier run"
        if config.record is None
        else f"worse: less than 1/{margin:g} of {config.record}"
    )
    return [
        f"{len(RATIOS)} ratios of times, each side the least of some repeats: {', '.join(RATIOS)}",
        against,
    ]
