from __future__ import annotations

import io
import re

import pytest

from gfs_dist.cli.display import PROGRESS, PlainReporter, Progress, duration, show
from gfs_dist.cli.live import LiveReporter
from gfs_dist.files import RunFolder
from gfs_dist.workflows.reporter import PlannedOnly, Reporter


class Clock:
    """Seconds that pass when told to."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(reporter: Reporter) -> None:
    reporter.plan(["prune 2 checkpoints"])
    reporter.run_folder(RunFolder("runs/x"))
    reporter.phase("train", 10)
    reporter.step(5, loss=0.123456789)
    reporter.phase("prune [1/2]", 20)
    reporter.step(7, 0.5, kept=3, workers=2)
    reporter.note("rank 1 was lost and replaced")
    reporter.table("result", ["name", "loss", "kept"], [["[a]", 0.25, 1000], ["b", None, 3]])
    reporter.next(["gfs evaluate runs/x/models/a"])


def test_plain_lines_tell_the_whole_run() -> None:
    stream = io.StringIO()
    work(PlainReporter(stream, clock=Clock()))
    assert stream.getvalue().splitlines() == [
        "prune 2 checkpoints",
        "train",
        "train: step 5/10, loss 0.12346, took 0.0 s",
        "prune [1/2]",
        "rank 1 was lost and replaced",
        "prune [1/2]: step 7/20, loss 0.5, kept 3, took 0.0 s",
        "",
        "result",
        "name  loss   kept",
        " [a]  0.25  1,000",
        "   b     -      3",
        "",
        "run folder: runs/x",
        "next: gfs evaluate runs/x/models/a",
    ]


def test_progress_is_a_few_lines_a_minute() -> None:
    stream, clock = io.StringIO(), Clock()
    reporter = PlainReporter(stream, line_every_s=15, clock=clock)
    reporter.phase("prune", 1000)
    for done in range(1, 481):
        clock.now_s += 0.125
        reporter.step(done, loss=0.5, kept=9)
    lines = stream.getvalue().splitlines()
    assert 4 <= len(lines) <= 5
    assert lines[1] == "prune: step 120/1000, loss 0.5, kept 9, 8 steps/s, 1:50 left"


def test_rate_forgets_a_slow_beginning() -> None:
    progress = Progress("x", 1000, 0.0)
    progress.update(100.0, 1)
    for k in range(1, 31):
        progress.update(100.0 + k, 1 + 10 * k)
    assert progress.rate == pytest.approx(10.0)
    assert progress.left_s == pytest.approx(69.9)


def test_rate_leaves_the_wait_for_the_first_step_out() -> None:
    progress = Progress("x", 10, 0.0)
    progress.update(5.0, 0, state="setup")
    progress.update(9.0, 1)
    assert progress.line() == "step 1/10"
    progress.update(9.5, 4)
    assert progress.rate == pytest.approx(6.0)
    assert progress.line() == "step 4/10, 6 steps/s, 1.0 s left"


def test_rate_leaves_out_what_a_resumed_run_had_done_before() -> None:
    progress = Progress("x", 1000, 0.0)
    progress.update(2.0, 500)
    assert progress.line() == "step 500/1000"
    progress.update(4.0, 510)
    assert progress.line() == "step 510/1000, 5 steps/s, 1:38 left"


def test_a_job_that_knows_the_time_left_tells_it() -> None:
    progress = Progress("train", 9, began_s=0.0)
    progress.update(100.0, 1, left_s=410.0, cell="a")
    progress.update(101.0, 2, left_s=350.0, cell="b")
    assert progress.line() == "step 2/9, 5:50 left, cell b"


def test_rate_and_time_left_are_not_guessed() -> None:
    progress = Progress("x", None, 0.0)
    progress.update(2.0, 5)
    assert (progress.rate, progress.left_s) == (None, None)
    progress.update(4.0, 10)
    assert (progress.rate, progress.left_s) == (2.5, None)
    assert progress.line() == "step 10, 2.5 steps/s"


def test_live_display_shows_the_same_facts() -> None:
    stream = Terminal()
    reporter = LiveReporter(stream)
    work(reporter)
    reporter.close()
    seen = stream.getvalue()
    for fact in (
        "prune 2 checkpoints",
        "train",
        "prune [1/2]",
        "step 7/20",
        "loss 0.5",
        "kept 3",
        "rank 1 was lost",
        "[a]",
        "1,000",
        "runs/x",
        "gfs evaluate",
    ):
        assert fact in seen, fact


def test_live_display_can_be_closed_at_any_time() -> None:
    for steps in range(3):
        terminal = Terminal()
        reporter = LiveReporter(terminal)
        if steps:
            reporter.phase("train", 3)
        if steps > 1:
            reporter.step(1)
        reporter.close()
        shown = terminal.getvalue()
        reporter.close()
        assert terminal.getvalue() == shown


@pytest.mark.parametrize("columns", ["0", "1", "39"])
def test_a_terminal_without_room_gets_plain_lines(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert not LiveReporter(Terminal()).has_room
    monkeypatch.setenv("COLUMNS", "40")
    assert LiveReporter(Terminal()).has_room
    monkeypatch.setenv("TERM", "dumb")
    assert not LiveReporter(Terminal()).has_room


def test_a_table_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ["iteration", "dense accuracy", "run folder"]
    row = [100000, 0.987654321, "/somewhere/on/storage/runs/prune-922c391b71"]
    for width, drawn in (("200", True), ("60", False)):
        monkeypatch.setenv("COLUMNS", width)
        terminal = Terminal()
        LiveReporter(terminal).table("result", columns, [row])
        assert ("┏" in terminal.getvalue()) == drawn
        for cell in ("100,000", "0.98765", row[2]):
            assert str(cell) in terminal.getvalue()


def test_lines_of_another_process_are_shown_as_they_are_and_move_bars_on_a_terminal() -> None:
    said = io.StringIO()
    clock = Clock()
    work(PlainReporter(said, line_every_s=0.0, clock=clock))
    lines = said.getvalue().splitlines()
    assert any(PROGRESS.fullmatch(line) for line in lines)

    again = io.StringIO()
    for line in lines:
        PlainReporter(again).relay(line)
    assert again.getvalue() == said.getvalue()

    terminal = Terminal()
    reporter = LiveReporter(terminal)
    for line in lines:
        reporter.relay(line)
    reporter.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    bars = [line for line in shown.splitlines() if "━" in line]
    assert any(line.startswith("prune [1/2] ") and "step 7/20" in line for line in bars)
    left = [line for line in lines if not PROGRESS.fullmatch(line)]
    assert [line for line in left if line.strip() and line not in shown] == []
    assert shown.rstrip().splitlines()[-1].strip() == lines[-1]  # below the bars


def test_dry_run_ends_after_the_plan() -> None:
    reporter = PlainReporter(io.StringIO(), dry_run=True)
    with pytest.raises(PlannedOnly):
        reporter.plan(["a", "b"])
    assert reporter.planned == ["a", "b"]


def test_nobody_needs_to_listen(capsys) -> None:
    work(Reporter())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (1234567, "1,234,567"),
        (0.123456789, "0.12346"),
        (3.0, "3"),
        ("x", "x"),
    ],
)
def test_values_are_short(value: object, text: str) -> None:
    assert show(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0.2 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1:00"), (3661, "1:01:01")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
