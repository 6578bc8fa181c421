"""Ranks: worker processes and Ray actors, their process groups, watchdog and recovery.

Searches by the loop of ``gfs_dist.selection``, maps and group tasks; no loss or network is here.

with open_runtime(RuntimeSpec(kind="local", workers=2)) as runtime:
    result = runtime.search(problem, Stop(steps=200))
    values = runtime.map(task, items)
    trained = runtime.run_group(group_task).value
"""

from __future__ import annotations

from gfs_dist.runtime.fault_injection import Fault
from gfs_dist.runtime.graph import make_graph
from gfs_dist.runtime.progress import (
    GroupProgress,
    GroupResult,
    MapProgress,
    MapResult,
    OnItem,
    OnProgress,
    Phase,
    Progress,
    RuntimeObserver,
    SearchResult,
    Work,
    WorkProgress,
    WorkResult,
)
from gfs_dist.runtime.runtime import InProcessRuntime, Runtime, WorkerRuntime, open_runtime
from gfs_dist.runtime.spec import (
    NoPeers,
    Peers,
    Problem,
    RuntimeSpec,
    SearchJob,
    Task,
    Tick,
)

__all__ = [
    "Fault",
    "GroupProgress",
    "GroupResult",
    "InProcessRuntime",
    "MapProgress",
    "MapResult",
    "NoPeers",
    "OnItem",
    "OnProgress",
    "Peers",
    "Phase",
    "Problem",
    "Progress",
    "Runtime",
    "RuntimeObserver",
    "RuntimeSpec",
    "SearchJob",
    "SearchResult",
    "Task",
    "Tick",
    "Work",
    "WorkProgress",
    "WorkResult",
    "WorkerRuntime",
    "make_graph",
    "open_runtime",
]
