"""Whether a cluster can ever hold a job. What only has to wait for its turn is not refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gfs_dist.errors import ClusterError

HEAD = "node:__internal_head__"
"""A resource of which every cluster has 1.0, on its head."""

MOST_DRIVERS, FEWEST_DRIVERS = 16, 2


@dataclass(frozen=True)
class Demand:
    """What a job takes: a CPU a rank, or with ``device=cuda`` a GPU a rank.

    Attributes:
        ranks: ranks and spares.
        device: ``auto``, ``cpu``, ``cuda``.
        together: all of them in the driver's own process or machine (``runtime=local``, ``none``).
    """

    ranks: int
    device: str
    together: bool = False


@dataclass(frozen=True)
class Capacity:
    """What the nodes that are alive offer, each its CPUs and GPUs."""

    cpus: tuple[float, ...]
    gpus: tuple[float, ...]

    @classmethod
    def of(cls, nodes: Sequence[dict[str, Any]]) -> Capacity:
        """From the rows of nodes of Ray's state API."""
        totals = [node.get("resources_total") or {} for node in nodes]
        return cls(
            tuple(float(total.get("CPU", 0)) for total in totals),
            tuple(float(total.get("GPU", 0)) for total in totals),
        )

    def __str__(self) -> str:
        return (
            f"{sum(self.cpus):g} CPUs and {sum(self.gpus):g} GPUs on "
            f"{len(self.cpus)} node{'s' * (len(self.cpus) != 1)}"
        )

    @property
    def drivers(self) -> int:
        """How many jobs may be at work side by side: each has a driver that takes memory."""
        return max(FEWEST_DRIVERS, min(MOST_DRIVERS, int(sum(self.cpus))))

    def check(self, demand: Demand) -> str:
        """What the job takes of it, in words.

        Raises:
            ClusterError: more than there is; says both.
        """
        kind, each = ("GPU", self.gpus) if demand.device == "cuda" else ("CPU", self.cpus)
        room = [int(offered) for offered in each]
        most = max(room, default=0) if demand.together else sum(room)
        if demand.ranks > most:
            where = "on one node" if demand.together else "on the cluster"
            raise ClusterError(
                f"workers: found {demand.ranks}, each takes a {kind}; accepted at most {most} "
                f"{where} ({self})"
            )
        return f"{demand.ranks} {kind}{'s' * (demand.ranks != 1)} of {self}"

    def driver_resources(self, demand: Demand) -> dict[str, Any]:
        """What the driver reserves, as arguments of Ray's ``submit_job``.

        A share of the head, so that only so many are at work at once. Were it CPUs, waiting drivers
        could take all of them, and no rank would find any.
        """
        if not demand.together:
            return {"entrypoint_resources": {HEAD: round(1 / self.drivers, 4)}}
        kind = "entrypoint_num_gpus" if demand.device == "cuda" else "entrypoint_num_cpus"
        return {kind: demand.ranks}
