"""Reads users' batches: samples, and their class numbers where there are any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfs_dist.errors import InputError, ShapeError

INTEGERS = frozenset(
    [
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    ]
)
CLASS_NUMBERS = "class numbers: integers (N,) from 0 to C - 1 for outputs (N, C), C 2 or more"
STACK = "stack single inputs by torch.stack or a DataLoader"
WRAP = "wrap the network in a module whose forward takes one tensor"
BATCH = "a tensor or (x, y)"

Row = tuple[Tensor, Tensor | None]
"""A sample, and its class number."""


class Labels:
    """The second parts of batches: class numbers, or values that objectives of the loss refuse and
    others ignore.

    Attributes:
        given: whether any batch has a second part.
        instead: description of the first second part that cannot be class numbers; else empty.
    """

    def __init__(self) -> None:
        self.given, self.instead = False, ""
        self._count = 0
        self._least = self._most = (0, 0)  # with their samples

    def read(self, y: Any, num_samples: int, batch: int) -> Tensor | None:
        """Class numbers of one batch, int64 (num_samples,); None after a batch without."""
        self.given = self.given or y is not None
        self.instead = self.instead or _instead(y, num_samples, batch)
        if self.instead:
            return None
        labels: Tensor = y.detach().cpu().long()
        numbered = [(label, self._count + i) for i, label in enumerate(labels.tolist())]
        self._least = min([self._least, *numbered], key=itemgetter(0))
        self._most = max([self._most, *numbered], key=itemgetter(0))
        self._count += num_samples
        return labels

    def unusable(self, outputs: Tensor, num_samples: int) -> str:
        """Why the labels are no class numbers for these outputs; empty if they are."""
        if self.instead:
            return self.instead
        shape = tuple(outputs.shape)
        if outputs.ndim != 2 or len(outputs) != num_samples or shape[1] < 2:
            return f"labels for outputs {shape} of {num_samples} samples"
        for label, sample in (self._least, self._most):
            if not 0 <= label < shape[1]:
                return f"label {label} at sample {sample} for {shape[1]} outputs"
        return ""


def read_batches(batches: Iterable[Any], labels: Labels) -> Iterator[Row]:
    """All samples, one by one, on the CPU.

    Args:
        batches: tensors or arrays (samples, ...), alone or first of a list or tuple of two.
        labels: records the second parts.

    Raises:
        TypeError, ShapeError, InputError: not a batch; says what to do.
    """
    if not isinstance(batches, Iterable):
        raise TypeError(
            f"batches: found {type(batches).__name__}, accepted an iterable of batches, such as a "
            "list or a DataLoader"
        )
    for number, batch in enumerate(batches):
        x, y = map(_tensor, _parts(batch, number))
        if not _holds_numbers(x):
            place = "x of batch" if isinstance(batch, list | tuple) else "batch"
            raise TypeError(f"batches: {place} {number} is {_kind(x)}, accepted {BATCH}")
        if x.ndim == 0:
            raise ShapeError(
                f"batches: batch {number} is a single number, accepted (samples, ...); {STACK}"
            )
        own = labels.read(y, len(x), number)
        yield from zip(x.detach().cpu(), [None] * len(x) if own is None else own, strict=True)


def _parts(batch: Any, number: int) -> tuple[Any, Any]:
    """``x`` and ``y`` of a batch, ``y`` None if it has none."""
    if isinstance(batch, Mapping):
        keys = ", ".join(repr(key) for key in list(batch)[:4])
        raise TypeError(
            f"batches: batch {number} is {type(batch).__name__}, accepted {BATCH}: take the input "
            f"out of it, and the labels if there are any (its keys: {keys})"
        )
    if not isinstance(batch, list | tuple):
        return batch, None
    # In the first batch only: a loader's last one may have as few samples as an image channels.
    if len(batch) in (1, 2) and not (number == 0 and _two_images(batch)):
        return batch[0], batch[1] if len(batch) == 2 else None
    alike = len({getattr(part, "shape", None) for part in batch}) <= 1
    cure = f"leave out all but x and y; a network of several inputs: {WRAP}"
    if alike:
        cure = f"{STACK}, and give a pair as a tuple" if len(batch) == 2 else STACK
    raise InputError(
        f"batches: batch {number} is a {type(batch).__name__} of {len(batch)}, accepted {BATCH}; "
        f"{cure}"
    )


def _two_images(batch: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list looks like two images (C, H, W) and not like a loader's ``[x, y]``."""
    if not isinstance(batch, list) or len(batch) != 2:
        return False
    kinds = {(getattr(part, "shape", ()), getattr(part, "dtype", None)) for part in batch}
    shape: Any = getattr(batch[0], "shape", ())
    return len(kinds) == 1 and len(shape) == 3 and shape[0] in (1, 3)


def _tensor(part: Any) -> Any:
    """An array of numbers copied to a tensor; anything else unchanged."""
    if not isinstance(part, np.ndarray):
        return part
    try:  # in native byte order
        return torch.from_numpy(part.astype(part.dtype.newbyteorder("=")))
    except TypeError:
        return part


def _instead(y: Any, num_samples: int, batch: int) -> str:
    """Description of a second part that cannot be class numbers; else empty."""
    if y is None:
        return f"no labels in batch {batch}"
    if not _holds_numbers(y):
        return f"labels as {_kind(y)} in batch {batch}"
    if y.dtype in INTEGERS and y.shape == (num_samples,):
        return ""
    kind = str(y.dtype).removeprefix("torch.")
    return f"labels {kind} {tuple(y.shape)} for {num_samples} samples in batch {batch}"


def _holds_numbers(part: Any) -> bool:
    """Whether it is a dense tensor in memory."""
    if not isinstance(part, Tensor) or part.is_quantized or part.is_nested:
        return False
    return part.layout == torch.strided and not part.is_meta


def _kind(part: Any) -> str:
    name = type(part).__name__
    if isinstance(part, Tensor):
        return f"a sparse, nested, quantized or meta {name}"
    return f"{name} of {part.dtype}" if isinstance(part, np.ndarray) else name
