"""The card of a pruned network: what it is and how to use it, beside its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfs_dist.files import atomic
from gfs_dist.report import deep_summary
from gfs_dist.report import text as words
from gfs_dist.report.document import Block, Bullets, Code, Heading, Paragraph, Table, to_markdown
from gfs_dist.report.facts import Result, results

FILE = "README.md"


@dataclass(frozen=True)
class Origin:
    """Where a pruned network comes from, in a few words each; empty where nobody knows.

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
    (result,) = (found for found in results(report, {}) if found.name == name)
    atomic.write_text(Path(folder) / FILE, to_markdown(card(result, report, origin)))


def card(result: Result, report: Mapping[str, Any], origin: Origin) -> list[Block]:
    """The whole card."""
    facts = [
        ("dense network", origin.network),
        ("its weights", origin.checkpoint),
        ("data", origin.data),
        ("budget", origin.budget),
        ("method", origin.method),
        ("inputs", origin.inputs),
    ]
    version = (report.get("versions") or {}).get("gfs-dist")
    made = f" by gfs-dist {version}" if version else ""
    found = [*deep_summary.speed(result), *deep_summary.repairs(result)]
    return [
        Heading(1, f"{origin.network}, pruned: {result.name}"),
        Paragraph(
            f"A physically smaller {origin.network}: channels were removed{made} by greedy forward "
            "selection, and its outputs were checked equal to those of the network in which the "
            "same channels are only switched off."
        ),
        Table(["fact", "value"], [[key, value] for key, value in facts if value], text=True),
        Heading(2, "Results"),
        _measured(result),
        *([Bullets(found)] if found else []),
        Heading(2, "How to load it"),
        _loading(origin),
        Heading(2, "Layers"),
        Table.of(
            ["layer", "channels", "kept"],
            [
                [row["name"], words.count(row["channels"]), words.count(row["kept"])]
                for row in result.prunable
            ],
        ),
        Heading(2, "Limits"),
        Bullets(_limits(result, report)),
    ]


def _loading(origin: Origin) -> Code:
    factory = f", factory={json.dumps(origin.factory)}" if origin.factory else ""
    return Code(
        "import gfs_dist\n\n"
        f'model = gfs_dist.load("PATH_OF_THIS_FOLDER"{factory})  # a torch.nn.Module, evaluating\n'
        f"logits = model(images)  # {origin.inputs or 'inputs as those of the dense network'}"
    )


def _measured(result: Result) -> Table:
    dense, row = result.dense, result.row
    rows = [
        [name, write(dense.get(key)), write(row.get(key))]
        for name, key, write in (
            ("accuracy on the test split", "accuracy", words.percent),
            ("loss on the data it was pruned on", "loss", words.loss),
            ("multiply-adds for one input", "macs", words.count),
            ("parameters", "params", words.count),
            ("size of the weights' file", "file_bytes", words.memory),
        )
    ]
    rows += [
        [
            f"time at batch {speed.batch} on {speed.device}",
            words.seconds(speed.dense_s),
            words.seconds(speed.pruned_s),
        ]
        for speed in result.speeds
    ]
    known = [cells for cells in rows if cells[1:] != [words.NOTHING] * 2]
    return Table(["measured", "dense", "pruned"], known)


def _limits(result: Result, report: Mapping[str, Any]) -> list[str]:
    lines = [
        "Measured on the test split of the data above and on nothing else; what the dense network "
        "gets wrong, or treats unfairly, this one may too, and more so in rare classes.",
    ]
    if "finetune" not in result.accuracy_after:
        lines.append(
            "It was not fine-tuned: `gfs finetune` on the training data usually wins accuracy back."
        )
    if result.speeds:
        machine = report.get("machine") or {}
        on = ", ".join(words.anything(machine[key]) for key in ("cpu", "gpus") if machine.get(key))
        lines.append(
            f"Times are of one machine{f' ({on})' if on else ''}; fewer multiply-adds do not make "
            "a network faster everywhere."
        )
    return lines
