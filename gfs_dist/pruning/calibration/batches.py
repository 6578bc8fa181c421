"""Reads users' batches: samples, and their class numbers where there are any."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_leaves, tree_unflatten

from gfs_dist.errors import InputError, ShapeError
from gfs_dist.networks.measure.evaluation import device_of, evaluating
from gfs_dist.networks.measure.inputs import BatchForm, Call, Inputs, Slot

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

X, LABELS = "x", "labels"
"""Names of the only tensor of a batch, and of class numbers."""

Row = tuple[dict[str, Tensor], Tensor | None]
"""The tensors of a sample, and its class number."""


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

    def unusable(self, outputs: Any, num_samples: int) -> str:
        """Why the labels are no class numbers for these outputs; empty if they are."""
        if self.instead:
            return self.instead
        if not isinstance(outputs, Tensor):
            return f"labels for {len(outputs)} outputs"
        shape = tuple(outputs.shape)
        if outputs.ndim != 2 or len(outputs) != num_samples or shape[1] < 2:
            return f"labels for outputs {shape} of {num_samples} samples"
        for label, sample in (self._least, self._most):
            if not 0 <= label < shape[1]:
                return f"label {label} at sample {sample} for {shape[1]} outputs"
        return ""


class BatchReader:
    """Reads batches: tensors alone, or all that a model is called with.

    Args:
        model: decides by its ``forward`` what several parts of a batch are; None: batches are a
            tensor, or a tensor and labels.
        call: the user's, see :class:`BatchForm`.

    Attributes:
        labels: the second parts.
        form: of the batches read so far, where they are no tensors alone.
    """

    def __init__(self, model: nn.Module | None = None, call: Call | None = None) -> None:
        self.model, self.call = model, call
        self.labels: Labels = Labels()
        self.form: BatchForm | None = None

    def rows(self, batches: Iterable[Any]) -> Iterator[Row]:
        """All samples, one by one, on the CPU.

        Raises:
            TypeError, ShapeError, InputError: not a batch; says what to do.
        """
        if not isinstance(batches, Iterable):
            raise TypeError(
                f"batches: found {type(batches).__name__}, accepted an iterable of batches, such "
                "as a list or a DataLoader"
            )
        for number, batch in enumerate(batches):
            tensors, y = self._split(batch, number)
            count = len(next(iter(tensors.values())))
            own = self.labels.read(_tensor(y), count, number)
            whole = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
            for place in range(count):
                label = None if own is None else own[place]
                yield {name: tensor[place] for name, tensor in whole.items()}, label

    def _split(self, batch: Any, number: int) -> tuple[dict[str, Tensor], Any]:
        """The tensors of a batch, and its labels."""
        needed = _required(self.model) if self.model is not None else 1
        several = isinstance(batch, list | tuple) and (
            needed > 1 or any(isinstance(part, Mapping | list | tuple) for part in batch[:1])
        )
        if self.call is not None or isinstance(batch, Mapping) or several:
            return self._named(*self._apart(batch, needed), number)
        if self.model is not None and _images(batch) and _takes_lists(self.model, batch):
            return self._named(list(batch), None, number)
        x, y = map(_tensor, _parts(batch, number))
        if not _holds_numbers(x):
            place = "x of batch" if isinstance(batch, list | tuple) else "batch"
            raise TypeError(f"batches: {place} {number} is {_kind(x)}, accepted {BATCH}")
        if x.ndim == 0:
            raise ShapeError(
                f"batches: batch {number} is a single number, accepted (samples, ...); {STACK}"
            )
        return {X: x}, y

    def _apart(self, batch: Any, needed: int) -> tuple[Any, Any]:
        """What the model is called with, and labels."""
        if isinstance(batch, Mapping):
            rest = dict(batch)
            labels = rest.get(LABELS) if self.call is not None else rest.pop(LABELS, None)
            return rest, labels
        if self.call is not None or not isinstance(batch, list | tuple):
            pair = isinstance(batch, list | tuple) and len(batch) == 2
            return batch, batch[1] if pair else None
        if isinstance(batch[0], Mapping):
            rest = dict(batch[0])
            labels = rest.pop(LABELS, None)
            return rest, batch[1] if len(batch) > 1 else labels
        if isinstance(batch[0], list | tuple):
            first = tuple(batch[0]) if needed > 1 else list(batch[0])
            return first, batch[1] if len(batch) > 1 else None
        return tuple(batch[:needed]), batch[needed] if len(batch) == needed + 1 else None

    def _named(self, batch: Any, labels: Any, number: int) -> tuple[dict[str, Tensor], Any]:
        """The tensors of a batch by name; its form is kept."""
        if isinstance(batch, list) and _images(batch):
            self.form = BatchForm(Slot(X), self.call, frozenset([X]))
            tensors = {X: _stacked(batch, number)}
            return tensors, labels if isinstance(labels, Tensor) else None
        named, spec = tree_flatten_with_path(batch)
        found = [(_name_of(path), _tensor(leaf)) for path, leaf in named]
        first = next((leaf for _, leaf in found if _holds_numbers(leaf) and leaf.ndim), None)
        if first is None:
            kind = type(batch).__name__
            raise TypeError(f"batches: batch {number} is a {kind} without a tensor of samples")
        tensors, leaves = {}, []
        for name, leaf in found:
            is_row = _holds_numbers(leaf) and leaf.ndim and len(leaf) == len(first)
            leaves.append(Slot(name) if is_row else leaf)
            if is_row:
                tensors[name] = leaf
        template = tree_unflatten(leaves, spec)
        if self.form is not None and str(template) != str(self.form.template):
            raise ShapeError(
                f"batches: batch {number} has other parts than those before: found "
                f"{', '.join(tensors)}, accepted {', '.join(self.names)}, all with one first axis"
            )
        self.form = BatchForm(template, self.call)
        return tensors, labels

    @property
    def names(self) -> list[str]:
        """Of the tensors in a batch."""
        leaves = tree_leaves(self.form.template) if self.form is not None else []
        return [leaf.name for leaf in leaves if isinstance(leaf, Slot)]

    @property
    def is_plain(self) -> bool:
        """Whether batches are tensors that the model is called with."""
        return self.form is None

    @property
    def takes_lists(self) -> bool:
        """Whether the model takes lists of samples."""
        return self.form is not None and bool(self.form.images)

    def inputs(self, tensors: dict[str, Tensor]) -> Inputs:
        """Tensors of samples, to be given to the model as they came."""
        return Inputs(tensors, self.form or BatchForm(Slot(X)))


def _name_of(path: Any) -> str:
    """Of a leaf: its keys, joined by points; ``x0``, ``x1``, ... by place."""
    keys = [getattr(part, "key", getattr(part, "idx", part)) for part in path]
    return ".".join(f"{X}{key}" if isinstance(key, int) else str(key) for key in keys) or X


def _required(model: nn.Module) -> int:
    """Positional arguments that ``forward`` cannot do without."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # not written in Python
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)


def _images(batch: Any) -> bool:
    """Whether it is a list of images (C, H, W)."""
    return (
        isinstance(batch, list)
        and bool(batch)
        and all(isinstance(part, Tensor) and part.ndim == 3 for part in batch)
    )


def _takes_lists(model: nn.Module, images: list[Tensor]) -> bool:
    with evaluating(model):
        try:
            model([image.to(device_of(model)) for image in images[:1]])
        except Exception:  # noqa: BLE001 - any model's own complaint
            return False
    return True


def _stacked(images: list[Tensor], number: int) -> Tensor:
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise ShapeError(
            f"batches: batch {number} has images of shapes {', '.join(map(str, sorted(shapes)))}, "
            "accepted are images of one shape in a batch"
        )
    return torch.stack(images)


def _parts(batch: Any, number: int) -> tuple[Any, Any]:
    """``x`` and ``y`` of a batch, ``y`` None if it has none."""
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
