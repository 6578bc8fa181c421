"""A rank's side of a group task."""

from __future__ import annotations

import logging
from typing import Any

from gfs_dist.runtime.collectives import CommunicationError, GroupPeers
from gfs_dist.runtime.desk import Rank
from gfs_dist.runtime.messages import Finished, Interrupted, Post
from gfs_dist.runtime.news import ValueNews
from gfs_dist.runtime.serialization import pack
from gfs_dist.runtime.spec import Tick

log = logging.getLogger(__name__)


class GroupRank(Rank):
    """Runs a task among peers."""

    def prepare(self, post: Post, task: int, packed: bytes | None) -> None:
        """Be ready to join the group."""
        self.desk.take(post)
        self.load(task, packed)

    def work(self) -> Finished | Interrupted:
        """Join the group of the generation and run the task in it."""
        desk, post, task = self.desk, self.desk.post, self.thing
        pulse, news = desk.pulse, ValueNews()
        pulse.follow(news if post.rank == 0 else None)
        log.info("rank %d: generation %d", post.rank, post.generation)
        try:
            with desk.joined(phase="setup"):  # until the first tick
                peers = GroupPeers(pulse.traffic)
                with desk.timed():
                    value = task.run(peers, desk.device, self._tick(news))
        except CommunicationError as error:
            log.info("rank %d: interrupted after step %d: %s", post.rank, pulse.beat.step, error)
            return Interrupted(pulse.beat.step, desk.timing, str(error), pulse.untold())
        log.info("rank %d: finished after step %d", post.rank, pulse.beat.step)
        answer = pack(value if post.rank == 0 else None, f"what {type(task).__name__}.run returned")
        return Finished(answer, desk.timing, pulse.untold())

    def _tick(self, news: ValueNews) -> Tick:
        pulse, post, saboteur = self.desk.pulse, self.desk.post, self.desk.saboteur

        def tick(step: int, value: Any = None) -> None:
            pulse.tick()
            pulse.beat.step = step
            news.add(step, value)
            if pulse.beat.phase == "setup":
                pulse.enter("work", post.generation)
            saboteur.upon(step)

        return tick
