"""``gfs list``: the jobs of a cluster."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gfs_dist.config.cluster import OnCluster
from gfs_dist.service.cluster import find_cluster
from gfs_dist.service.jobs import Jobs
from gfs_dist.workflows.reporter import Reporter


def run(config: OnCluster, reporter: Reporter) -> dict[str, Any]:
    """Show them, the oldest first.

    Raises:
        ClusterError: no cluster, or none that may be used.
    """
    jobs = Jobs(find_cluster(config.runtime.address, insecure=config.insecure))
    found = jobs.list()
    reporter.table(
        f"jobs on {jobs.cluster.url}",
        ["id", "status", "exit code", "minutes", "run folder"],
        [[j.id, j.status, j.exit_code, j.minutes, j.run_folder] for j in found],
    )
    return {"cluster": jobs.cluster.url, "jobs": [asdict(job) for job in found]}
