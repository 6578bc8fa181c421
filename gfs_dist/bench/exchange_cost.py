"""What exchanges cost on these workers, without any search."""

from __future__ import annotations

from collections.abc import Sequence

from gfs_dist.bench.bare import BareExchanges
from gfs_dist.bench.model import Exchange
from gfs_dist.bench.suite import Row, runtime_spec
from gfs_dist.config import commands as schema
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.workflows.reporter import Reporter

GROUPS = (2, 4)
ROUNDS = 300
SIZES = (2**12, 2**18, 2**22)
DECISION, BROADCAST = "two reductions of 8 bytes", "broadcast"


def measure_exchanges(config: schema.Benchmark, reporter: Reporter) -> list[Row]:
    """The reductions of a step and broadcasts, in groups of 2 and 4 ranks on CPUs.

    They are ranks of the kind that the configuration asks for, local ones where it asks for none.
    """
    rows: list[Row] = []
    for ranks in GROUPS:
        reporter.phase(f"exchanges of {ranks} ranks")
        spec = (
            RuntimeSpec("local", ranks, "cpu", 1)
            if config.runtime.kind == "none"
            else runtime_spec(config, ranks, 1, "cpu")
        )
        with open_runtime(spec) as runtime:
            found = runtime.run_group(BareExchanges(ROUNDS, SIZES)).value
        rows += [
            {
                "workers": ranks,
                "runtime": spec.kind,
                "exchange": DECISION if size == 16 else BROADCAST,
                "bytes": size,
                "seconds": seconds,
            }
            for size, seconds in found.items()
        ]
        reporter.note(
            f"{DECISION}, {ranks} ranks: {rows[-1 - len(SIZES)]['seconds']['median'] * 1e6:.0f} us"
        )
    return rows


def exchange_of(rows: Sequence[Row]) -> Exchange:
    """The model of an exchange that fits what was measured; a decision is two of 8 bytes.

    What bytes cost is that of broadcasts: reductions of as many take up to twice as long.
    """
    points = []
    for row in rows:
        seconds, decision = row["seconds"]["median"], row["exchange"] == DECISION
        size = row["bytes"] // 2 if decision else row["bytes"]
        points.append((row["workers"], size, seconds / 2 if decision else seconds))
    return Exchange.fit(points)
