from __future__ import annotations

import pytest

from gfs_dist.errors import ClusterError
from gfs_dist.service.capacity import HEAD, Capacity, Demand


@pytest.fixture
def cluster(node) -> Capacity:
    return Capacity.of([node(), node(CPU=4.0, GPU=2.0), node(CPU=3.5, GPU=1.0)])


def test_what_fits_is_said_in_numbers(cluster: Capacity) -> None:
    words = cluster.check(Demand(7, "auto"))
    assert words == "7 CPUs of 7.5 CPUs and 3 GPUs on 3 nodes"
    assert cluster.check(Demand(3, "cuda")).startswith("3 GPUs of")


@pytest.mark.parametrize(
    ("demand", "message"),
    [
        (Demand(8, "cpu"), r"^workers: found 8, each takes a CPU; accepted at most 7 on the clust"),
        (Demand(4, "cuda"), r"^workers: found 4, each takes a GPU; accepted at most 3 .*7.5 CPUs"),
        (Demand(5, "cpu", together=True), r"found 5.*at most 4 on one node"),
    ],
)
def test_what_is_larger_than_the_whole_cluster_is_refused(
    cluster: Capacity, demand: Demand, message: str
) -> None:
    with pytest.raises(ClusterError, match=message) as caught:
        cluster.check(demand)
    assert caught.value.exit_code == 2


def test_drivers_reserve_no_cpu_that_ranks_need(cluster: Capacity) -> None:
    share = cluster.driver_resources(Demand(2, "cpu"))
    assert share == {"entrypoint_resources": {HEAD: pytest.approx(1 / 7, abs=1e-4)}}
    assert cluster.driver_resources(Demand(3, "auto", together=True)) == {"entrypoint_num_cpus": 3}
    assert cluster.driver_resources(Demand(1, "cuda", together=True)) == {"entrypoint_num_gpus": 1}


@pytest.mark.parametrize(("cpus", "drivers"), [(0.0, 2), (1.0, 2), (7.0, 7), (500.0, 16)])
def test_drivers_side_by_side_follow_the_size(node, cpus: float, drivers: int) -> None:
    assert Capacity.of([node(CPU=cpus)]).drivers == drivers
