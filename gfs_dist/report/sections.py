"""The page of a run: which facts stand where."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gfs_dist.report import deep
from gfs_dist.report import text as words
from gfs_dist.report.document import (
    Block,
    Bullets,
    Code,
    Heading,
    Paragraph,
    Plot,
    Table,
)
from gfs_dist.report.facts import Result, time_split
from gfs_dist.report.summary import summary

CAPTIONS = {
    "loss_against_neurons.png": "Loss of the pruned network against the number of distinct neurons "
    "it keeps; dashed, in the same colour, the dense network it came from.",
    "loss_against_steps.png": "Loss after each greedy step, with the dense network's loss and the "
    "bound of Lemma 1 where the lemma applies.",
    "accuracy_against_training.png": "Accuracy on the test split at each checkpoint.",
    "accuracy_against_pretraining.png": "Accuracy on the test split of the dense and the pruned "
    "network against the iterations of pre-training.",
    "kept_width_per_layer.png": "Channels of each layer that could be pruned, in forward order, "
    "and how many of them are kept.",
    "error_against_width.png": "Error of each layer against the share of its channels that it "
    "keeps, along its greedy path; dots mark the widths that were chosen (on the axis: errors too "
    "small to be shown).",
    "accuracy_against_macs.png": "Accuracy on the test split against multiply-adds: every result "
    "of the run, and the dense network.",
    "time_per_rank.png": "Where the time of each rank went.",
    **{
        f"blocks_{objective}.png": "Left: seconds to prune each block; hatched, ranks that were "
        "timed one after another, of which the slowest of every stretch is added up. Right: the "
        "same as speed-up over one worker; dotted, what a calibrated model expects of more, with "
        "two standard errors; black, the ideal."
        for objective in ("network_loss", "layer_output", "least_squares")
    },
}

Column = tuple[str, Callable[[Result], str]]

COLUMNS: tuple[Column, ...] = (
    ("result", lambda r: str(r.row.get("name", words.NOTHING))),
    ("iteration", lambda r: words.count(r.iteration)),
    ("kept", lambda r: words.count(r.row.get("kept"))),
    ("steps", lambda r: words.count(len(r.losses) or None)),
    ("loss", lambda r: words.loss(r.loss)),
    ("dense loss", lambda r: words.loss(r.dense_loss)),
    ("Lemma 1 bound", lambda r: words.loss(r.bound[-1] if r.bound else None)),
    ("accuracy", lambda r: words.percent(r.accuracy)),
    ("dense accuracy", lambda r: words.percent(r.dense_accuracy)),
    ("multiply-adds", lambda r: words.count(r.row.get("macs"))),
    ("parameters", lambda r: words.count(r.row.get("params"))),
    ("evaluated", lambda r: words.percent(r.row.get("evaluated_share"), 1)),
    ("ended by", lambda r: r.row.get("stop_reason") or words.NOTHING),
    ("picks (SHA-256)", lambda r: words.short_hash(r.row.get("picks_sha256"))),
)
RANK_TIMES = ("set-up", "joining", "compute", "exchange", "wait")


def title(report: Mapping[str, Any]) -> str:
    """The page's title: the job."""
    return f"gfs {report['job']}"


def page(
    report: Mapping[str, Any], results: Sequence[Result], plots: Sequence[str], config: str | None
) -> list[Block]:
    """The whole page, without the sections that the run has no facts for.

    Args:
        report: the run's report.json.
        results: its results with their paths.
        plots: names of the plots that were drawn.
        config: the run's configuration as text.
    """
    return [
        Heading(1, title(report)),
        Bullets(summary(report, results)),
        *_what_was_run(report, results),
        *_results(report, results),
        *_plots(plots),
        *_tables(report.get("tables") or {}),
        *_theory(results),
        *_timing(report.get("timing") or {}),
        *_faults(report.get("faults") or []),
        *_reproduce(report, config),
    ]


def _what_was_run(report: Mapping[str, Any], results: Sequence[Result]) -> list[Block]:
    ranks = len((report.get("timing") or {}).get("ranks") or [])
    if any(r.deep for r in results):
        return deep.what_was_run([r for r in results if r.deep], ranks)
    pruned = [r for r in results if r.losses]
    if not pruned:
        return []
    first = pruned[0]
    objectives = sorted({str(r.row.get("objective")) for r in pruned})
    by = f" by {words.several(ranks, 'rank')}" if ranks else ""
    text = (
        f"Greedy forward selection{by} on {words.several(len(pruned), 'checkpoint')} of a network "
        f"with {words.count(first.num_neurons)} neurons, over "
        f"{words.count(first.num_samples)} samples: objective `{words.listed(objectives)}`, "
        f"step weights `{first.weights}`."
    )
    return [Heading(2, "What was run"), Paragraph(text)]


def _results(report: Mapping[str, Any], results: Sequence[Result]) -> list[Block]:
    if not results:
        return []
    if all(result.deep for result in results):
        return deep.sections(results)
    if not any("loss" in result.row for result in results):
        return [Heading(2, "Results"), _plain_table([result.row for result in results])]
    blocks: list[Block] = [Heading(2, "Results")]
    dense = report.get("dense") or {}
    sizes = [
        f"{words.count(dense[key])} {name}"
        for key, name in (("macs", "multiply-adds"), ("params", "parameters"))
        if dense.get(key) is not None
    ]
    if sizes:
        blocks.append(Paragraph(f"The dense network has {words.listed(sizes)}."))
    rows = [[write(result) for _, write in COLUMNS] for result in results]
    blocks.append(Table.of([name for name, _ in COLUMNS], rows))
    return blocks


def _plots(names: Sequence[str]) -> list[Block]:
    if not names:
        return []
    return [Heading(2, "Plots"), *(Plot(f"plots/{name}", CAPTIONS[name]) for name in names)]


def _tables(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Block]:
    found: list[Block] = []
    for title, rows in tables.items():
        if rows:
            found += [Heading(2, title.capitalize()), _plain_table(rows)]
    return found


def _theory(results: Sequence[Result]) -> list[Block]:
    bounded = [r for r in results if r.bound]
    if not bounded:
        reasons = sorted({str(r.theory["reason"]) for r in results if r.theory.get("reason")})
        return [Heading(2, "Theory"), Paragraph(f"{'. '.join(reasons)}.")] if reasons else []
    text = (
        "Lemma 1 bounds the loss after k picks: "
        "`L[u_k] <= L[u_1]/k + log(k)/(2k) D^2 + (k-1)/k L_N`, where `L[u_1]` is the loss of the "
        "best single neuron, `D` the largest distance between the outputs of two neurons over all "
        "samples, and `L_N` the loss of the dense network. All are measured on the data that was "
        "pruned on, as means over samples. Its first two terms vanish as k grows; what is left is "
        "the dense loss, which only pre-training lowers."
    )
    rows = [
        [
            r.label,
            words.loss(r.theory.get("first_loss")),
            words.loss(r.theory.get("diameter_squared")),
            "measured" if r.theory.get("exact") else "upper bound",
            words.loss(r.dense_loss),
            words.loss(r.bound[-1]),
            words.loss(r.losses[-1]),
            "yes" if r.first_above_bound is None else f"no, from pick {r.first_above_bound}",
        ]
        for r in bounded
    ]
    header = [
        "checkpoint",
        "L[u_1]",
        "D^2",
        "D is",
        "L_N",
        "bound, last step",
        "loss, last step",
        "holds",
    ]
    return [Heading(2, "Theory"), Paragraph(text), Table(header, rows)]


def _timing(timing: Mapping[str, Any]) -> list[Block]:
    if not timing:
        return []
    phases = [
        f"{name} {words.seconds(timing[key])}"
        for name, key in (
            ("in total", "total_s"),
            ("set-up", "setup_s"),
            ("steps", "steps_s"),
            ("exchange", "exchange_s"),
            ("wait", "wait_s"),
        )
        if timing.get(key) is not None
    ]
    blocks: list[Block] = [Heading(2, "Time"), Paragraph(f"The job took {', '.join(phases)}.")]
    ranks = timing.get("ranks") or []
    if ranks:
        rows = [_rank_row(rank, position) for position, rank in enumerate(ranks)]
        header = ["rank", "host", *RANK_TIMES, "peak memory", "messages", "bytes sent"]
        text = (
            "Seconds of each rank, all searches together: `exchange` is the time inside exchanges "
            "that the network costs, `wait` the time in them that slower ranks cost."
        )
        blocks += [Table.of(header, rows), Paragraph(text)]
    return blocks


def _rank_row(rank: Mapping[str, Any], position: int) -> list[str]:
    split = time_split(rank)
    return [
        str(rank.get("rank", position)),
        str(rank.get("host") or words.NOTHING),
        *(words.seconds(split.get(name)) for name in RANK_TIMES),
        words.memory(rank.get("peak_rss_bytes")),
        words.count(rank.get("messages")),
        words.count(rank.get("bytes")),
    ]


def _faults(faults: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not faults:
        return []
    rows = [
        [
            words.clock(fault.get("time")),
            str(fault.get("rank", words.NOTHING)),
            str(fault.get("kind", words.NOTHING)),
            words.count(fault.get("step")),
            words.seconds(fault.get("detected_s")),
            words.seconds(fault.get("recovered_s")),
            str(fault.get("reason") or words.NOTHING),
        ]
        for fault in faults
    ]
    header = ["time", "rank", "kind", "step", "noticed after", "recovered after", "reason"]
    return [Heading(2, "Faults"), Table.of(header, rows)]


def _reproduce(report: Mapping[str, Any], config: str | None) -> list[Block]:
    blocks: list[Block] = [Heading(2, "How to reproduce")]
    if report.get("command"):
        blocks.append(Code(str(report["command"])))
    machine = dict(report.get("machine") or {})
    if "memory_bytes" in machine:
        machine["memory"] = words.memory(machine.pop("memory_bytes"))
    if machine:
        rows = [[key, words.anything(value)] for key, value in machine.items()]
        blocks += [Heading(3, "Machine"), Table(["fact", "value"], rows, text=True)]
    versions = report.get("versions") or {}
    if versions:
        blocks += [
            Heading(3, "Versions"),
            Table(["package", "version"], [[k, str(v)] for k, v in versions.items()], text=True),
        ]
    if config:
        blocks += [Heading(3, "Configuration"), Code(config)]
    return blocks if len(blocks) > 1 else []


def _plain_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of unknown meaning, every key a column."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return Table.of(
        [key.replace("_", " ") for key in keys],
        [[_plain(key, row.get(key)) for key in keys] for row in rows],
    )


def _plain(key: str, value: Any) -> str:
    hashed = key.endswith("sha256") and isinstance(value, str)
    return words.short_hash(value) if hashed else words.anything(value)
