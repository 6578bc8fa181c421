"""The exchanges of a search without the search: what the network itself costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from gfs_dist.runtime.peers import Peers
from gfs_dist.runtime.spec import Tick

WARM_UP = 20


@dataclass(frozen=True)
class BareExchanges:
    """A group task that times what a step exchanges.

    Attributes:
        rounds: timed of each kind.
        sizes: bytes of the tensors that are broadcast, by each rank in turn.
    """

    rounds: int
    sizes: tuple[int, ...] = ()

    def run(self, peers: Peers, device: torch.device, tick: Tick) -> dict[int, dict[str, float]]:
        """Seconds by bytes, ``median minimum maximum mean`` over rounds.

        Of 16: the two reductions of a step, a float64 and an int64 of one number each, one after
        the other as they are there. Of the sizes: one broadcast.
        """
        value = torch.zeros(1, dtype=torch.float64, device=device)
        index = torch.zeros(1, dtype=torch.int64, device=device)

        def decide(_: int) -> None:
            dist.all_reduce(value, op=dist.ReduceOp.MIN)
            value.item()
            dist.all_reduce(index, op=dist.ReduceOp.MIN)
            index.item()

        found = {16: self._time(peers, decide)}
        for step, size in enumerate(self.sizes, start=1):
            tensor = torch.zeros(max(1, size // 8), dtype=torch.float64, device=device)

            def send(number: int, tensor: torch.Tensor = tensor) -> None:
                dist.broadcast(tensor, src=number % peers.num_ranks)
                tensor[0].item()

            found[size] = self._time(peers, send)
            tick(step)
        return found

    def _time(self, peers: Peers, once: Callable[[int], None]) -> dict[str, float]:
        seconds = []
        for number in range(WARM_UP + self.rounds):
            if number == WARM_UP:
                peers.barrier()
            began = time.perf_counter()
            once(number)
            seconds.append(time.perf_counter() - began)
        timed = seconds[WARM_UP:]
        return {
            "median": statistics.median(timed),
            "minimum": min(timed),
            "maximum": max(timed),
            "mean": statistics.fmean(timed),
        }
