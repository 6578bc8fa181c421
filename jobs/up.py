"""``gfs up``: a real Ray cluster on this machine."""

from __future__ import annotations

import shlex
from typing import Any

from gfs_dist.config.cluster import Up
from gfs_dist.service import local_cluster, state
from gfs_dist.workflows.reporter import Reporter


def run(config: Up, reporter: Reporter) -> dict[str, Any]:
    """Start it; returns where it is.

    Raises:
        InputError: one of another size is up.
        RunError: a node did not come up; nothing is left.
    """
    reporter.plan([f"start a Ray head and {config.workers} workers here, with a token"])
    cluster = local_cluster.up(config.workers, reporter.note)
    token = shlex.quote(str(state.token_file()))
    reporter.note(
        "other programs join it with: "
        f"RAY_ADDRESS={cluster.address} RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={token}"
    )
    reporter.next(["gfs submit prune", "gfs list", "gfs down"])
    return {
        "address": cluster.address,
        "dashboard": cluster.dashboard,
        "token_file": str(state.token_file()),
        "workers": cluster.workers,
        "pids": [node.process.pid for node in cluster.nodes],
    }
