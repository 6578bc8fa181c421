"""Budgets as users write them, and what no network can meet."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gfs_dist.errors import BudgetError, ConfigError
from gfs_dist.pruning.widths.budget import Budget, allowed_widths, uniform_widths
from gfs_dist.pruning.widths.costs import Cost, Costs
from gfs_dist.pruning.widths.feasible import check_costs


def two_layers() -> Costs:
    """100 + 10 a + 3 a b + 7 b multiply-adds, 5 + a + b parameters; 10 and 20 channels."""
    macs = Cost(100, np.array([10, 7]), np.array([[0, 3], [0, 0]]))
    params = Cost(5, np.array([1, 1]), np.zeros((2, 2), np.int64))
    return Costs({"body.a": 10, "body.b": 20}, {"macs": macs, "params": params})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"macs": 0.5}, Budget({"macs": Fraction(1, 2)})),
        ({"macs": "50%"}, Budget({"macs": Fraction(1, 2)})),
        ({"params": "35.7 %", "macs": None}, Budget({"params": Fraction(357, 1000)})),
        ({"keep": 1}, Budget({"keep": Fraction(1)})),
        ({"tolerance": "0.02"}, Budget({"tolerance": Fraction(1, 50)})),
        ({"latency": 0.6, "batch": 64}, Budget({"latency": Fraction(3, 5)}, batch=64)),
        (
            {"macs": np.float64(0.1), "round_to": np.int64(8)},
            Budget({"macs": Fraction(1, 10)}, {}, 8),
        ),
        ({"widths": {"a": 3}}, Budget(widths={"a": 3})),
        ({"widths": {"a": 3}, "uniform": False}, Budget(widths={"a": 3})),
        ({"keep": 1, "uniform": True}, Budget({"keep": Fraction(1)}, uniform=True)),
        (
            {"params": "60%", "macs": 0.5, "trials": 9},
            Budget({"macs": Fraction(1, 2), "params": Fraction(3, 5)}, trials=9),
        ),
        ({"memory": 0.6, "batch": 9}, Budget({"memory": Fraction(3, 5)}, batch=9)),
        (
            {"latency": 0.6, "macs": 1, "batch": 2, "trials": 3},
            Budget({"macs": Fraction(1), "latency": Fraction(3, 5)}, batch=2, trials=3),
        ),
    ],
)
def test_budgets_are_read_as_users_write_them(given: dict[str, Any], expected: Budget) -> None:
    assert Budget.parse(given) == expected


def test_widths_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "widths.json"
    file.write_text(json.dumps({"body.a": 4}), encoding="utf-8")
    assert Budget.parse({"widths": file}).widths == {"body.a": 4}
    assert Budget.parse({"widths": str(file)}) == Budget.parse({"widths": {"body.a": 4}})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.5, r"^budget: found 0\.5, accepted a dict such as \{'macs': 0\.5\}$"),
        (
            {},
            r"^budget: found none, accepted one or more of macs, params, latency, memory, or "
            r"one of keep, tolerance, widths$",
        ),
        ({"macs": 0.5, "keep": 0.5}, r"^budget: found budget\.macs and budget\.keep, accepted one"),
        ({"keep": 0.5, "widths": {"a": 3}}, r"^budget: found budget\.keep and budget\.widths, acc"),
        (
            {"widths": {"a": 3}, "uniform": True},
            r"^budget\.uniform: found with budget\.widths, accepted with macs and params",
        ),
        (
            {"tolerance": 0.1, "uniform": True},
            r"^budget\.uniform: found with budget\.tolerance, acc",
        ),
        (
            {"macs": 0.1, "uniform": "yes"},
            r"^budget\.uniform: found 'yes', accepted True or False$",
        ),
        ({"macs": 0.5, "params": 0}, r"^budget\.params: found 0, accepted a share above 0"),
        (
            {"macs": 0.5, "params": 0.5, "batch": 2},
            r"^budget\.batch: found with budget\.macs and budget\.params, accepted with latency",
        ),
        ({"mac": 0.5}, r"^budget\.mac: unknown, accepted macs, .*; did you mean macs\?$"),
        (
            {"macs": 0},
            r"^budget\.macs: found 0, accepted a share above 0 and at most 1, as 0\.5 or",
        ),
        ({"macs": 1.01}, r"^budget\.macs: found 1\.01, accepted a share above 0 and at most 1"),
        ({"params": -0.5}, r"^budget\.params: found -0\.5, accepted a share"),
        ({"keep": "120%"}, r"^budget\.keep: found 120%, accepted a share"),
        ({"keep": "50%%"}, r"^budget\.keep: found 50%%, accepted a share"),
        ({"latency": float("nan")}, r"^budget\.latency: found nan, accepted a share"),
        ({"macs": True}, r"^budget\.macs: found True, accepted a share"),
        ({"macs": "1/0"}, r"^budget\.macs: found 1/0, accepted a share"),
        ({"macs": "half"}, r"^budget\.macs: found half, accepted a share"),
        (
            {"macs": 0.5, "round_to": 0},
            r"^budget\.round_to: found 0, accepted a whole number, 1 or",
        ),
        ({"macs": 0.5, "round_to": 1.5}, r"^budget\.round_to: found 1\.5, accepted a whole number"),
        (
            {"macs": 0.5, "batch": 2},
            r"^budget\.batch: found with budget\.macs, accepted with latency",
        ),
        (
            {"widths": {}},
            r"^budget\.widths: found \{\}, accepted layers and widths, or a JSON file",
        ),
        ({"widths": [3]}, r"^budget\.widths: found \[3\], accepted layers and widths"),
        ({"widths": {"a": "3"}}, r"^budget\.widths: a: found '3', accepted a whole number, 1 or"),
        ({"widths": {"a": 0}}, r"^budget\.widths: a: found 0, accepted a whole number, 1 or more$"),
        (
            {"widths": "/nope.json"},
            r"^budget\.widths: found /nope\.json, accepted layers and widths",
        ),
    ],
)
def test_bad_budgets_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Budget.parse(given)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_file_that_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "w.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^budget\.widths: .*w\.json is not JSON"):
        Budget.parse({"widths": tmp_path / "w.json"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"widths": {"body.aa": 3}},
            r"^budget\.widths: no layer 'body\.aa' .*did you mean body\.a\?",
        ),
        ({"widths": {"zzz": 3}}, r"^budget\.widths: no layer 'zzz' .*; accepted body\.a, body\.b$"),
        ({"widths": {"body.a": 11}}, r"body\.a: found 11, accepted a whole number from 1 to 10$"),
        (
            {"widths": {"body.a": 4}, "round_to": 8},
            r"body\.a: found 4, accepted a multiple of 8 from 8 to 10, or 10$",
        ),
    ],
)
def test_widths_that_do_not_fit_the_network_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_costs(Budget.parse(given), two_layers())


def test_impossible_budget_says_the_best_that_can_be_had() -> None:
    costs = two_layers()  # 940 multiply-adds dense, 120 with one channel in each layer
    with pytest.raises(
        BudgetError,
        match=r"^budget\.macs: found 12\.7% \(119 multiply-adds\), but with 1 channel in every "
        r"layer it is still 12\.77% \(120\): no widths cost less$",
    ) as caught:
        check_costs(Budget.parse({"macs": 0.127}), costs)
    assert caught.value.exit_code == 3
    check_costs(Budget.parse({"macs": "12.77%"}), costs)
    with pytest.raises(BudgetError, match=r"with 8 channels \(or all\) in every layer"):
        check_costs(Budget.parse({"params": 0.5, "round_to": 8}), costs)


def test_limit_is_exact() -> None:
    costs = Costs({"a": 1}, {"macs": Cost(99, np.array([1]), np.array([[0]]))})
    for share, limit in ((0.29, 29), ("29%", 29), (1, 100)):
        assert costs.limits(Budget.parse({"macs": share})) == {"macs": limit}
    both = two_layers().limits(Budget.parse({"params": 0.5, "macs": 0.3, "latency": 0.9}))
    assert both == {"macs": 282, "params": 17}


def test_of_several_limits_the_one_that_cannot_be_met_is_named() -> None:
    budget = Budget.parse({"macs": 0.9, "params": 0.1})
    with pytest.raises(BudgetError, match=r"^budget\.params: found 10% \(3 parameters\), but with"):
        check_costs(budget, two_layers())


def test_widths_to_choose_from() -> None:
    assert allowed_widths(5) == [1, 2, 3, 4, 5]
    assert allowed_widths(20, 8) == [8, 16, 20]
    assert allowed_widths(16, 8) == [8, 16]
    assert allowed_widths(6, 8) == [6]
    assert allowed_widths(20, 8, most=18) == [8, 16]
    assert allowed_widths(20, 8, most=5) == [5]
    assert Costs({"a": 6, "b": 20}, {}).least(8) == {"a": 6, "b": 8}


def test_uniform_widths_never_pass_the_share_but_for_the_least() -> None:
    channels = {"a": 100, "b": 5, "c": 2}
    assert uniform_widths(channels, Fraction("0.29")) == {"a": 29, "b": 1, "c": 1}
    assert uniform_widths(channels, Fraction("0.5"), 8) == {"a": 48, "b": 5, "c": 2}
    assert uniform_widths(channels, Fraction(1), 8) == channels
