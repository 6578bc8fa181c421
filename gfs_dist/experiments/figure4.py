"""Figure 4: the time to prune the blocks of ResNet34 by more and more workers (Appendix D).

Each block is one run of ``gfs benchmark suite=appendix_d`` for it, with ranks of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gfs_dist.bench.appendix_d import AppendixDSuite
from gfs_dist.bench.suite import SuiteReport
from gfs_dist.config import commands as schema
from gfs_dist.config.compose import compose
from gfs_dist.experiments.grid import Findings, Grid, Row

BLOCKS = ("layer1.2.conv1", "layer2.3.conv1", "layer3.5.conv1", "layer4.2.conv1")
"""The last layer of each of the four blocks, which differ in channels and size of images."""

PRESETS = {
    "smoke": ("preset=smoke", "workers=[1,2]"),
    "cpu": (
        "preset=smoke", "workers=[1,2]", "image_size=64", "images=32", "batch=32", "steps=16",
        "candidates=50", "repeats=3",
    ),
    "gpu": ("preset=paper", "workers=[1,2,4]"),
    "full": ("preset=paper", "workers=[1,2,4]"),
}  # fmt: skip
"""Words of ``gfs benchmark``."""

PAPER_OBJECTIVE = "network_loss"
NO_GAIN = 1.1
"""A speed-up below this is none."""


@dataclass(frozen=True)
class BlockCell:
    """A block to search by every number of workers."""

    layer: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"block_{self.layer}"


class Figure4:
    """The study of Appendix D at the scale of a preset."""

    def __init__(self, config: schema.Reproduce) -> None:
        kind = "ray" if config.runtime.kind == "ray" else "local"
        words = ("suite=appendix_d", *PRESETS[config.preset], f"objectives=[{PAPER_OBJECTIVE}]",
                 f"seed={config.seed}", f"device={config.device}", f"runtime={kind}")  # fmt: skip
        self.cells = [BlockCell(layer, words) for layer in BLOCKS]
        suite = AppendixDSuite(_configuration(self.cells[0]))
        self.lines = [
            f"blocks    {', '.join(BLOCKS)}: one after another, each with workers of its own",
            *suite.plan(),
        ]

    def run(self, grid: Grid) -> Findings:
        found = Findings()
        for cell in grid.measure("block", _measure, self.cells):
            found.rows += [{"name": f"{r['block']} {r['measured']} {r['workers']}", **r}
                           for r in cell["rows"]]  # fmt: skip
            for title, rows in cell["tables"].items():
                found.tables.setdefault(title, []).extend(rows)
            found.notes += [f"{cell['layer']}: {note}" for note in cell["notes"]]
        shown = ("block", "channels", "size", "workers", "measured", "seconds", "speedup")
        times = [{key: _shown(row.get(key)) for key in shown} for row in found.rows]
        found.tables = {"time to prune a block": times, **found.tables}
        _judge(found)
        return found


def _configuration(cell: BlockCell) -> Any:
    return compose("benchmark", [*cell.words, f"layers=[{cell.layer}]"])


def _measure(cell: BlockCell, grid: Grid) -> Mapping[str, Any]:
    config = _configuration(cell)
    report = _Collected(config, grid.folder, grid.reporter, [])
    AppendixDSuite(config).measure(report)
    return {"rows": report.rows, "tables": report.tables, "notes": report.notes}


class _Collected(SuiteReport):
    """Rows and tables of a suite that another job reports."""

    def keep(self, status: str = "stopped", error: BaseException | None = None) -> None: ...

    def show(self, *_: Any) -> None: ...


def _shown(value: Any) -> Any:
    return value["median"] if isinstance(value, dict) else value


def _judge(found: Findings) -> None:
    """The paper's claims on speed-ups, of ranks at once, or timed alone where none were."""
    best: dict[str, Row] = {}
    for row in found.rows:
        if row["measured"] in ("whole", "critical path") and row["workers"] > 1:
            known = best.get(row["block"])
            # At once counts more than alone, then more workers.
            if known is None or _rank(row) > _rank(known):
                best[row["block"]] = row
    gains = {block: row["speedup"] for block, row in best.items()}
    if not gains:
        return
    faster = sum(gain > NO_GAIN for gain in gains.values())
    how = {f"{row['workers']} workers, {row['measured']}" for row in best.values()}
    said = ", ".join(f"{block} {gain:.2f}" for block, gain in gains.items())
    found.claim(
        "several workers are clearly faster for nearly all blocks",
        "holds" if faster >= len(gains) - 1 else "holds in part" if faster else "contradicted",
        f"times as fast as one ({'; '.join(sorted(how))}): {said}",
    )
    second = gains.get(BLOCKS[1])
    if second is not None:
        found.claim(
            "the second block, which has few channels, gains nothing",
            "contradicted" if second > NO_GAIN else "holds",
            f"{second:.2f} times as fast",
        )
    values = list(gains.values())
    found.claim(
        "the more channels, the larger the gain",
        "holds" if values == sorted(values) else
        "holds in part" if values[-1] > values[0] else "contradicted",
        f"in the order of channels: {', '.join(f'{value:.2f}' for value in values)}",
    )  # fmt: skip
    found.notes += [
        "The paper's times are in the image alone, of RTX 3090s with public code which sends a "
        "mini-batch through the whole network for each candidate: what stands under 'full "
        "forwards' here. Weights and images are random: times depend on shapes only.",
    ]


def _rank(row: Row) -> tuple[bool, int]:
    return row["measured"] == "whole", row["workers"]
