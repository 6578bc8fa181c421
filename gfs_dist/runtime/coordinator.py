"""One search by many workers, whatever happens to them.

A *generation* is one set of ranks with one process group. It ends when the search is finished or
at the first fault; then lost ranks are filled, survivors keep what they have computed, and the
next generation goes on from the longest path that any rank knew. Answers of older generations
are never read: their calls are over, their keys carry another number.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path as FilePath
from typing import Any, Self

from gfs_dist.errors import InputError, WorkersLostError
from gfs_dist.runtime.faults import Fault
from gfs_dist.runtime.graph import Graph, make_graph
from gfs_dist.runtime.journal import Row
from gfs_dist.runtime.launcher import Launcher, Worker
from gfs_dist.runtime.layout import Layout, lay_out
from gfs_dist.runtime.progress import (
    GroupResult,
    MapResult,
    OnDone,
    OnGroupProgress,
    OnProgress,
    SearchResult,
)
from gfs_dist.runtime.pulse import fault_key
from gfs_dist.runtime.spec import GroupTask, Problem, RuntimeSpec, Task
from gfs_dist.runtime.store import host_store
from gfs_dist.runtime.supervision import POLL_S, Call, Patience, Verdict, Watch
from gfs_dist.runtime.team import Team
from gfs_dist.runtime.timing import Timing, summary
from gfs_dist.runtime.tracker import Tracker
from gfs_dist.runtime.worker import Assignment, Finished, Interrupted, Order
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import Path
from gfs_dist.selection.stop import Stop

MAX_FUTILE = 3
EAGER_POLL_S = 0.005


class WorkersRuntime:
    """Workers that stay for many searches; leave the context to end them.

    Args:
        spec: how many, where, how patient.
        launcher: starts them; theirs to be closed here.
        faults: to be carried out (tests).
    """

    def __init__(self, spec: RuntimeSpec, launcher: Launcher, faults: Sequence[Fault] = ()) -> None:
        self.spec, self.launcher, self.faults = spec, launcher, list(faults)
        self.generation = -1
        self.num_searches = 0
        self.problem: Problem | None = None
        self.problem_number = -1
        self.payload: Any = None
        self.loaded: dict[str, int] = {}
        self.setup_began = time.perf_counter()
        if spec.graph is not None:
            make_graph(spec.graph, spec.workers)  # refused before anything is started
        try:
            self.store, self.address = host_store(launcher.host)
            self.team = Team(
                launcher,
                self.store,
                self.address,
                spec.workers,
                spec.spares,
                spec.placement_timeout_s,
            )
        except BaseException:
            launcher.close()
            raise

    @property
    def num_ranks(self) -> int:
        """Ranks that a search will have, if no worker is lost."""
        return self.spec.workers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, at once and whatever they do."""
        self.launcher.close()

    def search(
        self,
        problem: Problem,
        stop: Stop,
        partition: Partition | None = None,
        *,
        path: Path | None = None,
        on_progress: OnProgress | None = None,
    ) -> SearchResult:
        """Greedy forward selection over all workers.

        Args:
            problem: what to search; the same object again keeps what workers hold of it.
            stop: when to end.
            partition: who owns what; None for contiguous parts.
            path: picks already made; replayed and checked.
            on_progress: called in this thread.

        Raises:
            InputError: what a rank refused, as it was raised there.
            WorkersLostError: three generations in a row made no step.
        """
        if problem is not self.problem:
            self.problem, self.problem_number = problem, self.problem_number + 1
            self.payload = self.launcher.share(pickle.dumps(problem))
        self.num_searches += 1
        path = path or Path(problem.num_candidates)
        search = Search(self, stop, partition, path.prefix(len(path)), on_progress)
        try:
            return search.run()
        except BaseException:
            self._drop_busy(search)
            raise

    def map(self, task: Task, items: Sequence[Any], on_done: OnDone | None = None) -> MapResult:
        """Not yet."""
        raise NotImplementedError

    def together(self, task: GroupTask, on_progress: OnGroupProgress | None = None) -> GroupResult:
        """Not yet."""
        raise NotImplementedError

    def _drop_busy(self, search: Search) -> None:
        """After a search that was broken off: nobody still works on it."""
        for rank, future in search.asked.items():
            if not future.done() and rank < len(self.team.ranks):
                self.team.replace(rank)


class Search:
    """One search: its generations, and what they left behind."""

    def __init__(
        self,
        runtime: WorkersRuntime,
        stop: Stop,
        partition: Partition | None,
        path: Path,
        on_progress: OnProgress | None,
    ) -> None:
        self.runtime, self.stop, self.path = runtime, stop, path
        spec, team = runtime.spec, runtime.team
        num_candidates = path.num_candidates
        self.partition = partition or Partition.contiguous(num_candidates, spec.workers)
        if self.partition.num_candidates != num_candidates:
            raise InputError(
                f"partition: found {self.partition.num_candidates} candidates, accepted "
                f"{num_candidates}"
            )
        self.team, self.store = team, runtime.store
        self.tracker = Tracker(path, on_progress, runtime.faults)
        self.patience = Patience(spec.hang_floor_s)
        self.faults: list[Row] = []
        self.open_faults: list[tuple[Row, float]] = []
        self.asked: dict[int, Future[Any]] = {}
        self.futile = 0
        self.steps_s = self.setup_s = 0.0
        self.graph: Graph | None = None

    def run(self) -> SearchResult:
        """Generations, until one comes to the end."""
        self.team.refill()
        self.tracker.report("start")
        while True:
            began, known = time.perf_counter(), len(self.path)
            members = self._muster()
            layout = self._layout(members)
            ended = self._prepare(members, layout)
            self.setup_s += time.perf_counter() - began
            if not ended.trouble:
                began = time.perf_counter()
                ended = self._search(members, layout)
                self.steps_s += time.perf_counter() - began
            if done := [v for v in ended.values.values() if isinstance(v, Finished)]:
                return self._result(done[0], members, ended)
            self.futile = 0 if len(self.path) > known else self.futile + 1
            if self.futile >= MAX_FUTILE:
                raise WorkersLostError(self._last_words())

    def _muster(self) -> list[Worker]:
        runtime = self.runtime
        runtime.generation += 1
        members = self.team.muster()
        self.tracker.generation = runtime.generation
        self.tracker.num_ranks = len(members)
        self.tracker.report("recovering" if self.open_faults else "setup")
        return members

    def _layout(self, members: Sequence[Worker]) -> Layout:
        spec = self.runtime.spec
        identities = [self.team.identities[w.name] for w in members]
        before = self.graph
        layout = lay_out(spec, identities, self.runtime.launcher.device, self.partition, before)
        if spec.graph is not None and before is not None and layout.graph is not before:
            assert layout.graph is not None
            self.tracker.event("graph", edges=[list(edge) for edge in layout.graph.edges])
        self.graph, self.partition = layout.graph, layout.partition
        return layout

    def _prepare(self, members: Sequence[Worker], layout: Layout) -> Verdict:
        runtime = self.runtime
        generation, problem = runtime.generation, runtime.problem_number
        calls = {}
        for rank, worker in enumerate(members):
            assignment = Assignment(
                generation,
                runtime.num_searches,
                problem,
                rank,
                layout.partition.parts[rank],
                layout.devices[rank],
                layout.threads[rank],
                self.path,
                self._log_file(rank),
                tuple(f for f in runtime.faults if (f.generation, f.rank) == (generation, rank)),
            )
            known = runtime.loaded.get(worker.name) == problem
            calls[rank] = worker.call("prepare", assignment, None if known else runtime.payload)
            self._event("rank_started", rank, worker)
        self._preload()
        verdict = self._watch(members, calls, lambda _: None)
        for rank, value in verdict.values.items():
            assert value is None
            runtime.loaded[members[rank].name] = problem
        return verdict

    def _preload(self) -> None:
        """Let spares have the problem, so that it is there when they are needed."""
        runtime = self.runtime
        for spare in self.team.spares:
            if runtime.loaded.get(spare.name) != runtime.problem_number:
                spare.call("load", runtime.problem_number, runtime.payload)
                runtime.loaded[spare.name] = runtime.problem_number

    def _search(self, members: Sequence[Worker], layout: Layout) -> Verdict:
        generation = self.runtime.generation
        self.tracker.begin(generation, self.path.prefix(len(self.path)), len(members))
        calls = {}
        for rank, worker in enumerate(members):
            order = Order(
                generation,
                rank,
                len(members),
                layout.partition,
                self.stop,
                self.path,
                layout.backend,
                layout.graph,
            )
            calls[rank] = worker.call("search", order)
        return self._watch(members, calls, self._on_poll)

    def _watch(
        self,
        members: Sequence[Worker],
        calls: dict[int, Future[Any]],
        on_poll: Callable[[Watch], None],
    ) -> Verdict:
        self.asked = calls
        watched = {rank: Call(members[rank], future) for rank, future in calls.items()}
        watch = Watch(self.store, watched, self.patience, on_poll, self._on_death)
        watch.poll_s = EAGER_POLL_S if self.open_faults else POLL_S
        verdict = watch.run()
        if verdict.errors:
            raise verdict.errors[min(verdict.errors)]
        self._record(verdict)
        return verdict

    def _on_poll(self, watch: Watch) -> None:
        if self.tracker.read(self.store, watch.calls[0].beat):
            self.patience.step_s = self.tracker.step_s()
            if len(self.tracker.path) > len(self.path):
                self._recovered()
                watch.poll_s = POLL_S

    def _on_death(self, rank: int, kind: str) -> None:
        self.team.replace(rank)

    def _record(self, verdict: Verdict) -> None:
        """Take over the longest path, and note what went wrong."""
        paths = [v.path for v in verdict.values.values() if isinstance(v, Interrupted | Finished)]
        longest = max([self.path, self.tracker.path, *paths], key=len)
        self.path = longest.prefix(len(longest))
        finished = any(isinstance(v, Finished) for v in verdict.values.values())
        kinds = verdict.dead
        if not kinds and verdict.trouble and not finished:
            kinds = {min(verdict.reasons): "collective"}
        for rank, kind in kinds.items():
            self._note_fault(rank, kind, verdict.reasons[rank], verdict.trouble or time.time())

    def _note_fault(self, rank: int, kind: str, reason: str, detected: float) -> None:
        key = fault_key(self.runtime.generation, rank)
        struck = float(self.store.get(key)) if self.store.check([key]) else None
        row = {
            "time": detected,
            "rank": rank,
            "kind": kind,
            "step": len(self.path),
            "recovered_s": None,
            "detected_s": None if struck is None else detected - struck,
            "reason": reason,
        }
        self.faults.append(row)
        self.open_faults.append((row, detected))
        self.tracker.event("fault", rank, step=len(self.path), kind=kind)

    def _recovered(self) -> None:
        for row, detected in self.open_faults:
            row["recovered_s"] = time.time() - detected
            self.tracker.event("recovered", row["rank"])
        self.open_faults.clear()
        self.team.restock()

    def _last_words(self) -> str:
        last = self.faults[-1]
        return (
            f"workers: {MAX_FUTILE} attempts in a row made no step after step {len(self.path)}; "
            f"the last fault: rank {last['rank']} {last['kind']}, {last['reason']}"
        )

    def _result(self, done: Finished, members: Sequence[Worker], ended: Verdict) -> SearchResult:
        self._recovered()
        rows = []
        for rank, worker in enumerate(members):
            value = ended.values.get(rank)
            timing = value.timing if isinstance(value, Finished | Interrupted) else Timing()
            who = self.team.identities[worker.name]
            rows.append({"rank": rank, "pid": who.pid, "host": who.host, **asdict(timing)})
        timing_of_run = summary(rows, self.setup_s, self.steps_s)
        self.tracker.path = done.path
        self.tracker.event("finished")
        self.tracker.report("search")
        return SearchResult(done.path, timing_of_run, self.faults, self.tracker.events)

    def _event(self, event: str, rank: int, worker: Worker) -> None:
        who = self.team.identities[worker.name]
        self.tracker.event(event, rank, pid=who.pid, host=who.host)

    def _log_file(self, rank: int) -> str | None:
        folder = self.runtime.spec.log_folder
        return None if folder is None else str(FilePath(folder).resolve() / f"rank_{rank}.log")
