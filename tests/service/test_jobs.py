"""Following a job on a cluster that goes away."""

from __future__ import annotations

import pytest

from gfs_dist.errors import ClusterLostError
from gfs_dist.service.cluster import Cluster
from gfs_dist.service.jobs import Job, Jobs

JOB = Job("a-1", "a", 1, "prune", "RUNNING", "/run", "0", "", 1.0, None, None, "")


@pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # Ray's client says that to aiohttp
def test_a_cluster_lost_while_following_is_a_failure_not_wrong_usage(dashboard) -> None:
    dashboard.pages["/api/jobs/"] = []
    jobs = Jobs(Cluster(dashboard.url, dashboard.token, own=False, source="test"))
    for lose in (lambda: None, dashboard.close):  # a head that forgot the job, then none at all
        lose()
        with pytest.raises(ClusterLostError, match=r"^a-1: its cluster was lost") as caught:
            jobs.follow(JOB, print)
        assert caught.value.exit_code == 1
