"""The time of a whole job, on a clock of our own."""

from __future__ import annotations

from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.total_time import TotalTime, duration


class Notes(Reporter):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


def test_the_total_is_told_once_steps_of_a_part_are_measured() -> None:
    told, now = Notes(), [0.0]
    timed = TotalTime(told, {"measure": 3, "prune": 1, "size": 1, "repair": 0}, lambda: now[0])

    def step(done: int, at: float, **facts: object) -> None:
        now[0] = at
        timed.step(done, **facts)

    timed.phase("measure the dense network", 40)
    step(0, 1.0)
    step(1, 10.0)  # what came before the first step is no measure
    step(2, 10.5)
    assert told.lines == []
    step(5, 12.0)
    unknown = "; not measured yet: "
    assert told.lines == [f"time      about 60 s in all: measure 60 s{unknown}prune, size"]
    step(40, 30.0)
    timed.phase("prune a", 1000)
    step(1, 30.5)
    step(1000, 30.75)  # too short to be measured on the way
    timed.phase("size a")
    known = "measure 60 s, prune 1 s"
    assert told.lines[1:] == [f"time      about 61 s in all: {known}{unknown}size"]
    step(1, 31.0, at_most=800)
    step(3, 33.0, at_most=800)
    assert told.lines[2:] == [f"time      about 14 min in all: {known}, size 13 min"]
    timed.phase("export a", 5)
    step(5, 99.0)
    timed.phase("prune b", 1000)
    step(1000, 199.0)
    assert len(told.lines) == 3


def test_durations_are_as_round_as_an_estimate() -> None:
    assert [duration(s) for s in (0.2, 60.01, 100, 5999, 9000)] == [
        "1 s", "61 s", "2 min", "100 min", "2.5 h",
    ]  # fmt: skip
