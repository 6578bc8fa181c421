"""The card of a pruned network: what it is and how to use it, beside its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfs_dist.files import atomic
from gfs_dist.report.facts import Run
from gfs_dist.report.render import to_markdown
from gfs_dist.report.summary import repairs, speed


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
    """Write ``README.md`` into the folder of a pruned deep network.

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
