"""What an item of a map costs beyond its work: ``python -m tools.records.map_times local ray``.

Prints, for empty items and for items that take a while, the time an item beyond its work.
"""

from __future__ import annotations

import statistics
import sys

from gfs_dist.runtime import RuntimeSpec, open_runtime
from tests.runtime.tasks import Square

REPEATS = 5


def overhead_ms(kind: str, workers: int, item_s: float, num_items: int) -> list[float]:
    """Milliseconds an item in which its rank did not work on it, of each repeat."""
    task, times = Square(item_s), []
    with open_runtime(RuntimeSpec(kind, workers=workers, threads=1)) as runtime:
        runtime.map(task, range(num_items))
        for _ in range(REPEATS):
            ranks = runtime.map(task, range(num_items)).timing["ranks"]
            times.append(1e3 * sum(row["wait_s"] for row in ranks) / num_items)
    return times


def main() -> None:
    """Measure the kinds named on the command line."""
    for kind in sys.argv[1:]:
        for workers, item_s, num_items in ((1, 0.0, 300), (2, 0.0, 300), (2, 0.05, 80)):
            times = overhead_ms(kind, workers, item_s, num_items)
            print(
                f"{kind}, {workers} workers, items of {item_s:g} s: median "
                f"{statistics.median(times):.2f} ms, {min(times):.2f} to {max(times):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
