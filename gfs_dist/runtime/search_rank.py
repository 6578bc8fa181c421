"""A rank's side of a search."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from gfs_dist.runtime.collectives import CommunicationError, GroupCommunicator
from gfs_dist.runtime.desk import Desk, Rank
from gfs_dist.runtime.graph import GraphCommunicator
from gfs_dist.runtime.messages import Finished, Interrupted, Order, Post, SearchSetup
from gfs_dist.runtime.news import PathNews
from gfs_dist.selection.loop import greedy
from gfs_dist.selection.objective import Objective
from gfs_dist.selection.partition import RankShare
from gfs_dist.selection.path import GreedyPath

log = logging.getLogger(__name__)


@dataclass
class _Held:
    """An objective, and what it was built for and brought to."""

    problem: int
    share: RankShare
    device: str
    objective: Objective
    path: GreedyPath = field(default_factory=lambda: GreedyPath(0))

    def fits(self, problem: int, device: str, setup: SearchSetup) -> bool:
        """Whether it can go on where ``setup`` does."""
        k, path = self.objective.position, setup.path
        return (
            (self.problem, self.device) == (problem, device)
            and self.share.equals(setup.share)
            and k <= len(path)
            and self.path.picks[:k] == path.picks[:k]
            and self.path.step_sizes[:k] == path.step_sizes[:k]
        )


class SearchRank(Rank):
    """Holds an objective from generation to generation, and from search to search if it fits."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.held: _Held | None = None

    def load(self, number: int, packed: bytes | None) -> None:
        """Receive a problem; what was built for the one before it is forgotten."""
        if packed is not None:
            self.held = None
        super().load(number, packed)

    def prepare(self, post: Post, problem: int, packed: bytes | None, setup: SearchSetup) -> None:
        """Build the objective, unless what is held still fits."""
        desk = self.desk
        desk.take(post)
        self.load(problem, packed)
        if self.held is not None and self.held.fits(problem, post.device, setup):
            log.info("rank %d: goes on with what it holds", post.rank)
            return
        self.held, began = None, time.perf_counter()
        objective = self.thing.objective(setup.share, desk.device, desk.pulse.tick)
        self.held = _Held(problem, setup.share, post.device, objective)
        desk.timing.setup_s += time.perf_counter() - began
        log.info("rank %d: holds its share of %d candidates", post.rank, objective.num_candidates)

    def work(self, order: Order) -> Finished | Interrupted:
        """Join the group of the generation and run the loop in it."""
        assert self.held is not None
        desk, rank = self.desk, self.desk.post.rank
        path = self.held.path = order.path
        news = PathNews(path)
        desk.pulse.follow(news if rank == 0 else None)
        log.info("rank %d: generation %d from step %d", rank, desk.post.generation, len(path))
        try:
            with desk.joined(len(path)):
                self._run(order, path, news)
        except CommunicationError as error:
            log.info("rank %d: interrupted after step %d: %s", rank, len(path), error)
            return Interrupted(path, desk.timing, str(error))
        log.info("rank %d: finished (%s) after step %d", rank, path.stop_reason, len(path))
        return Finished(path, desk.timing)

    def _run(self, order: Order, path: GreedyPath, news: PathNews) -> None:
        assert self.held is not None
        pulse, saboteur, first = self.desk.pulse, self.desk.saboteur, len(path) + 1
        traffic = pulse.traffic
        communicator = (
            GroupCommunicator(traffic)
            if order.graph is None
            else GraphCommunicator(order.graph, traffic)
        )

        def on_step(path: GreedyPath) -> None:
            pulse.beat.step = news.steps = len(path)
            if len(path) == first:
                pulse.wake()
            saboteur.before(len(path) + 1)

        saboteur.before(first)
        with self.desk.timed(self.held.objective):
            greedy(
                self.held.objective,
                order.stop,
                communicator,
                order.partition,
                path=path,
                on_step=on_step,
            )
