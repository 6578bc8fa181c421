"""A network cut to given widths and mended, each repair measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.repair.batch_norm import recalibrate
from gfs_dist.pruning.smaller import KeptChannels

Evaluate = Callable[[nn.Module], float | None]


@dataclass(frozen=True)
class Repairs:
    """What is mended after a cut.

    Attributes:
        fold: what picks count goes into the consumers' weights (not for ``least_squares``, whose
            picks count nothing).
        refit: every layer after a cut fitted again to the dense network.
        batch_norm: running statistics measured again on the calibration samples; None: where
            nothing is refitted. After a refit it does harm, since least squares shrinks what it
            cannot explain and new statistics blow it up again (ResNet20 at 50 %: 87.4 % refitted,
            83.2 % with statistics measured again).
    """

    fold: bool = True
    refit: bool = True
    batch_norm: bool | None = None


@dataclass(frozen=True)
class CutResult:
    """A smaller network.

    Attributes:
        network: in recorded steps.
        kept: what it keeps.
        widths: by layer.
        accuracy_after: ``cut`` and each repair that was asked for, as ``evaluate`` found it; of
            the last one None, since whoever takes the network measures it as it is kept.
        difference: from the masked network, relative to the largest output.
    """

    network: GraphNetwork
    kept: KeptChannels
    widths: Mapping[str, int]
    accuracy_after: dict[str, float | None] = field(default_factory=dict)
    difference: float = 0.0

    def accuracies(self, last: float | None) -> dict[str, float | None]:
        """``accuracy_after`` with what was measured of the network itself."""
        return {**self.accuracy_after, next(reversed(self.accuracy_after)): last}


def cut(
    pruner: Pruner,
    widths: Mapping[str, int],
    repairs: Repairs,
    *,
    name: str,
    evaluate: Evaluate = lambda _: None,
    on_site: Callable[[int], None] = lambda _: None,
) -> CutResult:
    """Cut, mend, and check against the masked network on all calibration samples.

    Args:
        pruner: with the paths of all layers.
        widths: channels to keep.
        repairs: which.
        name: folder for scratch files, new in the workspace.
        evaluate: measures a network that is mended further.
        on_site: called with the number of layers that are refitted.

    Raises:
        RunError: the smaller network differs from the masked one.
    """
    fold = repairs.fold and pruner.settings.objective != "least_squares"
    kept = pruner.keep(widths, fold=fold)
    network = pruner.cut(kept)
    accuracy_after: dict[str, float | None] = {"cut": None}
    if repairs.refit:
        accuracy_after = {"cut": evaluate(network), "refit": None}
        network = pruner.refit(kept, name, on_site)
    if not repairs.refit if repairs.batch_norm is None else repairs.batch_norm:
        before, workspace = next(reversed(accuracy_after)), pruner.workspace
        accuracy_after |= {before: evaluate(network), "batch_norm": None}
        batches = (workspace.x(chunk) for chunk in range(workspace.num_chunks))
        recalibrate(network, batches, workspace.folder)
    difference = pruner.check(network, kept)
    return CutResult(network, kept, dict(widths), accuracy_after, difference)
