"""A network run in stages: each gives what it is asked for and keeps what is needed later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gfs_dist.networks.graph.graph_network import GraphNetwork, Step
from gfs_dist.networks.graph.json_values import TRAINING, needed
from gfs_dist.pruning.calibration.layer_sites import ancestors

Results = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """Steps to run, and the results that later stages need."""

    steps: tuple[Step, ...]
    live: frozenset[str]


def make_stages(network: GraphNetwork, asked: Sequence[frozenset[str]]) -> list[Stage]:
    """Which steps each stage has to run so that the results it is asked for are there.

    Args:
        network: recorded.
        asked: results that each stage is to give, in order.
    """
    above = ancestors(network)
    done = set(network.gfs_inputs)
    runs: list[tuple[Step, ...]] = []
    for names in asked:
        wanted = frozenset().union(*(above[name] for name in names))
        steps = tuple(s for s in network.gfs_program if s.name in wanted and s.name not in done)
        done |= {step.name for step in steps}
        runs.append(steps)
    stages: list[Stage] = []
    later: set[str] = set()
    for steps, names in zip(reversed(runs), reversed(list(asked)), strict=True):
        stages.append(Stage(steps, frozenset(later)))
        for step in steps:
            later |= step.needs
        later |= names
    return stages[::-1]


@torch.no_grad()
def advance(network: GraphNetwork, stage: Stage, results: Results) -> Results:
    """All results after a stage, those that nobody needs any more included."""
    results = {TRAINING.name: False, **results}
    for step in stage.steps:
        results[step.name] = network.run_step(step, results)
    return results


def keep(results: Results, names: frozenset[str]) -> Results:
    """Those of the results that have one of the names."""
    return {name: value for name, value in results.items() if name in names}


def output_names(network: GraphNetwork) -> frozenset[str]:
    """The results that make up the network's output."""
    return frozenset(needed(network.gfs_output))
