"""One search by many workers, whatever happens to them."""

from __future__ import annotations

from typing import Any

from gfs_dist.runtime.cargo import Cargo
from gfs_dist.runtime.crew import Crew
from gfs_dist.runtime.graph import Graph
from gfs_dist.runtime.group import Generations, Verdict
from gfs_dist.runtime.messages import Order, SearchSetup
from gfs_dist.runtime.placement import graph_for
from gfs_dist.runtime.progress import OnProgress, Phase, SearchResult
from gfs_dist.runtime.tracker import Tracker
from gfs_dist.selection.partition import Partition
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop


class Searching(Generations):
    """Every generation goes on from the longest path that any rank knew.

    Args:
        crew, cargo: who searches what.
        stop: when to end.
        partition: candidates of each rank.
        path: picks already made; changed.
        on_progress: called in this thread.
    """

    def __init__(
        self,
        crew: Crew,
        cargo: Cargo,
        stop: Stop,
        partition: Partition,
        path: GreedyPath,
        on_progress: OnProgress | None,
    ) -> None:
        self.journal = Tracker(path, on_progress, crew.faults)
        super().__init__(crew, cargo, self.journal)
        self.stop, self.partition, self.path = stop, partition, path
        self.graph: Graph | None = None

    @property
    def reached(self) -> int:
        return len(self.path)

    def arrange(self) -> None:
        num_ranks, before = len(self.posts), self.graph
        self.graph = graph_for(self.crew.spec, num_ranks, before)
        if self.graph is not None and before is not None and self.graph is not before:
            self.journal.event("graph", edges=[list(edge) for edge in self.graph.edges])
        if self.partition.num_ranks != num_ranks:
            self.partition = self.partition.over(num_ranks)

    def share(self, rank: int) -> tuple[Any, ...]:
        return (SearchSetup(self.partition.share(rank), self.path),)

    def order(self) -> tuple[Any, ...]:
        self.journal.begin(self.crew.generation, self.path.prefix(self.reached), len(self.posts))
        return (Order(self.partition, self.stop, self.path, self.graph),)

    def take_over(self, verdict: Verdict) -> None:
        paths = [end.value for end in verdict.ends.values()]
        longest = max([self.path, self.journal.path, *paths], key=len)
        self.path = longest.prefix(len(longest))

    def end(self, verdict: Verdict) -> Any:
        return next((end.value for _, end in sorted(verdict.finished.items())), None)

    def result(self) -> SearchResult:
        """The search, to its end."""
        path, timing = self.run()
        self.journal.path = path
        self.journal.event("finished")
        self.journal.report(Phase.SEARCH)
        return SearchResult(
            path=path, timing=timing, faults=self.faults.rows, events=self.journal.events
        )
