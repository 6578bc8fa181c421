"""The card beside a pruned network."""

from __future__ import annotations

from pathlib import Path

import torch

from gfs_dist import report
from gfs_dist.files.untrusted import read_json
from gfs_dist.networks.storage.store import ARCHITECTURE
from gfs_dist.workflows import plan_text as deep_words
from gfs_dist.workflows.prune_deep_plan import DeepPlan
from gfs_dist.workflows.report_file import DeepReport


def write_card(deep_report: DeepReport, plan: DeepPlan, place: Path, name: str) -> None:
    """Write the card of result ``name``, which comes from the checkpoint at ``place``."""
    folder = deep_report.folder.model(name)
    facts = {
        "results": deep_report.rows,
        "machine": report.machine(),
        "versions": report.versions(),
    }
    report.write_card(folder, facts, name, _origin(plan, place, folder))


def _origin(plan: DeepPlan, place: Path, folder: Path) -> report.Origin:
    config, images = plan.config, plan.images
    stored = read_json(folder / ARCHITECTURE)
    mean, std = (", ".join(f"{x:.4g}" for x in values) for values in (images.mean, images.std))
    scaled = ", in [0, 1]" if images.x_train.dtype == torch.uint8 else ""
    shape = ", ".join(str(size) for size in images.x_train.shape[1:])
    return report.Origin(
        network=deep_words.network_words(plan.architecture),
        checkpoint=str(place),
        data=f"{config.data.name}, {len(plan.measures.rows):,} calibration images",
        inputs=f"float32 (N, {shape}){scaled}, less {mean}, over {std}",
        budget=deep_words.budget_title(plan.budget),
        method=f"{config.objective}, {config.weights} weights; repairs: "
        f"{', '.join(deep_words.repairs(config)) or 'none'}",
        factory="" if "graph" in stored else stored.get("factory", ""),
    )
