"""The exchanges of a search without the search: what the network itself costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from gfs_dist.runtime.spec import Peers, Tick

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
        the other as they are there, on the rank that comes last to them. Of the sizes: one
        broadcast, on the rank that is asked.
        """
        value = torch.zeros(1, dtype=torch.float64, device=device)
        index = torch.zeros(1, dtype=torch.int64, device=device)

        def decide(_: int) -> None:
            dist.all_reduce(value, op=dist.ReduceOp.MIN)
            value.item()
            dist.all_reduce(index, op=dist.ReduceOp.MIN)
            index.item()

        found = {16: spread_of(least_over_ranks(self._time(peers, decide)))}
        for step, size in enumerate(self.sizes, start=1):
            tensor = torch.zeros(max(1, size // 8), dtype=torch.float64, device=device)

            def send(number: int, tensor: torch.Tensor = tensor) -> None:
                dist.broadcast(tensor, src=number % peers.num_ranks)
                tensor[0].item()

            found[size] = spread_of(self._time(peers, send))
            tick(step)
        return found

    def _time(self, peers: Peers, once: Callable[[int], None]) -> list[float]:
        seconds = []
        for number in range(WARM_UP + self.rounds):
            if number == WARM_UP:
                peers.barrier()
            began = time.perf_counter()
            once(number)
            seconds.append(time.perf_counter() - began)
        return seconds[WARM_UP:]


def least_over_ranks(seconds: list[float]) -> list[float]:
    """Of each exchange the time of the rank that came last to it, and so waited for nobody."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    least = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return least.tolist()


def spread_of(seconds: list[float]) -> dict[str, float]:
    """``median minimum maximum mean``."""
    return {
        "median": statistics.median(seconds),
        "minimum": min(seconds),
        "maximum": max(seconds),
        "mean": statistics.fmean(seconds),
    }
