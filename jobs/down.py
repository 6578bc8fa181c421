"""``gfs down``: end the cluster that ``gfs up`` started."""

from __future__ import annotations

from typing import Any

from gfs_dist.config.cluster import Down
from gfs_dist.service import local_cluster
from gfs_dist.workflows.reporter import Reporter


def run(_config: Down, reporter: Reporter) -> dict[str, Any]:
    """End all its processes and remove its files.

    Raises:
        RunError: a process cannot be ended.
    """
    reporter.plan(["end the cluster that gfs up started here"])
    ended = local_cluster.down(reporter.note)
    reporter.note("down" if ended else "nothing to do: gfs up has started no cluster")
    return {"ended": ended}
