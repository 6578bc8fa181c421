from __future__ import annotations

import pytest

from gfs_dist.errors import InputError
from gfs_dist.runtime.graph import Graph, make_graph


@pytest.mark.parametrize(
    ("name", "num_ranks", "diameter", "num_edges"),
    [
        ("line", 5, 4, 4),
        ("ring", 5, 2, 5),
        ("ring", 6, 3, 6),
        ("ring", 2, 1, 1),
        ("star", 5, 2, 4),
        ("tree", 7, 4, 6),
        ("line", 1, 0, 0),
        ("ring", 1, 0, 0),
    ],
)
def test_named_graphs_have_their_diameter(
    name: str, num_ranks: int, diameter: int, num_edges: int
) -> None:
    graph = make_graph(name, num_ranks)
    assert (graph.diameter(), len(graph.edges)) == (diameter, num_edges)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8, 20])
def test_random_graphs_are_connected_and_repeat_with_their_seed(num_ranks: int) -> None:
    for seed in range(10):
        graph = make_graph(f"random:{seed}", num_ranks)
        assert graph.edges == make_graph(f"random:{seed}", num_ranks).edges
        assert sum(len(level) for level in graph.levels(0)) == num_ranks


def test_the_spanning_tree_reaches_every_rank_over_edges() -> None:
    graph = make_graph("random:3", 12)
    for root in range(12):
        parents = graph.spanning(root)
        for rank in range(12):
            assert rank == root or parents[rank] in graph.neighbours[rank]
            steps = 0
            while rank != root:
                rank, steps = parents[rank], steps + 1
            assert steps <= graph.diameter()


def test_edges_may_be_repeated_and_turned_round() -> None:
    assert Graph(3, [(0, 1), (1, 0), (2, 1), (1, 2)]).edges == [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([(0, 1), (2, 3)], "rank 2 cannot be reached from rank 0"),
        ([], "rank 1 cannot be reached"),
        ([(0, 1), (1, 1)], r"edge \(1, 1\) joins a rank to itself"),
        ([(0, 4)], r"edge \(0, 4\), accepted ranks 0 to 3"),
        ([(-1, 2)], r"edge \(-1, 2\), accepted ranks 0 to 3"),
        ("circle", "found 'circle', accepted line, ring, star, tree, random:SEED or edges"),
        ("random", "found 'random', accepted"),
        ("line:3", "found 'line:3', accepted"),
    ],
)
def test_what_is_no_connected_graph_is_refused(
    edges: str | list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_graph(edges, 4)
