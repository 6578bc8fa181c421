"""How long a lost rank costs: ``python -m tools.records.recovery_times local ray``.

Prints, over repeats, the median and the range of the time from the fault to its detection and
from there to the first new step.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from gfs_dist.bench.model.timing_model import spread
from gfs_dist.records import FaultRow
from gfs_dist.runtime import Fault, RuntimeSpec, open_runtime
from gfs_dist.selection.stop import Stop
from tests.runtime.problems import matrix_problem
from tools.records.record import keep

REPEATS = 5
CASES = {
    "killed, fresh worker": ("kill", 0),
    "killed, idle spare": ("kill", 1),
    "stopped (floor 2 s), fresh worker": ("stop", 0),
}


def measure(kind: str, fault: str, spares: int) -> list[tuple[float, float]]:
    """(detected_s, recovered_s) of each repeat.

    A repeat is a search of 60 picks with a fault before the 30th (two generations), and one of
    400 picks that gives a new spare the time to come up.
    """
    problem = matrix_problem(step_s=0.01)
    schedule = [Fault(1, 30, fault, generation=1 + 3 * n) for n in range(REPEATS)]
    rows: list[FaultRow] = []
    spec = RuntimeSpec(kind, workers=2, spares=spares, threads=1, hang_floor_s=2.0)
    with open_runtime(spec, schedule) as runtime:
        runtime.search(problem, Stop(steps=400))
        for _ in range(REPEATS):
            rows += runtime.search(problem, Stop(steps=60)).faults
            runtime.search(problem, Stop(steps=400))
    return [(row["detected_s"] or math.nan, row["recovered_s"] or math.nan) for row in rows]


def main() -> None:
    """Measure the kinds named on the command line, print and keep what was found."""
    rows = []
    for kind in sys.argv[1:]:
        for name, (fault, spares) in CASES.items():
            times = measure(kind, fault, spares)
            row: dict[str, Any] = {"runtime": kind, "fault": name, "repeats": len(times)}
            for place, what in enumerate(("detected_s", "recovered_s")):
                row[what] = spread([pair[place] for pair in times])
            rows.append(row)
    keep(
        "recovery",
        "python -m tools.records.recovery_times " + " ".join(sys.argv[1:]),
        rows,
        [
            "2 ranks, 10 ms a step; detected_s: from the fault to its detection; recovered_s: "
            "from there to the first new step",
        ],
    )


if __name__ == "__main__":
    main()
