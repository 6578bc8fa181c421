"""Write the pages and plots of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gfs_dist.errors import InputError
from gfs_dist.files import atomic
from gfs_dist.report import document, facts
from gfs_dist.report import sections as content


def write(
    folder: str | Path, report: Mapping[str, Any], paths: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write ``report.md``, ``report.html`` and ``plots/*.png`` into a run folder.

    What a run has no facts for is left out: a stopped run, one without accuracy or theory gives
    a shorter page. The configuration is quoted from the folder's ``config.yaml`` if it is there.

    Args:
        folder: the run folder; made if it does not exist.
        report: what ``report.json`` holds. A result may also have ``theory`` (``bound``,
            ``diameter_squared``, ``exact``, ``first_loss``; or only ``reason``, why there is no
            bound), ``stop_reason`` and ``evaluated_share``; one with ``layers``, and the dense
            network of the same, ``file_bytes`` and ``latency`` (rows ``batch device median_s``);
            the report ``command``, ``error``, ``notes`` (list of lines) and ``tables`` (rows by
            title). A rank's
            ``exchange_s`` is with its ``wait_s`` in it.
        paths: path files' contents by the name of their result; of a result with ``layers`` by
            the name of the layer in it.

    Raises:
        InputError: the report has no job.
        StorageError: a file could not be written.
    """
    # Matplotlib costs most of a second and is needed here only.
    from gfs_dist.report import benchmark_plots as scaling_plots
    from gfs_dist.report import plots

    if "job" not in report:
        raise InputError("report: found no `job`, accepted a dict as in report.json")
    folder = Path(folder)
    results = facts.results(report, paths)
    drawn = plots.draw(results, report.get("timing") or {}, facts.training(report))
    drawn |= scaling_plots.draw(report)
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8") if config.is_file() else None
    page = content.page(report, results, list(drawn), text)

    with atomic.storage_errors(folder / "plots"):
        (folder / "plots").mkdir(parents=True, exist_ok=True)
    for name, data in drawn.items():
        atomic.write_bytes(folder / "plots" / name, data)
    images = {f"plots/{name}": data for name, data in drawn.items()}
    atomic.write_text(folder / "report.md", document.to_markdown(page))
    atomic.write_text(folder / "report.html", document.to_html(content.title(report), page, images))
