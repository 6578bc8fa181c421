"""``gfs list``: the jobs of a cluster."""

from __future__ import annotations

from typing import Any

from gfs_dist.config.cluster import OnCluster
from gfs_dist.workflows.follow_job import facts_of, of_config
from gfs_dist.workflows.reporter import Reporter


def run(config: OnCluster, reporter: Reporter) -> dict[str, Any]:
    """Show them, the oldest first.

    Raises:
        ClusterError: no cluster, or none that may be used.
    """
    jobs = of_config(config)
    found = jobs.list()
    reporter.table(
        f"jobs on {jobs.cluster.url}",
        ["id", "status", "exit code", "minutes", "run folder"],
        [[j.id, j.status, j.exit_code, _minutes(j.seconds), j.run_folder] for j in found],
    )
    return {"cluster": jobs.cluster.url, "jobs": [facts_of(job) for job in found]}


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds / 60, 1)
