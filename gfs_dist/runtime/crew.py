"""What the searches, maps and group tasks of one runtime share: workers, store, schedules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath

from gfs_dist.runtime.backends.base import Launcher, Worker
from gfs_dist.runtime.cargo import Cargo
from gfs_dist.runtime.event_log import Journal, Row
from gfs_dist.runtime.fault_injection import Fault
from gfs_dist.runtime.graph import make_graph
from gfs_dist.runtime.messages import Post
from gfs_dist.runtime.placement import lay_out
from gfs_dist.runtime.spec import RuntimeSpec
from gfs_dist.runtime.store import host_store
from gfs_dist.runtime.watchdog import Watch
from gfs_dist.runtime.worker_pool import Team


class Crew:
    """Workers that stay for many jobs.

    Args:
        spec: how many, where, how patient.
        launcher: starts them; theirs to be closed with :meth:`close`.
        faults: to be carried out (tests).

    Attributes:
        generation: the current one, -1 before the first.
        job: number of the current search, map or group task.
    """

    def __init__(self, spec: RuntimeSpec, launcher: Launcher, faults: Sequence[Fault]) -> None:
        self.spec, self.launcher, self.faults = spec, launcher, list(faults)
        self.generation = self.job = -1
        self.cargo = {kind: Cargo(launcher, kind) for kind in ("search", "map", "group")}
        if spec.graph is not None:
            make_graph(spec.graph, spec.workers)  # refused before anything is started
        try:
            self.store, address = host_store(launcher.host)
            self.team = Team(
                launcher,
                self.store,
                address,
                spec.workers,
                spec.spares,
                spec.placement_timeout_s,
            )
        except BaseException:
            launcher.close()
            raise

    def close(self) -> None:
        """End all workers, at once and whatever they do."""
        self.launcher.close()

    def begin_generation(self, journal: Journal) -> None:
        """A new one, of the current job."""
        self.generation += 1
        journal.generation = self.generation

    def posts(self, members: Sequence[Worker]) -> list[Post]:
        """Where each of ``members``, by rank, computes in this generation."""
        identities = [self.team.identities[worker.name] for worker in members]
        layout = lay_out(self.spec, identities, self.launcher.device)
        return [
            Post(
                self.generation,
                self.job,
                rank,
                len(members),
                layout.devices[rank],
                layout.threads[rank],
                layout.backend,
                self._log_file(rank),
                tuple(f for f in self.faults if (f.generation, f.rank) == (self.generation, rank)),
            )
            for rank in range(len(members))
        ]

    def who(self, worker: Worker) -> Row:
        """Its process and machine, for a row."""
        identity = self.team.identities[worker.name]
        return {"pid": identity.pid, "host": identity.host}

    def drop_busy(self, watch: Watch) -> None:
        """After a job that was broken off: nobody still works on it."""
        for rank, call in watch.calls.items():
            if not call.future.done() and self.team.ranks[rank] is call.worker:
                self.team.replace(rank)

    def _log_file(self, rank: int) -> str | None:
        folder = self.spec.log_folder
        return None if folder is None else str(FilePath(folder).resolve() / f"rank_{rank}.log")
