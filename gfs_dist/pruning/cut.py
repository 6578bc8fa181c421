"""A network cut to given widths and repaired, and the report's rows of its layers."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from gfs_dist.networks import macs_by_module
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.repair.batch_norm import recalibrate
from gfs_dist.pruning.repair.stream_training import StreamSpec
from gfs_dist.pruning.smaller import KeptChannels
from gfs_dist.records import LayerRow, StreamFacts


@dataclass(frozen=True)
class Repairs:
    """Repairs after a cut.

    Attributes:
        fold: what picks count goes into the consumers' weights (not for ``least_squares``, whose
            picks count nothing).
        refit: every layer after a cut fitted again to the dense network.
        streams: all weights trained towards the dense network's streams; None: not.
        reselect: channels picked again on the way, by least squares on what the pruned layers
            before make; None: where the paths are those of ``least_squares``.
        batch_norm: running statistics measured again on the calibration samples; None: where
            nothing was fitted. After a refit it does harm, since least squares shrinks what it
            cannot explain and new statistics blow it up again (ResNet20 at 50 %: 87.4 % refitted,
            83.2 % with statistics measured again).
    """

    fold: bool = True
    refit: bool = True
    batch_norm: bool | None = None
    streams: StreamSpec | None = None
    reselect: bool | None = None


@dataclass(frozen=True)
class CutResult:
    """A smaller network.

    Attributes:
        network: in recorded steps.
        kept: its channels.
        accuracy_after: ``cut`` and each repair that was asked for, as ``evaluate`` found it; of
            the last one None, since the caller measures the network as it is stored.
        difference: from the masked network, relative to the largest output.
        streams: what their repair took; None without one.
    """

    network: GraphNetwork
    kept: KeptChannels
    accuracy_after: dict[str, float | None] = field(default_factory=dict)
    difference: float = 0.0
    streams: StreamFacts | None = None

    def accuracies(self, last: float | None) -> dict[str, float | None]:
        """``accuracy_after`` with what was measured of the network itself."""
        return {**self.accuracy_after, next(reversed(self.accuracy_after)): last}


def cut(
    pruner: Pruner,
    widths: Mapping[str, int],
    repairs: Repairs,
    *,
    name: str,
    state: Path | None = None,
    evaluate: Callable[[str, nn.Module], float | None] = lambda *_: None,
    on_step: Callable[[str, int, float | None], None] = lambda *_: None,
) -> CutResult:
    """Cut, repair, and check against the masked network on all calibration samples.

    Args:
        pruner: with the paths of all layers.
        widths: channels to keep.
        repairs: which.
        name: folder for scratch files, new in the workspace.
        state: file from which a repair of streams that was killed goes on; None: none does.
        evaluate: measures a network that is repaired further, after ``cut`` or a repair.
        on_step: called with ``refit`` or ``streams``, the number of layers or steps that are done,
            from 0 on, and the loss where there is one.

    Raises:
        RunError: the smaller network differs from the masked one.
    """
    workspace = pruner.workspace
    kept = pruner.keep(widths, fold=repairs.fold and pruner.picks_are_weighted)
    network = pruner.cut(kept)
    accuracy_after: dict[str, float | None] = {"cut": None}
    facts: StreamFacts | None = None

    def begin(repair: str) -> None:
        before = next(reversed(accuracy_after))
        accuracy_after.update({before: evaluate(before, network), repair: None})
        on_step(repair, 0, None)

    if repairs.refit:
        begin("refit")
        again = not pruner.picks_are_weighted if repairs.reselect is None else repairs.reselect
        network, kept = pruner.refit(
            kept, name, lambda site: on_step("refit", site + 1, None), reselect=again
        )
    if spec := repairs.streams:
        begin("streams")
        began, state = time.monotonic(), state or workspace.subfolder(name) / "streams.safetensors"
        network = pruner.repair_streams(
            network, kept, spec, state, lambda done, loss: on_step("streams", done, loss)
        )
        seconds = time.monotonic() - began
        facts = {"samples": workspace.num_samples, "steps": spec.steps, "seconds": seconds}
    fitted = repairs.refit or repairs.streams
    if not fitted if repairs.batch_norm is None else repairs.batch_norm:
        begin("batch_norm")
        recalibrate(network, map(workspace.x, range(workspace.num_chunks)), workspace.folder)
    return CutResult(network, kept, accuracy_after, pruner.check(network, kept), facts)


def layer_rows(pruner: Pruner, made: CutResult, widths: Mapping[str, int]) -> list[LayerRow]:
    """A row for every layer that could be pruned or was skipped, in forward order.

    ``error`` is the loss of the layer's path at its width, in units of the variance of the stream
    that it feeds; ``macs`` are those of the modules that make its channels; ``reselected`` channels
    are not among the path's.
    """
    structure, small = pruner.structure, made.network
    by_paths = pruner.keep(widths, fold=False).candidates
    macs = macs_by_module(small, pruner.example)
    rows = [
        LayerRow(
            name=layer.name,
            channels=layer.num_candidates,
            kept=widths[layer.name],
            error=pruner.paths[layer.name].curve[widths[layer.name] - 1],
            macs=sum(macs.get(part.module, 0) for part in layer.producers),
            reason=None,
            reselected=len(
                {*made.kept.candidates.get(layer.name, ())} - {*by_paths.get(layer.name, ())}
            ),
            kind=layer.kind,
        )
        for layer in structure.layers
    ]
    rows += [
        LayerRow(
            name=skip.name,
            channels=skip.channels,
            kept=skip.channels,
            error=None,
            macs=macs.get(skip.name, 0),
            reason=skip.reason,
            reselected=None,
            kind=None,
        )
        for skip in structure.skipped
    ]
    order = {step.target: place for place, step in reversed([*enumerate(small.gfs_program)])}
    return sorted(rows, key=lambda row: order.get(row["name"], len(order)))


def picks_sha256(pruner: Pruner) -> str:
    """SHA-256 over the hashes of all layers' picks, in forward order, joined by commas."""
    hashes = [found.path.sha256 for found in pruner.paths.values()]
    return hashlib.sha256(",".join(hashes).encode()).hexdigest()
