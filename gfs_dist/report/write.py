"""Write the pages and plots of a run folder, and the card of each pruned network in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfs_dist.errors import InputError
from gfs_dist.files import atomic
from gfs_dist.records import Paths
from gfs_dist.report.facts import Run
from gfs_dist.report.render import page, to_html, to_markdown
from gfs_dist.report.summary import repairs, speed


def write(folder: str | Path, report: Mapping[str, Any], paths: Paths) -> None:
    """Write ``report.md``, ``report.html`` and ``plots/*.png`` into a run folder.

    What a run has no facts for is left out: a stopped run, one without accuracy or theory gives
    a shorter page. The configuration is quoted from the folder's ``config.yaml`` if it is there.

    Args:
        folder: the run folder; made if it does not exist.
        report: what ``report.json`` holds (:class:`gfs_dist.records.Report`), of any version.
        paths: what the path files hold, by result and layer.

    Raises:
        InputError: the report has no job.
        StorageError: a file could not be written.
    """
    # Matplotlib costs most of a second and is needed here only.
    from gfs_dist.report import plots

    if "job" not in report:
        raise InputError("report: found no `job`, accepted a dict as in report.json")
    folder = Path(folder)
    run = Run.read(report, paths)
    config = folder / "config.yaml"
    quoted = config.read_text(encoding="utf-8") if config.is_file() else None
    drawn = plots.draw(run)
    facts = page(run, drawn, quoted)

    with atomic.storage_errors(folder / "plots"):
        (folder / "plots").mkdir(parents=True, exist_ok=True)
    for plot in drawn:
        atomic.write_bytes(folder / "plots" / plot.file, plot.png)
    atomic.write_text(folder / "report.md", to_markdown("report", facts))
    atomic.write_text(folder / "report.html", to_html("report", facts))


@dataclass(frozen=True)
class Origin:
    """Where a pruned network comes from, in a few words each; empty where it is not known.

    Attributes:
        network: ``resnet20_cifar``.
        checkpoint: the weights it had.
        data: ``cifar10, 1,024 calibration images``.
        inputs: what it takes: ``float32 (N, 3, 32, 32), in [0, 1], less mean ..., over ...``.
        budget: ``50% of the multiply-adds``.
        method: ``least_squares, uniform weights; repairs: refit, batch norms``.
        factory: that :func:`gfs_dist.load` needs; empty if it needs none.
    """

    network: str
    checkpoint: str = ""
    data: str = ""
    inputs: str = ""
    budget: str = ""
    method: str = ""
    factory: str = ""


def write_card(folder: str | Path, report: Mapping[str, Any], name: str, origin: Origin) -> None:
    """Write ``README.md`` into the folder of a pruned deep network: what it is and how to use it.

    Args:
        folder: ``models/NAME``.
        report: what ``report.json`` holds.
        name: of the result in it.
        origin: where the network comes from.

    Raises:
        StorageError: the file could not be written.
    """
    run = Run.read({"job": "prune", **report}, {})
    (result,) = (found for found in run.results if found.name == name)
    facts = {
        "report": run.report,
        "r": result,
        "origin": origin,
        "found": [*speed(result), *repairs(result)],
        "factory": f", factory={json.dumps(origin.factory)}" if origin.factory else "",
    }
    atomic.write_text(Path(folder) / "README.md", to_markdown("card", facts))
