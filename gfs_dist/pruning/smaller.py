"""The smaller network: the channels it keeps, its cut, and the check against the masked one."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from gfs_dist.errors import RunError
from gfs_dist.networks import evaluating
from gfs_dist.networks.measure.inputs import Batch, real_rows, tensors_of
from gfs_dist.networks.measure.threads import in_threads
from gfs_dist.networks.models.layer_kinds import blocks, is_layer, num_outputs, scale_inputs
from gfs_dist.pruning.structure.shrink import kept_blocks, removed_channels, shrink
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.selection.path import GreedyPath

Network = TypeVar("Network", bound=nn.Module)

TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 0.15, torch.float32: 1e-4, torch.float64: 1e-9}
"""Of the largest output: what rounding may change where products lose terms that are zero. Halves
are rounded after every layer: some twenty last bits."""


@dataclass(frozen=True)
class KeptChannels:
    """The channels that a smaller network keeps.

    Attributes:
        candidates: by layer, sorted candidates.
        factors: by layer, what each kept candidate counts (1: as in the dense network); a layer
            that is absent is not scaled.
    """

    candidates: Mapping[str, tuple[int, ...]]
    factors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(tuple(self.candidates.items()))

    @classmethod
    def of_paths(
        cls, paths: Mapping[str, GreedyPath], widths: Mapping[str, int], *, fold: bool
    ) -> KeptChannels:
        """The first picks of each path, as many as make the wanted widths.

        Args:
            paths: by layer.
            widths: distinct candidates to keep; layers that are absent stay whole.
            fold: fold the counts of picks into the consumers' weights: candidate ``i`` then
                counts ``n c_i`` with coefficients ``c``, so that the mean of all n is the dense
                output (equation 3).
        """
        kept, factors = {}, {}
        for name, width in widths.items():
            path = paths[name]
            if width == path.num_candidates and path.num_kept == width and not fold:
                continue
            k = prefix_length(path, width)
            kept[name] = tuple(path.support(k))
            if fold:
                counts = path.coefficients(k) * path.num_candidates
                factors[name] = tuple(float(counts[i]) for i in kept[name])
        return cls(kept, factors)

    @classmethod
    def first(cls, widths: Mapping[str, int]) -> KeptChannels:
        """The first channels of each layer, for what depends on widths alone."""
        return cls({name: tuple(range(width)) for name, width in widths.items()})

    def without(self, layers: Collection[str]) -> KeptChannels:
        """The channels of the other layers; these ones stay whole."""
        kept = {name: own for name, own in self.candidates.items() if name not in layers}
        factors = {name: own for name, own in self.factors.items() if name not in layers}
        return KeptChannels(kept, factors)

    def outputs(self, structure: Structure, dense: nn.Module) -> dict[str, Tensor]:
        """Outputs that each producer which loses some has left, those of no layer included.

        A shortcut that pads its channels ties some outputs of a convolution to a layer; the
        others stay.
        """
        found = {}
        for name, lost in removed_channels(structure, self.candidates)[0].items():
            module = dense.get_submodule(name)
            if lost and is_layer(module):
                kept = [i for i in range(num_outputs(module)) if i not in lost]
                found[name] = torch.tensor(kept)
        return found


def prefix_length(path: GreedyPath, width: int) -> int:
    """Picks after which ``width`` distinct candidates, or all if there are fewer, do best.

    With replacement several prefixes have as many; the first of least loss is taken.
    """
    width, best = min(width, path.num_kept), 0
    seen: set[int] = set()
    for k, (pick, loss) in enumerate(zip(path.picks, path.loss, strict=True), start=1):
        seen.add(pick)
        if len(seen) == width and (not best or loss < path.loss[best - 1]):
            best = k
    return best


@torch.no_grad()
def make_smaller(dense: Network, structure: Structure, kept: KeptChannels) -> Network:
    """A copy of ``dense`` with the kept channels alone, its consumers scaled by the factors."""
    scaled = copy.deepcopy(dense) if kept.factors else dense
    for layer in structure.layers:
        for place, factor in enumerate(kept.factors.get(layer.name, ())):
            candidate = kept.candidates[layer.name][place]
            for consumer in layer.consumers:
                module = scaled.get_submodule(consumer.module)
                scale_inputs(module, consumer.channels[candidate], factor)
    return cast(Network, shrink(scaled, structure, kept.candidates))


@torch.no_grad()
def expand_to_dense(
    small: nn.Module, dense: nn.Module, structure: Structure, kept: KeptChannels
) -> nn.Module:
    """The masked network that ``small`` is to equal: dense shapes, its weights, zeros elsewhere.

    Removed producers compute what they did in ``dense``, but no weight reads it.
    """
    masked = copy.deepcopy(dense)
    outputs, inputs = removed_channels(structure, kept.candidates)
    for name, module in masked.named_modules():
        source = small.get_submodule(name)
        own: dict[str, Tensor] = {
            **dict(source.named_parameters(recurse=False)),
            **dict(source.named_buffers(recurse=False)),
        }
        lost, unread = outputs.get(name, set()), inputs.get(name, set())
        for key, new in own.items():
            value = getattr(module, key)
            if value.shape == new.shape:
                value.copy_(new)
            elif key == "weight" and is_layer(module):
                scale_inputs(module, unread, 0.0)
                blocks(module)[kept_blocks(module, lost, unread)] = blocks(source)
            else:
                axis = 1 if isinstance(module, nn.Embedding) else 0
                stay = [i for i in range(value.shape[axis]) if i not in lost]
                value.index_copy_(axis, torch.tensor(stay, device=value.device), new)
    return masked


def check_equal(small: nn.Module, masked: nn.Module, batches: Iterable[Batch]) -> float:
    """The largest difference of outputs, relative to the largest output.

    It may be more than :data:`TOLERANCE` of the outputs' dtype where large terms cancel, such as
    means a thousand deviations from zero and the biases that take them off. Float64 then decides.

    Raises:
        RunError: it is too large in float64 too.
    """
    worst = 0.0

    @torch.no_grad()
    def compare(x: Batch) -> tuple[Batch, float, float]:
        return x, *_difference(small, masked, x)

    with evaluating(small), evaluating(masked):
        for x, difference, limit in in_threads(compare, batches):
            close = difference <= limit or (
                math.isfinite(difference) and _equal_in_float64(small, masked, x)
            )
            if not close:
                raise RunError(
                    f"the smaller network differs from the masked one by {difference:.1e} of the "
                    f"largest output, accepted {limit:.0e}; nothing is written"
                )
            worst = max(worst, difference)
    return worst


def _difference(small: nn.Module, masked: nn.Module, x: Batch) -> tuple[float, float]:
    """Of the outputs, relative to the largest one, and what :data:`TOLERANCE` accepts."""
    worst, accepted = 0.0, 0.0
    for found, expected in zip(tensors_of(small(x)), tensors_of(masked(x)), strict=True):
        sizes = real_rows(expected.abs(), x)  # real, where outputs are complex
        if found.shape != expected.shape or not sizes.numel():
            return (math.inf, 0.0) if found.shape != expected.shape else (worst, accepted)
        largest = max(float(sizes.max()), torch.finfo(sizes.dtype).tiny)
        difference = float(real_rows((found - expected).abs(), x).max()) / largest
        if math.isnan(difference):
            return difference, 0.0
        worst, accepted = max(worst, difference), max(accepted, TOLERANCE[sizes.dtype])
    return worst, accepted


def _equal_in_float64(small: nn.Module, masked: nn.Module, x: Batch) -> bool:
    one, other = (copy.deepcopy(network).double() for network in (small, masked))
    try:
        whole = isinstance(x, Tensor) and not x.is_floating_point()
        difference, limit = _difference(one, other, x if whole else x.double())
    except RuntimeError:  # the network's own code requires another dtype
        return False
    return difference <= limit
