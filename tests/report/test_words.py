"""Numbers as words."""

from __future__ import annotations

import pytest

from gfs_dist.report import text as words


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (0.0, "0.00 s"),
        (31.234, "31.23 s"),
        (0.0421, "42.1 ms"),
        (0.00005, "50 us"),
    ],
)
def test_seconds(value, expected):
    assert words.seconds(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, "yes"), (40551040, "40,551,040"), (0.5, "0.5"), ([], "none"), (["a", 1], "a, 1")],
)
def test_anything(value, expected):
    assert words.anything(value) == expected


def test_shares_are_percentages():
    assert words.percent(0.9296) == "92.96 %"


def test_lists_are_read_aloud():
    assert words.listed(["a"]) == "a"
    assert words.listed(["a", "b", "c"]) == "a, b and c"


def test_memory_has_a_fitting_unit():
    assert words.memory(3 * 2**30) == "3.0 GiB"
    assert words.memory(2**20) == "1.0 MiB"
