"""Loss and accuracy: of classifiers over batches, of two-layer networks over whole datasets."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.errors import ConfigError, DataError, NonFiniteError, ShapeError
from gfs_dist.networks.measure.evaluation import device_of, evaluating, first_non_finite
from gfs_dist.networks.measure.inputs import Batch, run
from gfs_dist.networks.measure.threads import in_threads
from gfs_dist.networks.models.two_layer import TwoLayer

LOSSES = ("squared", "bce")
CHUNK_ELEMENTS = 2**23


class Classified(NamedTuple):
    """Mean cross-entropy, and the share of samples whose largest output is the right one."""

    loss: float
    accuracy: float


def classify(model: nn.Module, batches: Iterable[tuple[Batch, Tensor]]) -> Classified:
    """Loss and top-1 accuracy over all samples of ``batches``, in evaluation mode.

    Args:
        model: its outputs are logits (m, classes); it is left as it was.
        batches: inputs and labels int64 (m,); they are moved to the model's device.

    Returns:
        Sums over samples are float64, divided last.

    Raises:
        ShapeError: the outputs are not (m, classes).
        DataError: no samples, or a label that has no output.
        NonFiniteError: an output is NaN or infinite; names sample and layer.
    """
    loss, right, count = 0.0, 0, 0
    with evaluating(model):
        for x, labels, logits in _classified(model, batches):
            check_outputs(logits, labels, count)
            if not torch.isfinite(logits).all():
                raise NonFiniteError(_where(model, x, logits, count))
            loss += float(functional.cross_entropy(logits.double(), labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
            count += len(labels)
    if count == 0:
        raise DataError("batches: found no samples to evaluate on, accepted one or more")
    return Classified(loss / count, right / count)


def _classified(
    model: nn.Module, batches: Iterable[tuple[Batch, Tensor]]
) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """Inputs and labels on the model's device, and its outputs; on the CPU several at a time.

    A batch that all threads share makes them wait for each other at every layer.
    """
    device = device_of(model)
    if device.type != "cpu" or torch.get_num_threads() == 1:
        for x, labels in batches:
            x, labels = x.to(device), labels.to(device)
            yield x, labels, _logits(run(model, x))
        return
    free: SimpleQueue[nn.Module] = SimpleQueue()  # what a network notes in a call is its thread's
    for _ in range(torch.get_num_threads()):
        free.put(copy.deepcopy(model, {id(shared): shared for shared in model.parameters()}))

    @torch.no_grad()
    def work(batch: tuple[Batch, Tensor]) -> tuple[Batch, Tensor, Tensor]:
        own, (x, labels) = free.get(), batch
        try:
            return x, labels, _logits(run(own, x))
        finally:
            free.put(own)

    yield from in_threads(work, batches)


def _logits(outputs: Any) -> Any:
    """Of a model of transformers those of its outputs."""
    return outputs.get("logits", outputs) if isinstance(outputs, Mapping) else outputs


def check_outputs(logits: object, labels: Tensor, before: int = 0) -> None:
    """Do nothing where outputs are logits (m, classes) and every label has one.

    ``before``: samples before these, for messages. Errors: see :func:`classify`.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(labels):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ShapeError(f"outputs: found {found}, accepted ({len(labels)}, classes)")
    wrong = (labels < 0) | (labels >= logits.shape[1])
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise DataError(
            f"labels: found {int(labels[first])} at sample {before + first}, accepted 0 to "
            f"{logits.shape[1] - 1} (the network has {logits.shape[1]} outputs)"
        )


def _where(model: nn.Module, x: Batch, logits: Tensor, before: int) -> str:
    """Sample and layer of the first output that is not finite, for the message."""
    first = int((~torch.isfinite(logits)).any(1).nonzero()[0])
    if isinstance(x, Tensor) and not torch.isfinite(x[first]).all():
        return f"inputs: NaN or infinity at sample {before + first}"
    layer = first_non_finite(model, x)
    return f"outputs: NaN or infinity at sample {before + first}, first after layer {layer!r}"


def loss_sum(outputs: Tensor, target: Tensor, loss: str) -> Tensor:
    """Loss summed over samples, a scalar: ``sum (u - y)^2 / 2``, or BCE of logits.

    Raises:
        ConfigError: unknown loss.
    """
    if loss == "squared":
        return (outputs - target).square().sum() / 2
    if loss == "bce":
        return functional.binary_cross_entropy_with_logits(outputs, target, reduction="sum")
    raise ConfigError(f"objective: found {loss!r}, accepted {', '.join(LOSSES)}")


def mean_loss(outputs: Tensor, target: Tensor, loss: str) -> float:
    """Loss averaged over samples: ``sum (u - y)^2 / (2 m)``, or mean BCE of logits."""
    return float(loss_sum(outputs.detach(), target, loss)) / len(target)


def accuracy(outputs: Tensor, target: Tensor) -> float:
    """Share of samples on the right side: ``f > 0`` where the target is positive."""
    return float(((outputs > 0) == (target > 0)).double().mean())


def row_chunks(num_samples: int, width: int) -> list[slice]:
    """Fixed ranges of samples whose hidden layer takes at most 64 MiB in float64."""
    rows = max(1, CHUNK_ELEMENTS // width)
    return [slice(start, start + rows) for start in range(0, num_samples, rows)]


@torch.no_grad()
def outputs(network: TwoLayer, x: Tensor) -> Tensor:
    """Outputs float64 (m,) of a network for any number of inputs (m, d), chunk by chunk."""
    parts = [network(x[rows]).double() for rows in row_chunks(len(x), network.width)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
