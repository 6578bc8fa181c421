"""What a network is called with: named tensors of some samples, and how they are given to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

Call = Callable[[nn.Module, Any], Any]
"""How a batch goes through a model: ``call(model, batch) -> outputs``."""

MASK = "attention_mask"
"""Name of the tensor (samples, tokens) that is 0 at padding."""


@dataclass(frozen=True)
class BatchForm:
    """How tensors become a batch, and a batch goes through a model.

    Attributes:
        template: a batch with a :class:`Slot` in the place of each tensor of samples.
        call: the user's; None: a dict is given as keywords, a tuple by position, the rest alone.
        images: names of tensors that the model takes as a list of samples (detectors).
    """

    template: Any
    call: Call | None = None
    images: frozenset[str] = frozenset()

    def run(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> Any:
        """Outputs of the model."""
        batch = tree_map(lambda leaf: self._filled(leaf, tensors), self.template)
        if self.call is not None:
            return self.call(model, batch)
        if isinstance(batch, Mapping):
            return model(**batch)
        return model(*batch) if isinstance(batch, tuple) else model(batch)

    def _filled(self, leaf: Any, tensors: Mapping[str, Tensor]) -> Any:
        if not isinstance(leaf, Slot):
            return leaf
        return list(tensors[leaf.name]) if leaf.name in self.images else tensors[leaf.name]


@dataclass(frozen=True)
class Slot:
    """The place of a tensor in a batch."""

    name: str


@dataclass(frozen=True, eq=False)
class Inputs:
    """Tensors of some samples by name, the first axis counts samples.

    Attributes:
        form: how they are given to a model; None where a network knows.
    """

    tensors: dict[str, Tensor]
    form: BatchForm | None
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> Any:
        return Inputs, (self.tensors, self.form)  # what is remembered stays in its process

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: slice | Tensor) -> Inputs:
        """Some of the samples."""
        return self.each(lambda tensor: tensor[rows])

    def run(self, model: nn.Module) -> Any:
        """Outputs of the model, or of a network that takes :class:`Inputs` themselves."""
        if getattr(model, "takes_inputs", False):
            return model(self)
        assert self.form is not None
        return self.form.run(model, self.tensors)

    def to(self, device: torch.device | str) -> Inputs:
        return self.each(lambda tensor: tensor.to(device))

    def double(self) -> Inputs:
        """Floating tensors in float64."""
        return self.each(lambda t: t.double() if t.is_floating_point() else t)

    def clone(self) -> Inputs:
        return self.each(Tensor.clone)

    @property
    def shapes(self) -> tuple[Any, ...]:
        """What the steps of a forward pass may depend on besides numbers."""
        return tuple((name, *t.shape, t.dtype) for name, t in self.tensors.items())

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def real(self) -> Tensor | None:
        """Where tokens are no padding, bool (samples, tokens); None without a mask, or padding."""
        mask = self.tensors.get(MASK)
        if mask is None or mask.ndim != 2 or bool((mask != 0).all()):
            return None
        return mask != 0

    def __iter__(self) -> Iterator[Inputs]:
        """Samples one by one; Python's own would take their axis away."""
        return iter(self.split(1))

    def split(self, size: int) -> list[Inputs]:
        return [self[at : at + size] for at in range(0, len(self), size)]

    @property
    def is_cuda(self) -> bool:
        return next(iter(self.tensors.values())).is_cuda

    def each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """Every tensor changed."""
        return Inputs({name: change(t) for name, t in self.tensors.items()}, self.form)


Batch = Tensor | Inputs
"""Samples: one tensor, or several by name."""


def as_batch(x: Tensor | Mapping[str, Tensor]) -> Batch:
    """A tensor as it is; of a dict the inputs that a model is given as keyword arguments."""
    if isinstance(x, Tensor):
        return x
    return Inputs(dict(x), BatchForm({name: Slot(name) for name in x}))


def joined(parts: Sequence[Batch]) -> Batch:
    """The samples of several batches, one after another."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)  # type: ignore[arg-type]
    names, form = parts[0].tensors, parts[0].form
    return Inputs({n: torch.cat([p.tensors[n] for p in parts]) for n in names}, form)  # type: ignore[union-attr]


def repeated(x: Batch, count: int) -> Batch:
    """The first sample, so many times."""
    if isinstance(x, Inputs):
        return x.each(lambda tensor: repeated(tensor, count))  # type: ignore[arg-type, return-value]
    return x[:1].expand(count, *x.shape[1:]).contiguous()


def real_rows(values: Tensor, x: object) -> Tensor:
    """Rows of ``values`` (samples, tokens, ...) that are no padding, as (rows, ...); else all."""
    real = x.real if isinstance(x, Inputs) else None
    if real is None or values.ndim < 3 or values.shape[:2] != real.shape:
        return values
    return values[real.to(values.device)]


def run(model: nn.Module, x: Tensor | Inputs | Sequence[Tensor]) -> Any:
    """Outputs of a model for a tensor, several by position, or inputs of any form."""
    if isinstance(x, Inputs):
        return x.run(model)
    return model(x) if isinstance(x, Tensor) else model(*x)


def described(x: Tensor | Inputs) -> str:
    """Shapes and dtypes, for messages."""
    named = x.tensors if isinstance(x, Inputs) else {"": x}
    kinds = (f"{name} shape {tuple(t.shape)}, {t.dtype}".strip() for name, t in named.items())
    return "; ".join(kinds)


def tensors_of(outputs: Any) -> Iterator[Tensor]:
    """All tensors in a network's output: a tensor, or lists, dictionaries and the like of outputs.

    Of a Hugging Face ``ModelOutput``, a dictionary too, and of other objects their attributes.
    """
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        yield from tensors_of(list(outputs.values()))
    elif isinstance(outputs, (list, tuple)):
        for part in outputs:
            yield from tensors_of(part)
