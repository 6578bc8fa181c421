"""Loss and accuracy of networks that classify."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.errors import DataError, NonFiniteError, ShapeError
from gfs_dist.networks.measure.modes import device_of, evaluating
from gfs_dist.networks.measure.non_finite import first_non_finite


class Classified(NamedTuple):
    """Mean cross-entropy, and the share of samples whose largest output is the right one."""

    loss: float
    accuracy: float


def classify(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Classified:
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
    device = device_of(model)
    loss, right, count = 0.0, 0, 0
    with evaluating(model):
        for x, labels in batches:
            x, labels = x.to(device), labels.to(device)
            logits = model(x)
            check_outputs(logits, labels, count)
            if not torch.isfinite(logits).all():
                raise NonFiniteError(_where(model, x, logits, count))
            loss += float(functional.cross_entropy(logits.double(), labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
            count += len(labels)
    if count == 0:
        raise DataError("batches: found no samples to evaluate on, accepted one or more")
    return Classified(loss / count, right / count)


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


def _where(model: nn.Module, x: Tensor, logits: Tensor, before: int) -> str:
    """What to say of a batch whose outputs are not all finite."""
    first = int((~torch.isfinite(logits)).any(1).nonzero()[0])
    if not torch.isfinite(x[first]).all():
        return f"inputs: NaN or infinity at sample {before + first}"
    layer = first_non_finite(model, x)
    return f"outputs: NaN or infinity at sample {before + first}, first after layer {layer!r}"
