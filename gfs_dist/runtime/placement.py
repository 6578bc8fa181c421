"""Placement of the ranks of one generation: devices, threads, backend, graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from gfs_dist.errors import InputError
from gfs_dist.runtime.graph import Graph, make_graph
from gfs_dist.runtime.messages import Identity
from gfs_dist.runtime.spec import RuntimeSpec


class Placement(NamedTuple):
    """Devices and threads of each rank, in order, and the backend of all."""

    devices: list[str]
    threads: list[int]
    backend: str


def place_ranks(spec: RuntimeSpec, identities: Sequence[Identity], device: str) -> Placement:
    """Where the ranks with these ``identities`` compute.

    NCCL is taken where every rank has a GPU of its own and no graph is asked for; ranks that
    share a GPU, and neighbours in a graph, exchange over Gloo from the CPU.

    Args:
        device: "auto" (GPUs if each rank can have its own), "cpu" or "cuda".
    """
    on_node = Counter(worker.node for worker in identities)
    sharing = Counter((worker.node, worker.visible) for worker in identities)
    own_gpu = all(sharing[worker.node, worker.visible] <= worker.gpus for worker in identities)
    cuda = own_gpu if device == "auto" else device == "cuda"
    if cuda and (without := next((worker for worker in identities if not worker.gpus), None)):
        raise InputError(
            f"device: found 'cuda', but {without.host} has no GPU; accepted 'cpu', 'auto'"
        )
    placed: Counter[tuple[str, str]] = Counter()
    devices, threads = [], []
    for worker in identities:
        gpus = worker.node, worker.visible
        devices.append(f"cuda:{placed[gpus] % worker.gpus}" if cuda else "cpu")
        threads.append(spec.threads or max(1, worker.cores // on_node[worker.node]))
        placed[gpus] += 1
    backend = "nccl" if cuda and own_gpu and spec.graph is None else "gloo"
    return Placement(devices, threads, backend)


def graph_for(spec: RuntimeSpec, num_ranks: int, before: Graph | None) -> Graph | None:
    """The graph for ``num_ranks``: the one ``before`` if it fits. Else a named one is drawn anew;
    of given edges those among the ranks that are left are kept if they connect them, and if not
    the ranks form a line.
    """
    if spec.graph is None or (before is not None and before.num_ranks == num_ranks):
        return before
    if isinstance(spec.graph, str):
        return make_graph(spec.graph, num_ranks)
    if num_ranks == spec.workers:
        return make_graph(spec.graph, num_ranks)
    left = [(a, b) for a, b in spec.graph if max(a, b) < num_ranks]
    try:
        return Graph(num_ranks, left)
    except InputError:
        return make_graph("line", num_ranks)
