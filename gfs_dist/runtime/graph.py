"""Algorithm 2 as the paper draws it: ranks talk along the edges of a connected graph only."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from gfs_dist.errors import InputError
from gfs_dist.runtime.collectives import GroupCommunicator, Traffic
from gfs_dist.runtime.spec import Edges, RuntimeSpec


class Graph:
    """An undirected connected graph over ranks 0..num_ranks-1.

    Args:
        num_ranks: nodes.
        edges: pairs of ranks, in any order and direction; repeated ones count once.

    Raises:
        InputError: an edge leaves the range or joins a rank to itself, or some rank cannot be
            reached.
    """

    def __init__(self, num_ranks: int, edges: Iterable[Sequence[int]]) -> None:
        self.num_ranks = num_ranks
        near: list[set[int]] = [set() for _ in range(num_ranks)]
        for a, b in edges:
            if not (0 <= a < num_ranks and 0 <= b < num_ranks):
                raise InputError(f"graph: edge ({a}, {b}), accepted ranks 0 to {num_ranks - 1}")
            if a == b:
                raise InputError(f"graph: edge ({a}, {b}) joins a rank to itself")
            near[a].add(b)
            near[b].add(a)
        self.neighbours = [sorted(n) for n in near]
        reached = {rank for level in self.levels(0) for rank in level}
        if missing := sorted(set(range(num_ranks)) - reached):
            raise InputError(
                f"graph: rank {missing[0]} cannot be reached from rank 0; accepted a connected "
                f"graph of {num_ranks} ranks"
            )

    @property
    def edges(self) -> list[tuple[int, int]]:
        """Each edge once, the smaller rank first, sorted."""
        return [(a, b) for a, near in enumerate(self.neighbours) for b in near if a < b]

    def levels(self, root: int) -> list[list[int]]:
        """Ranks by their distance from ``root``, those that can be reached."""
        levels, seen = [[root]], {root}
        while level := sorted({b for a in levels[-1] for b in self.neighbours[a]} - seen):
            seen.update(level)
            levels.append(level)
        return levels

    def spanning(self, root: int) -> list[int]:
        """Each rank's parent in the breadth-first tree of ``root``; the root is its own."""
        parents = [root] * self.num_ranks
        levels = self.levels(root)
        for above, level in pairwise(levels):
            for rank in level:
                parents[rank] = min(set(above) & set(self.neighbours[rank]))
        return parents

    def diameter(self) -> int:
        """The largest distance of two ranks, in edges."""
        return max(len(self.levels(r)) - 1 for r in range(self.num_ranks))


NAMED: dict[str, Callable[[int], list[tuple[int, int]]]] = {
    "line": lambda n: [(r, r + 1) for r in range(n - 1)],
    "ring": lambda n: [(r, (r + 1) % n) for r in range(n) if n > 1],
    "star": lambda n: [(0, r) for r in range(1, n)],
    "tree": lambda n: [((r - 1) // 2, r) for r in range(1, n)],  # binary, rank 0 its root
}
"""Edges by name and number of ranks."""
NAMES = (*NAMED, "random:SEED")


def random_edges(num_ranks: int, seed: int) -> list[tuple[int, int]]:
    """A random tree and about half as many edges again."""
    draw = random.Random(seed)  # noqa: S311 - a drawing, not a secret
    edges = [(draw.randrange(r), r) for r in range(1, num_ranks)]
    for _ in range(num_ranks // 2 if num_ranks > 2 else 0):
        a, b = draw.sample(range(num_ranks), 2)
        edges.append((a, b))
    return edges


def make_graph(edges: Edges, num_ranks: int) -> Graph:
    """A graph by name (see ``NAMES``) or from its edges."""
    if not isinstance(edges, str):
        return Graph(num_ranks, edges)
    if edges in NAMED:
        return Graph(num_ranks, NAMED[edges](num_ranks))
    name, _, seed = edges.partition(":")
    if name == "random" and seed.isdigit():
        return Graph(num_ranks, random_edges(num_ranks, int(seed)))
    raise InputError(f"graph: found {edges!r}, accepted {', '.join(NAMES)} or edges")


def graph_for(spec: RuntimeSpec, num_ranks: int, before: Graph | None) -> Graph | None:
    """The graph for ``num_ranks``: the one ``before`` if it fits. Else a named one is drawn anew;
    of given edges those among the ranks that are left are kept if they connect them, and if not
    the ranks form a line.
    """
    if spec.graph is None or (before is not None and before.num_ranks == num_ranks):
        return before
    if isinstance(spec.graph, str) or num_ranks == spec.workers:
        return make_graph(spec.graph, num_ranks)
    left = [(a, b) for a, b in spec.graph if max(a, b) < num_ranks]
    try:
        return Graph(num_ranks, left)
    except InputError:
        return make_graph("line", num_ranks)


class GraphCommunicator(GroupCommunicator):
    """Messages between neighbours only. Needs the Gloo backend: values travel from the CPU.

    ``minimum`` floods: every rank sends what it holds to all neighbours and keeps the least,
    diameter times; then all hold the minimum. ``share`` forwards the owner's tensor along the
    breadth-first tree of the owner, each rank receiving once.
    """

    def __init__(self, graph: Graph, traffic: Traffic | None = None) -> None:
        super().__init__(traffic)
        assert graph.num_ranks == self.num_ranks and self.device.type == "cpu"
        self.graph = graph
        self.near = graph.neighbours[self.rank]
        self.diameter = graph.diameter()
        self._parents: dict[int, list[int]] = {}

    def _minimum(self, values: Tensor) -> None:
        for _ in range(self.diameter):
            outgoing = values.clone()
            incoming = [torch.empty_like(values) for _ in self.near]
            works = [dist.isend(outgoing, rank) for rank in self.near]
            works += [dist.irecv(t, rank) for t, rank in zip(incoming, self.near, strict=True)]
            for work in works:
                assert work is not None
                work.wait()
            self.traffic.sent(outgoing, len(self.near))
            for received in incoming:
                torch.minimum(values, received, out=values)

    def _share(self, tensor: Tensor, owner: int) -> None:
        if owner not in self._parents:
            self._parents[owner] = self.graph.spanning(owner)
        parents = self._parents[owner]
        if self.rank != owner:
            dist.recv(tensor, parents[self.rank])
        children = [r for r in self.near if r != owner and parents[r] == self.rank]
        for work in [dist.isend(tensor, rank) for rank in children]:
            assert work is not None
            work.wait()
        self.traffic.sent(tensor, len(children))
