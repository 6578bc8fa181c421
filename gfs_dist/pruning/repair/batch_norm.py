"""Recalibration: statistics of batch norms measured again after their inputs have changed."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from gfs_dist.errors import NonFiniteError
from gfs_dist.networks import device_of
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.json_values import StepOutput
from gfs_dist.networks.measure.inputs import Batch
from gfs_dist.networks.measure.threads import one_thread_each
from gfs_dist.pruning.calibration.staged_run import FileStore, advance, keep, make_stages

TRACK = "measured"
FUNCTION = "torch.nn.functional.batch_norm"
ARGUMENTS = ("input", "running_mean", "running_var")
"""The first ones of the function; a layer takes the first alone."""


@dataclass(frozen=True, eq=False)
class NormStatistics:
    """Inputs of a norm over some samples: values a channel, their mean and squared deviations."""

    count: int
    mean: Tensor
    squares: Tensor

    def __add__(self, more: NormStatistics) -> NormStatistics:
        count, step = self.count + more.count, more.mean - self.mean
        mean = self.mean + step * (more.count / count)
        between = step.square() * (self.count * more.count / count)
        return NormStatistics(count, mean, self.squares + more.squares + between)


def recalibrate(
    network: GraphNetwork, batches: Iterable[Batch], folder: Path | str | None = None
) -> None:
    """Set running mean and variance of every batch norm to those of all samples, in place.

    Norm after norm, each on the outputs of the norms before it, already measured: the result does
    not depend on how samples are divided into batches. A norm that
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
    asked = [frozenset([norm.source]) for norm in norms]
    stages = make_stages(network, asked)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, one_thread_each() as pool:
        store = FileStore(scratch, device_of(network))
        chunks = 0
        for x in batches:
            store.save(TRACK, 0, chunks, {network.gfs_inputs[0]: x})
            chunks += 1

        def see(stage: int, chunk: int) -> NormStatistics:
            results = advance(network, stages[stage], store.load(TRACK, stage, chunk))
            store.save(TRACK, stage + 1, chunk, keep(results, stages[stage].live))
            return _statistics_of(results[norms[stage].source])

        for stage, norm in enumerate(norms):
            first, *others = pool.map(partial(see, stage), range(chunks))
            _set(norm, sum(others, start=first))
            store.drop(TRACK, stage)


class _Norm(NamedTuple):
    """Name and running statistics of a batch norm, and the result that it reads."""

    name: str
    mean: Tensor
    variance: Tensor
    source: str


def _norms(network: GraphNetwork) -> list[_Norm]:
    """Batch norms with statistics, layers or calls of the function, in the program's order."""
    found: list[_Norm] = []
    tensors: dict[str, Any] = {}
    for step in network.gfs_program:
        if step.kind == "tensor":
            tensors[step.name] = reduce(getattr, step.path, network)
            continue
        x, *given = (
            step.args[place] if place < len(step.args) else step.kwargs.get(name)
            for place, name in enumerate(ARGUMENTS)
        )
        module = network.get_submodule(step.target) if step.kind == "module" else None
        if isinstance(module, _BatchNorm):
            statistics = [module.running_mean, module.running_var]
        elif step.target == FUNCTION:
            statistics = [tensors.get(result.name) for result in given if result is not None]
        else:
            continue
        match statistics:
            case [Tensor() as mean, Tensor() as variance]:
                name = step.target if module else step.name
                found.append(_Norm(name, mean, variance, cast(StepOutput, x).name))
    calls = Counter(id(norm.mean) for norm in found)
    return [norm for norm in found if calls[id(norm.mean)] == 1]


def _statistics_of(x: Tensor) -> NormStatistics:
    others = [dim for dim in range(x.ndim) if dim != 1]
    mean, count = x.mean(others, dtype=torch.float64), x.numel() // x.shape[1]
    near = mean.to(x.dtype)  # not the mean, where that is far from zero
    deviations = (x.transpose(1, -1) - near).transpose(1, -1)
    squares = torch.linalg.vector_norm(deviations, dim=others, dtype=torch.float64).square()
    squares -= count * (mean - near.double()).square()
    return NormStatistics(count, mean, squares.clamp(min=0))


@torch.no_grad()
def _set(norm: _Norm, seen: NormStatistics) -> None:
    if seen.count == 1:
        return
    variance = seen.squares / (seen.count - 1)
    for key, place, value in (
        ("running_mean", norm.mean, seen.mean),
        ("running_var", norm.variance, variance),
    ):
        place.copy_(value)
        if not torch.isfinite(place).all():
            raise NonFiniteError(
                f"layer {norm.name!r}: its {key} would be {float(value.max()):.3g}, more than "
                f"{place.dtype} holds"
            )
