"""The record of quality: scores of others find what is idle, budgets are met, cells are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.errors import RunFolderError
from gfs_dist.pruning.structure.discover import find_structure
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.pruning.widths.costs import Costs, measure_costs
from tools.records import baselines, quality_rows
from tools.records.record import Cells

IDLE = {"first": (1, 4), "second": (0, 2, 5)}
WIDTHS = {"first": 6, "second": 8}
USEFUL = {name: tuple(sorted(set(range(n)) - set(IDLE[name]))) for name, n in WIDTHS.items()}
LEARNT = [name for name in baselines.IMPORTANCES if name != "random"]


class Planted(nn.Module):
    """Channels whose weights, norms and readers are all nearly zero, among others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second, self.norm2 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)
        readers = {"first": self.second, "second": self.head}
        norms = {"first": self.norm1, "second": self.norm2}
        with torch.no_grad():
            for name, idle in IDLE.items():
                self.get_submodule(name).weight[list(idle)] *= 1e-3
                norms[name].weight[list(idle)] *= 1e-3
                readers[name].weight[:, list(idle)] *= 1e-3

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm1(self.first(x)))
        x = functional.relu(self.norm2(self.second(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return Planted().eval()


@pytest.fixture(scope="module")
def batches() -> baselines.Batches:
    torch.manual_seed(1)
    x, labels = torch.randn(20, 3, 6, 6), torch.randint(3, (20,))
    return list(zip(x.split(8), labels.split(8), strict=True))


@pytest.fixture(scope="module")
def structure(model: nn.Module, batches: baselines.Batches) -> Structure:
    return find_structure(model, batches[0][0][:2])


@pytest.fixture(scope="module")
def costs(model: nn.Module, batches: baselines.Batches, structure: Structure) -> Costs:
    return measure_costs(model, batches[0][0][:2], structure)


@pytest.mark.parametrize("name", LEARNT)
def test_scores_rank_planted_channels_above_idle_ones(
    name: str, model: nn.Module, structure: Structure, batches: baselines.Batches
) -> None:
    for layer, scores in baselines.score(name, model, structure, batches).items():
        assert scores[list(USEFUL[layer])].min() > 10 * scores[list(IDLE[layer])].max()


def test_hessian_takes_squares_of_every_sample_into_account(
    model: nn.Module, structure: Structure, batches: baselines.Batches
) -> None:
    """By definition: |w|^2 times the mean squared gradient, over weights that a channel has."""
    found = baselines.score("hessian", model, structure, batches)["second"]
    squares = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, labels in batches:
        for i in range(len(x)):
            model.zero_grad()
            functional.cross_entropy(model(x[i : i + 1]), labels[i : i + 1]).backward()
            for name, p in model.named_parameters():
                squares[name] += p.grad**2 / 20
    shares = {
        name: (model.get_parameter(name).detach() ** 2 * squares[name])
        for name in ("second.weight", "norm2.weight", "head.weight")
    }
    expected = shares["second.weight"].sum((1, 2, 3)) + shares["norm2.weight"]
    expected += shares["head.weight"].sum(0)
    torch.testing.assert_close(found, (expected / expected.mean()).double(), rtol=1e-4, atol=1e-9)


def test_random_scores_follow_their_seed(
    model: nn.Module, structure: Structure, batches: baselines.Batches
) -> None:
    first, again, other = (
        baselines.score("random", model, structure, batches, seed)["second"] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("keeper", [baselines.keep_local, baselines.keep_global])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 1.0])
def test_budgets_are_met_and_used_up(keeper: Any, share: float, costs: Costs) -> None:
    torch.manual_seed(2)
    scores = {name: torch.rand(n).double() for name, n in WIDTHS.items()}
    limit = int(share * costs.dense("macs"))
    kept = keeper(scores, costs, limit)
    widths = baselines.widths_of(kept)
    assert costs.of("macs", widths) <= limit
    for name, width in widths.items():
        assert kept[name] == tuple(sorted(scores[name].topk(width).indices.tolist()))
        if width < WIDTHS[name]:
            assert costs.of("macs", {**widths, name: width + 1}) > limit


def test_finished_cells_are_not_made_again(tmp_path: Path) -> None:
    path, made = tmp_path / "cells.json", []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"cut": 0.5}

    first = Cells(path, {"samples": 128}).once("a", make)
    assert Cells(path, {"samples": 128}).once("a", make) == first
    assert first["cut"] == 0.5
    assert len(made) == 1


def test_cells_of_other_facts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    Cells(path, {"samples": 128}).once("a", dict)
    with pytest.raises(RunFolderError, match="samples: found 128, this run has 1024"):
        Cells(path, {"samples": 1024})


def cell(method: str, widths: str, draw: int | None = None, **values: float) -> dict[str, Any]:
    drawn = {} if draw is None else {"draw": draw}
    return {"budget": "50 %", "method": method, "widths": widths, **drawn, "seconds": 1.0, **values}


CELLS = {
    "dense": {"accuracy": 0.9, "seconds": 1.0},
    "cut/1": cell("random", "local", 0, macs=0.5, cut=0.1, batch_norm=0.2),
    "cut/2": cell("random", "local", 1, macs=0.5, cut=0.2, batch_norm=0.4),
    "cut/3": cell("least_squares", "measured", macs=0.5, cut=0.3, batch_norm=0.5),
    "refit/3": cell("least_squares", "measured", refit=0.85),
    "cut/4": cell("network_loss, uniform", "measured", macs=0.5, cut=0.4, batch_norm=0.5),
    "refit/4": cell("network_loss, uniform", "measured", refit=0.8),
}


class TestRows:
    def test_best_comes_first_and_draws_are_averaged(self) -> None:
        rows = quality_rows.make_rows(CELLS)
        methods = [row["method"] for row in rows]
        assert methods == ["least_squares", "network_loss, uniform", "random"]
        assert rows[0]["refit"] == 0.85
        assert rows[2]["batch_norm"] == pytest.approx(0.3)
        assert rows[2]["refit"] is None

    def test_fine_tuned_networks_are_told_and_do_not_change_the_ranking(self) -> None:
        tuned = {"finetune/4": cell("network_loss, uniform", "measured", finetune=0.89)}
        rows = quality_rows.make_rows({**CELLS, **tuned})
        assert [row["finetune"] for row in rows] == [None, 0.89, None]
        words = quality_rows.findings({**CELLS, **tuned})
        assert "fine-tuned: network_loss, uniform (measured widths) 89.00 %" in words

    def test_the_best_score_is_the_best_learnt_one_recalibrated(self) -> None:
        scores = {
            "cut/5": cell("l1", "local", 0, cut=0.3, batch_norm=0.35),
            "cut/6": cell("l2", "global", 0, cut=0.2, batch_norm=0.36),
        }
        found = quality_rows.best_score({**CELLS, **scores}, "50 %")
        assert found == {"budget": "50 %", "method": "l2", "widths": "global", "draw": 0}
        assert quality_rows.best_score(CELLS, "50 %") is None

    def test_findings_say_where_losses_rise(self) -> None:
        paths = {"a": {"loss": [2.0, 3.0, 0.0]}, "b": {"loss": [2.0, 1.0, 0.0]}}
        words = quality_rows.findings({**CELLS, "search/fisher, uniform": {"paths": paths}})
        assert words.endswith("above that of one channel: fisher, uniform in 1 of 2.")
        assert "one channel" not in quality_rows.findings(CELLS)

    def test_findings_go_without_what_is_not_measured_yet(self) -> None:
        cells = {name: cell for name, cell in CELLS.items() if not name.startswith("refit")}
        words = quality_rows.findings(cells)
        assert "network_loss is the best before any repair" in words
        assert "refitted" not in words

    def test_cells_of_other_code_are_told(self) -> None:
        same = {"a": {"source": "x"}, "b": {"source": "x"}}
        assert quality_rows.sources(same) == []
        (note,) = quality_rows.sources({**same, "c": {"source": "y"}})
        assert note.endswith("2 states of the package: 2 by x, 1 by y")

    def test_findings_say_where_the_papers_rule_is_not_the_best(self) -> None:
        words = quality_rows.findings(CELLS)
        assert "best of ours least_squares (measured widths)" in words
        assert "best score recalibrated random (local widths) 30.00 %" in words
        assert "55.00 points ahead of the best of the scores in any form" in words
        assert "the paper's rule on network_loss is the best before any repair" in words
        assert (
            "the paper's rule on network_loss is not the best refitted: 80.00 %, "
            "least_squares (measured widths) 85.00 %" in words
        )

    def test_repairs_of_streams_are_told_beside_the_refit_alone(self) -> None:
        def repaired(inner: str, whole: float, steps: int, accuracy: float) -> dict[str, Any]:
            facts = {"inner": inner, "whole": whole, "steps": steps, "accuracy": accuracy}
            return {**facts, "repair_s": 9.0, "seconds": 20.0}

        cells = {
            "streams/0.35/200": repaired("0.35", 0.357, 200, 0.85),
            "streams/0.35/0": repaired("0.35", 0.357, 0, 0.83),
            "streams/0.5/0": repaired("0.5", 0.505, 0, 0.87),
            "tuned/0.35/0/300": {"inner": "0.35", "steps": 0, "for": 300, "tuned": 0.86},
        }
        rows = quality_rows.stream_rows({**CELLS, **cells})
        assert [(row["of all"], row["steps"]) for row in rows] == [
            (0.505, 0),
            (0.357, 0),
            (0.357, 200),
        ]
        assert [row["accuracy"] for row in rows] == [0.87, 0.83, 0.85]
        tuned = [row.get("fine-tuned, 300 iterations") for row in rows]
        assert tuned == [None, 0.86, None]
        assert quality_rows.make_rows({**CELLS, **cells}) == quality_rows.make_rows(CELLS)
