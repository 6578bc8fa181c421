"""``gfs doctor``: checks this machine and the cluster before a job needs them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from gfs_dist.config.cluster import Doctor
from gfs_dist.service.doctor import FAIL, OK, examine
from gfs_dist.workflows.reporter import Reporter


def run(config: Doctor, reporter: Reporter) -> dict[str, Any]:
    """Look, and say a line for each thing; ``exit_code`` is 1 if anything failed."""
    address = config.runtime.address
    checks = examine(Path(config.out), address, insecure=config.insecure)
    width = max(len(check.name) for check in checks)
    for check in checks:
        cure = "" if check.state == OK else f" -> {check.cure}"
        reporter.note(f"{check.state:4}  {check.name:{width}}  {check.found}{cure}")
    failed = sum(check.state == FAIL for check in checks)
    reporter.note(f"{failed} of {len(checks)} checks failed" if failed else "nothing is wrong")
    return {"checks": [asdict(check) for check in checks], "exit_code": int(failed > 0)}
