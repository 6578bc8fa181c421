"""Statistics of batch norms measured again, after what they see has changed."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gfs_dist.errors import NonFiniteError
from gfs_dist.networks import device_of
from gfs_dist.networks.graph_network import GraphNetwork, Step
from gfs_dist.networks.values import Result
from gfs_dist.pruning.layerwise.environments import Environments, InFiles
from gfs_dist.pruning.layerwise.threads import one_thread_each
from gfs_dist.pruning.layerwise.track import advance, keep, make_stages

TRACK = "measured"


@dataclass(frozen=True, eq=False)
class Seen:
    """What a norm saw of some samples: values a channel, their mean and squared deviations."""

    count: int
    mean: Tensor
    squares: Tensor

    def __add__(self, more: Seen) -> Seen:
        count, step = self.count + more.count, more.mean - self.mean
        mean = self.mean + step * (more.count / count)
        between = step.square() * (self.count * more.count / count)
        return Seen(count, mean, self.squares + more.squares + between)


def recalibrate(
    network: GraphNetwork, batches: Iterable[Tensor], folder: Path | str | None = None
) -> None:
    """Set running mean and variance of every batch norm to those of all samples, in place.

    Norm after norm: each sees what the norms before it, already measured, make of the samples. So
    it does not matter how they are divided into batches, or whether these are alike. A norm that
    is called more than once, or that sees one value a channel, stays as it is.

    Args:
        network: recorded; computes where it is; one without batch norms is left as it is.
        batches: inputs; read once.
        folder: where results may wait, for as long as this takes; None for the system's.

    Raises:
        NonFiniteError: a norm sees NaN, or a variance too large for its dtype; names the norm.
    """
    norms = _norms(network)
    if not norms:
        return
    sources = list(norms.values())
    asked = [frozenset([source]) for source in sources]
    stages = make_stages(network, asked)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, one_thread_each() as pool:
        envs: Environments = InFiles(scratch, device_of(network))
        chunks = 0
        for x in batches:
            envs.save(TRACK, 0, chunks, {network.gfs_inputs[0]: x})
            chunks += 1

        def see(stage: int, chunk: int) -> Seen:
            results = advance(network, stages[stage], envs.load(TRACK, stage, chunk))
            envs.save(TRACK, stage + 1, chunk, keep(results, stages[stage].live))
            return _seen(results[sources[stage]])

        for stage, norm in enumerate(norms):
            first, *others = pool.map(partial(see, stage), range(chunks))
            _set(network, norm, sum(others, start=first))
            envs.drop(TRACK, stage)


def _norms(network: GraphNetwork) -> dict[str, str]:
    """Batch norms with statistics, in the order of the program, and the results they read."""
    calls: Counter[nn.Module] = Counter()
    found: dict[str, str] = {}
    for step in network.gfs_program:
        if step.kind == "module":
            module = network.get_submodule(step.target)
            calls[module] += 1
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                found[step.target] = _source(step)
    once = {name for name in found if calls[network.get_submodule(name)] == 1}
    return {name: source for name, source in found.items() if name in once}


def _source(step: Step) -> str:
    given = step.args[0] if step.args else step.kwargs["input"]
    return cast(Result, given).name


def _seen(x: Tensor) -> Seen:
    others = [dim for dim in range(x.ndim) if dim != 1]
    mean, count = x.mean(others, dtype=torch.float64), x.numel() // x.shape[1]
    near = mean.to(x.dtype)  # not the mean, where that is far from zero
    deviations = (x.transpose(1, -1) - near).transpose(1, -1)
    squares = torch.linalg.vector_norm(deviations, dim=others, dtype=torch.float64).square()
    squares -= count * (mean - near.double()).square()
    return Seen(count, mean, squares.clamp(min=0))


@torch.no_grad()
def _set(network: GraphNetwork, name: str, seen: Seen) -> None:
    if seen.count == 1:
        return
    norm, squares = network.get_submodule(name), seen.squares
    for key, value in (("running_mean", seen.mean), ("running_var", squares / (seen.count - 1))):
        place = norm.get_buffer(key)
        place.copy_(value)
        if not torch.isfinite(place).all():
            raise NonFiniteError(
                f"layer {name!r}: its {key} would be {float(value.max()):.3g}, more than "
                f"{place.dtype} holds"
            )
