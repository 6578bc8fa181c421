"""Ranks: worker processes and Ray actors, their process groups, watchdog and recovery.

Searches by the loop of ``gfs_dist.selection``, maps and group tasks; no loss or network is here.

with open_runtime(RuntimeSpec(kind="local", workers=2)) as runtime:
    result = runtime.search(problem, Stop(steps=200))
    values = runtime.map(task, items)
    trained = runtime.run_group(group_task).value
"""

from __future__ import annotations

from gfs_dist.runtime.fault_injection import Fault
from gfs_dist.runtime.graph import Graph, make_graph
from gfs_dist.runtime.progress import (
    GroupProgress,
    GroupResult,
    MapProgress,
    MapResult,
    OnGroupProgress,
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
from gfs_dist.runtime.runtime import Executor, Runtime, open_runtime
from gfs_dist.runtime.spec import (
    GroupTask,
    NoPeers,
    Peers,
    Problem,
    RuntimeSpec,
    SearchJob,
    Task,
    Tick,
)

__all__ = [
    "Executor",
    "Fault",
    "Graph",
    "GroupProgress",
    "GroupResult",
    "GroupTask",
    "MapProgress",
    "MapResult",
    "NoPeers",
    "OnGroupProgress",
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
    "make_graph",
    "open_runtime",
]
