"""Records of older and newer versions are read as those of this one."""

from __future__ import annotations

import copy
import json
from typing import Any, get_type_hints

import pytest

from gfs_dist.errors import CheckpointError
from gfs_dist.files.untrusted import read_json
from gfs_dist.records import LayerRow, PathFile, Report, ResultRow, read_path, read_report


def test_a_report_without_anything_can_be_read_everywhere() -> None:
    report = read_report({})
    assert report["status"] == "finished"
    for key in ("results", "faults", "notes"):
        assert report[key] == []
    assert report["timing"]["ranks"] == []
    assert "job" not in report


def test_what_an_older_report_lacks_is_filled_in() -> None:
    old: dict[str, Any] = {
        "format": 1,
        "job": "prune",
        "dense": None,
        "results": [{"name": "a", "loss": 0.5, "theory": None, "layers": [{"name": "conv"}]}],
        "timing": {"ranks": [{"compute_s": 1.0}, {"rank": 7}]},
        "faults": [{"time": 1.0, "rank": 0, "kind": "killed"}],
    }
    given = copy.deepcopy(old)
    report = read_report(old)
    [row] = report["results"]
    assert (row["loss"], row["accuracy"], row["theory"]) == (0.5, None, {})
    assert row["layers"] == [
        {"name": "conv", "kept": None, "error": None, "macs": None, "reason": None}
    ]
    assert [rank["rank"] for rank in report["timing"]["ranks"]] == [0, 7]
    assert report["faults"][0]["recovered_s"] is None
    assert old == given


def test_what_is_not_known_stays() -> None:
    report = read_report({"job": "prune", "new": 1, "results": [{"name": "a", "newer": [2]}]})
    assert json.loads(json.dumps(report))["new"] == 1
    assert report["results"][0]["newer"] == [2]  # type: ignore[typeddict-item]
    assert read_path({"picks": [1], "newest": 3})["newest"] == 3  # type: ignore[typeddict-item]


def test_rows_of_a_benchmark_are_left_as_they_are() -> None:
    rows = [{"method": "panel", "seconds": {"median": 0.5}}]
    assert read_report({"job": "benchmark", "results": rows})["results"] == rows


def test_a_newer_format_is_refused(tmp_path: Any) -> None:
    (tmp_path / "report.json").write_text('{"format": 2}')
    with pytest.raises(CheckpointError, match="found format 2, accepted 1"):
        read_json(tmp_path / "report.json")


def test_only_known_keys_are_filled_in() -> None:
    """A key that is misspelt where defaults are would never be read."""
    report = read_report({"results": [{"name": "a", "layers": [{}]}], "faults": [{}]})
    assert set(report) <= set(get_type_hints(Report))
    [row] = report["results"]
    assert set(row) <= set(get_type_hints(ResultRow))
    assert set(row["layers"][0]) <= set(get_type_hints(LayerRow))
    assert set(read_path({})) <= set(get_type_hints(PathFile))
