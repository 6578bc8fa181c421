"""``gfs benchmark suite=guard``: what got worse is told, and fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gfs_dist.bench import guard
from gfs_dist.bench.guard import RATIOS, compared, read_record, refuse_worse
from gfs_dist.cli import main
from gfs_dist.errors import ConfigError, WorseError

RECORD = Path(__file__).parents[1] / "records" / "guard.json"
WIDE = 10.0
QUICK = ("lazy over exhaustive", "streaming over exhaustive", "screened over exhaustive")


def test_a_ratio_is_measured() -> None:
    assert RATIOS["lazy over exhaustive"](1, 0) > 0


@pytest.mark.slow
def test_ratios_are_not_far_from_their_record() -> None:
    recorded = read_record(RECORD)
    rows = [compared(name, RATIOS[name](3, 0), recorded, WIDE) for name in QUICK]
    assert [row for row in rows if row["worse"] is not False] == []


def test_record_has_every_ratio() -> None:
    assert read_record(RECORD).keys() == RATIOS.keys()


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "RATIOS", {"one": lambda *_: 4.0, "two": lambda *_: 1.0})


def write_record(path: Path, **ratios: float) -> Path:
    rows = [{"name": name, "ratio": ratio} for name, ratio in ratios.items()]
    path.write_text(json.dumps({"results": rows}))
    return path


@pytest.mark.usefixtures("fixed")
def test_what_got_worse_fails_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = write_record(tmp_path / "record.json", one=9.0, two=1.9)
    words = ["benchmark", "suite=guard", f"record={record}"]
    assert main([*words, f"out={tmp_path / 'run'}"]) == 1
    told = capsys.readouterr()
    assert "guard: worse by more than 2 times: one 4, was 9" in told.err
    assert "two" not in told.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [row["worse"] for row in report["results"]] == [True, False]
    assert report["status"] == "failed"
    assert main([*words, "margin=3", f"out={tmp_path / 'wide'}"]) == 0


@pytest.mark.usefixtures("fixed")
def test_a_run_is_a_record(tmp_path: Path) -> None:
    assert main(["benchmark", "suite=guard", f"out={tmp_path / 'one'}"]) == 0
    record = f"record={tmp_path / 'one' / 'report.json'}"
    assert main(["benchmark", "suite=guard", record, f"out={tmp_path / 'two'}"]) == 0
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert [row["recorded"] for row in report["results"]] == [4.0, 1.0]


def test_what_is_not_in_the_record_is_not_compared() -> None:
    assert compared("new", 2.0, {}, 2.0)["worse"] is None
    with pytest.raises(WorseError, match="worse by more than 5 times: a 1, was 6"):
        refuse_worse([compared("a", 1.0, {"a": 6.0}, 5.0)], 5.0)


@pytest.mark.parametrize(
    "text", [None, "no json", "[]", "[" * 10**5, '{"results": [{"name": "x"}]}']
)
def test_files_that_are_no_record_are_refused(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "record.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match="record: .* cannot be read"):
        read_record(file)


def test_a_pipe_named_as_a_record_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "record.json")
    with pytest.raises(ConfigError, match="record: .* cannot be read"):
        read_record(tmp_path / "record.json")


def test_a_record_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="record: found none of lazy over exhaustive"):
        read_record(write_record(tmp_path / "record.json", other=1.0))
