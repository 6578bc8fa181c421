"""Who computes where in one generation: devices, threads, backend, graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gfs_dist.errors import InputError
from gfs_dist.runtime.graph import Graph, make_graph
from gfs_dist.runtime.messages import Identity
from gfs_dist.runtime.spec import RuntimeSpec


@dataclass(frozen=True)
class Layout:
    """One entry a rank, in order of ranks."""

    devices: list[str]
    threads: list[int]
    backend: str


def lay_out(spec: RuntimeSpec, identities: Sequence[Identity], device: str) -> Layout:
    """Where the ranks with these ``identities`` compute.

    NCCL is taken where every rank has a GPU of its own and no graph is asked for; ranks that
    share a GPU, and neighbours in a graph, exchange over Gloo from the CPU.

    Args:
        device: "auto" (GPUs if each rank can have its own), "cpu" or "cuda".
    """
    on_node = Counter(who.node for who in identities)
    among = Counter((who.node, who.visible) for who in identities)  # ranks that see the same GPUs
    own_gpu = all(among[who.node, who.visible] <= who.gpus for who in identities)
    cuda = own_gpu if device == "auto" else device == "cuda"
    if cuda and (bare := next((who for who in identities if not who.gpus), None)):
        raise InputError(
            f"device: found 'cuda', but {bare.host} has no GPU; accepted 'cpu', 'auto'"
        )
    seen: Counter[tuple[str, str]] = Counter()
    devices, threads = [], []
    for who in identities:
        gpus = who.node, who.visible
        devices.append(f"cuda:{seen[gpus] % who.gpus}" if cuda else "cpu")
        threads.append(spec.threads or max(1, who.cores // on_node[who.node]))
        seen[gpus] += 1
    backend = "nccl" if cuda and own_gpu and spec.graph is None else "gloo"
    return Layout(devices, threads, backend)


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
        return Graph.line(num_ranks)
