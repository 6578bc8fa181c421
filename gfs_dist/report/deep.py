"""What the page of a run shows of networks that were pruned layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gfs_dist.report import text as words
from gfs_dist.report.document import Block, Heading, Paragraph, Table
from gfs_dist.report.facts import Result

REPAIRS = {
    "cut": "cut alone",
    "refit": "least-squares refit",
    "batch_norm": "batch norms measured again",
    "finetune": "fine-tuning",
}
"""Stages of ``accuracy_after``, in their order."""

COLUMNS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("result", lambda r: str(r.row.get("name", words.NOTHING))),
    ("iteration", lambda r: words.count(r.iteration)),
    ("objective", lambda r: str(r.row.get("objective") or words.NOTHING)),
    ("channels", lambda r: words.part(r.row.get("kept"), r.num_neurons)),
    ("multiply-adds", lambda r: words.part(r.row.get("macs"), r.dense.get("macs"))),
    ("parameters", lambda r: words.part(r.row.get("params"), r.dense.get("params"))),
    ("loss", lambda r: words.loss(r.loss)),
    ("dense loss", lambda r: words.loss(r.dense_loss)),
    ("accuracy", lambda r: words.percent(r.accuracy)),
    ("dense accuracy", lambda r: words.percent(r.dense_accuracy)),
    ("picks (SHA-256)", lambda r: words.short_hash(r.row.get("picks_sha256"))),
)


def what_was_run(results: Sequence[Result], ranks: int) -> list[Block]:
    """How the network was pruned, in a sentence."""
    first = results[0]
    objectives = words.listed(sorted({f"`{r.row.get('objective')}`" for r in results}))
    by = f" by {words.several(ranks, 'rank')}" if ranks else ""
    over = f" over {words.several(first.num_samples, 'image')}" if first.num_samples else ""
    weights = f", step weights `{first.weights}`" if first.weights else ""
    text = (
        f"Greedy forward selection of channels{by}, layer by layer{over}: objective "
        f"{objectives}{weights}. {words.several(len(first.prunable), 'layer')} could be pruned, "
        f"{len(first.skipped)} stay whole."
    )
    return [Heading(2, "What was run"), Paragraph(text)]


def sections(results: Sequence[Result]) -> list[Block]:
    """Results, repairs, size and speed, and the layers of each result."""
    rows = [[write(result) for _, write in COLUMNS] for result in results]
    blocks: list[Block] = [
        Heading(2, "Results"),
        Table.of([name for name, _ in COLUMNS], rows),
        *_repairs(results),
        *_size_and_speed(results),
    ]
    for result in results:
        blocks += _layers(result)
    return blocks


def _repairs(results: Sequence[Result]) -> list[Block]:
    rows = [
        [result.name, *(words.percent(result.accuracy_after.get(stage)) for stage in REPAIRS)]
        for result in results
    ]
    if not any(len(result.accuracy_after) > 1 for result in results):
        return []
    text = "Accuracy on the test split after each stage; every stage starts from the one before."
    return [
        Heading(2, "Repair"),
        Table.of(["result", *REPAIRS.values()], rows),
        Paragraph(text),
    ]


def _size_and_speed(results: Sequence[Result]) -> list[Block]:
    timed = list(dict.fromkeys((s.device, s.batch) for r in results for s in r.speeds))
    header = [
        "network",
        "multiply-adds",
        "parameters",
        "file",
        *(f"batch {batch}, {device}" for device, batch in timed),
    ]
    rows, seen = [], None
    for result in results:
        if result.dense != seen:
            seen = result.dense
            rows.append(_size_row("dense", result.dense, timed, {}))
        ratios = {(s.device, s.batch): s.dense_s / s.pruned_s for s in result.speeds}
        rows.append(_size_row(result.name, result.row, timed, ratios))
    text = "Times are medians of one forward pass; in brackets how many times as fast as dense."
    blocks: list[Block] = [Heading(2, "Size and speed"), Table.of(header, rows)]
    return [*blocks, Paragraph(text)] if timed else blocks


def _size_row(
    name: str,
    row: Mapping[str, Any],
    timed: Sequence[tuple[str, int]],
    ratios: Mapping[tuple[str, int], float],
) -> list[str]:
    seconds = {(s["device"], s["batch"]): s["median_s"] for s in row.get("latency") or []}
    times = [words.seconds(seconds.get(key)) for key in timed]
    notes = [f" ({ratios[key]:.2f})" if key in ratios else "" for key in timed]
    return [
        name,
        words.count(row.get("macs")),
        words.count(row.get("params")),
        words.memory(row.get("file_bytes")),
        *(time + note for time, note in zip(times, notes, strict=True)),
    ]


def _layers(result: Result) -> list[Block]:
    rows = [
        [
            layer["name"],
            words.count(layer["channels"]),
            words.part(layer.get("kept"), layer["channels"]),
            words.loss(layer.get("error")),
            words.count(layer.get("macs")),
        ]
        for layer in result.prunable
    ]
    blocks: list[Block] = [
        Heading(3, f"Layers of {result.name}"),
        Table.of(["layer", "channels", "kept", "error", "multiply-adds"], rows),
    ]
    if result.skipped:
        whole = [[s["name"], words.count(s["channels"]), s["reason"]] for s in result.skipped]
        header = ["layer that stays whole", "channels", "why"]
        blocks.append(Table(header, whole, text=True))
    return blocks
