"""``gfs reproduce experiment=theory``: cells on tiny networks, judgements of made-up ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gfs_dist.cli import main
from gfs_dist.data import DataSpec
from gfs_dist.experiments import theory, theory_findings, theory_thresholds
from gfs_dist.networks import TwoLayer
from gfs_dist.selection.path import GreedyPath
from gfs_dist.theory import Lemma1Constants

PICKS = theory.PICKS


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("theory") / "run"
    assert main(["reproduce", "experiment=theory", "runtime=none", f"out={out}"]) == 0
    return out


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_every_theorem_is_judged_and_drawn(smoke: Path) -> None:
    found = report(smoke)
    claims = {row["claim"]: row["verdict"] for row in found["tables"]["claims of the paper"]}
    for words, verdict in (
        ("Lemma 1: the loss of k picks is below its bound, with the dense", "holds"),
        ("Lemma 1: the loss of k picks is below its bound, with the least", "holds"),
        ("Theorem 1", "holds"),
        ("Theorem 7", "holds"),
        ("Theorem 2's step", "contradicted"),
        ("kappa grows", "contradicted"),
    ):
        assert [v for claim, v in claims.items() if claim.startswith(words)] == [verdict], words
    plots = {plot.stem for plot in (smoke / "plots").iterdir()}
    assert {"lemma1_bounds", "picks_that_help", "kappa_against_samples"} <= plots
    assert len(found["results"]) == len((smoke / "cells.csv").read_text().splitlines()) - 1


def test_written_again_it_says_the_same(smoke: Path) -> None:
    before = report(smoke)["tables"]
    stamps = [file.stat().st_mtime_ns for file in sorted((smoke / "cells").iterdir())]
    assert main(["reproduce", f"resume={smoke}", "runtime=none"]) == 0
    assert report(smoke)["tables"] == before
    assert stamps == [file.stat().st_mtime_ns for file in sorted((smoke / "cells").iterdir())]


def test_a_descent_measures_the_network_it_says() -> None:
    cell = theory.Descent("digits", 10, 60, 30, 4, 0, 7)
    setting = theory.Setting({"digits": DataSpec()})
    ticks: list[None] = []
    found = theory.DescentTask(setting).run(cell, torch.device("cpu"), lambda: ticks.append(None))
    assert [point["iteration"] for point in found["checkpoints"]] == [0, 1, 2, 4]
    assert len(ticks) >= found["iterations_done"] == 30
    x, y = setting.inputs(cell)
    network = TwoLayer.initialise(60, 64, "tanh", 7)
    dense = float(((network(x) - y) ** 2).mean().detach()) / 2
    assert found["checkpoints"][0]["dense_loss"] == pytest.approx(dense, rel=1e-12)
    losses = [point["dense_loss"] for point in found["checkpoints"]]
    assert losses == sorted(losses, reverse=True)
    json.dumps(found, allow_nan=False)


def test_the_tail_rate_is_that_of_an_exponential_above_rounding() -> None:
    losses = [math.exp(-0.3 * 0.2 * t) for t in range(2000)]
    assert theory.tail_rate(losses, 0.2) == pytest.approx(0.3)
    assert theory.tail_rate([1.0, 0.5, 1e-25], 0.2) is None


def test_a_path_is_held_against_its_bounds_from_the_second_pick_on() -> None:
    path = GreedyPath(3, [0, 1, 2], [0.5, 0.4, 0.2], [1.0, 0.5, 1 / 3], [None] * 3)
    constants = Lemma1Constants(0.5, 0.0, 0.1, exact=True)
    found = theory.path_facts(path, constants, 0.0)
    assert found["loss"] == [0.2] * len(PICKS)
    assert found["share_of_bound"]["hull"] == pytest.approx(0.4 / 0.25)
    assert found["share_of_bound"]["L_N"] == pytest.approx(0.4 / 0.3)
    assert found["picks_to_tolerance"] == 4
    assert found["neurons_to_good"] is None
    repeated = GreedyPath(3, [1, 1, 2, 0], [0.5, 0.4, 0.009, 0.0], [1.0] * 4, [None] * 4)
    assert theory.neurons_to_good(repeated) == 2


def point(iteration: int, few: float, many: float, hull: float = 0.1) -> dict[str, Any]:
    loss = [few * (k / 200) ** (math.log(many / few) / math.log(5)) for k in PICKS]
    path = {
        "loss": loss,
        "share_of_bound": {"L_N": 0.5, "hull": 0.6},
        "picks_to_tolerance": 3,
        "neurons_to_good": None if few > 0.01 else 7,
    }
    return {
        "iteration": iteration, "dense_loss": 0.5 * 0.5**iteration, "first_loss": 1.0,
        "diameter_squared": 4.0, "hull_loss": hull, "hull_gap": 1e-15,
        "uniform": path, "line_search": path, "least_squares": {"neurons_to_good": 4},
    }  # fmt: skip


def test_more_picks_help_from_the_checkpoint_at_which_the_path_is_steep() -> None:
    flat, steep = point(1, 0.1, 0.09), point(2, 0.1, 0.02)
    assert theory_thresholds.slope(flat, "uniform", PICKS) > -0.1
    assert theory_thresholds.slope(steep, "uniform", PICKS) == pytest.approx(-1)
    assert theory_thresholds.slope(point(4, 1e-13, 1e-13), "uniform", PICKS) == -math.inf

    def reached(row: dict[str, Any]) -> bool:
        return theory_thresholds.slope(row, "uniform", PICKS) <= -0.999

    series = {"checkpoints": [point(0, 0.1, 0.1), flat, steep, point(4, 0.1, 0.001)]}
    assert theory_thresholds.first_iteration(series, reached) == (1, 2)
    assert theory_thresholds.first_iteration({"checkpoints": [flat]}, reached) == (1, None)
    assert theory_thresholds.first_iteration({"checkpoints": [steep]}, reached) == (None, 2)


def descent(trial: int, **changes: Any) -> dict[str, Any]:
    points = [point(0, 0.1, 0.1), point(1, 0.1, 0.09), point(2, 0.1, 0.001, 0.0)]
    row = {
        "name": f"d{trial}", "data": "digits", "samples": 10, "width": 100, "trial": trial,
        "alpha": 2.0, "beta": 8.0, "rate": 0.01, "stable_step": 4.0, "rate_constant": 30.0,
        "stable_share": 0.3, "theory_step": 100.0, "output_bound": 16.0, "lr": 20.0,
        "measured_rate": 0.011, "end_rate": 0.01, "moved": 3.0, "checkpoints": points,
    }  # fmt: skip
    return row | changes


def spectra(power: float) -> list[dict[str, Any]]:
    return [
        {"data": name, "samples": m, "width": 400, "alpha": 1.0, "beta": float(m) ** (p / 2),
         "rate_constant": 30.0, "stable_share": 0.3}
        for name, p in (("digits", power), ("gaussian", 0.5))
        for m in (10, 20, 40, 80)
    ]  # fmt: skip


def verdicts(descents: list[dict[str, Any]], power: float = 2.0) -> dict[str, str]:
    found = theory_findings.findings(descents, spectra(power), PICKS)
    json.dumps([found.claims, found.tables, found.data, found.rows], allow_nan=False)
    return {claim["claim"][:14]: claim["verdict"] for claim in found.claims}


def test_verdicts_follow_what_was_measured() -> None:
    right = verdicts([descent(0), descent(1)])
    assert right["Theorem 7: the"] == "holds"
    assert right["Theorem 2's st"] == "contradicted"
    assert right["Theorem 2: the"] == "holds in part"  # the made-up dense loss falls faster
    assert right["kappa grows wi"] == "contradicted"
    slow = verdicts([descent(0, measured_rate=0.1, theory_step=0.5), descent(1)], power=0.6)
    assert slow["Theorem 7: the"] == "holds in part"
    assert slow["Theorem 2's st"] == "holds in part"
    assert slow["kappa grows wi"] == "holds"


def test_a_path_above_its_bound_contradicts_lemma_1() -> None:
    wrong = descent(0)
    for rule in theory_thresholds.RULES:
        wrong["checkpoints"][1][rule]["share_of_bound"] = {"L_N": 1.1, "hull": 1.2}
    found = theory_findings.findings([wrong], spectra(2.0), PICKS)
    assert [claim["verdict"] for claim in found.claims[:2]] == ["contradicted", "contradicted"]
    assert found.claims[0]["evidence"].startswith("2 of 6 paths")


def test_the_constants_of_theorem_3_are_those_of_the_kernel() -> None:
    printed, constants = theory_thresholds.theory_arguments(descent(0))
    share = printed["step_share"] * constants["rate_constant"] / printed["condition_number"] ** 2
    # c s / kappa^2 is c alpha^2 / N^2 times the step of the summed loss, lr / m.
    assert share == pytest.approx(30.0 * (2.0 / 100) ** 2 * 20.0 / 10)
    assert constants["sparsity_constant"] == 2.0
    assert np.isclose(printed["initial_loss"], 0.5)


def test_a_loss_that_grows_again_near_rounding_does_not_count() -> None:
    falling = [math.exp(-0.1 * t) for t in range(300)]
    growing = [falling[-1] * math.exp(0.01 * t) for t in range(1, 200)]
    found = theory.tail_rate([*falling, *growing], 0.5)
    assert found == pytest.approx(theory.tail_rate(falling, 0.5))
