"""Losses of an output, mean over samples, with the derivatives that searches need.

A loss first subtracts from outputs what its :meth:`~Loss.shift` says, the same for every convex
combination of contributions: the target (squared), the logit of the right class (cross-entropy).
An offset common to all contributions is gone before anything is added up.

Every loss here is convex and, but for the squared one, *generalised self-concordant*: along a
direction ``d`` its third derivative is at most ``r(d)`` times its second, with ``r`` given by
:meth:`radius`. That yields the lower bound of ``screened.py`` (Bach 2010, "Self-concordant
analysis for logistic regression", proposition 1).

Outputs are shifted float64 rows (candidates, samples * outputs), sample by sample.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from gfs_dist.errors import InputError, ShapeError
from gfs_dist.selection.objectives.squared import squared_magnitude

GROUP = 512


class Loss(Protocol):
    """A loss with its target inside."""

    name: str

    def shift(self, rows: Tensor, first: int) -> Tensor:
        """Rows of outputs as the loss uses them; they begin at output number ``first``."""
        ...

    def magnitude(self, loss: float, spread: float) -> float:
        """Size of the terms of a loss; see :func:`gfs_dist.selection.objective.tie_tolerance`.

        ``spread``: mean length of the picks, ``sum_j w_j |psi_j| / sqrt(m)``.
        """
        ...

    def values(self, outputs: Tensor) -> Tensor:
        """Loss of each row: (rows,)."""
        ...

    def gradient(self, output: Tensor) -> Tensor:
        """Derivative by one output (length,), 1/m included."""
        ...

    def curvatures(self, output: Tensor, directions: Tensor) -> Tensor:
        """Second derivative at ``output`` along each row of ``directions``: (rows,)."""
        ...


class ConvexLoss(Loss, Protocol):
    """A loss that can be screened by bounds.

    Attributes:
        empty_loss: loss of the empty network (output zero).
    """

    empty_loss: float

    def radius(self, directions: Tensor) -> Tensor:
        """``r(d)`` of each row: (rows,)."""
        ...


class SquaredLoss:
    """``sum (u - y)^2 / (2 m)``; target (samples * outputs,)."""

    name = "squared"

    def __init__(self, target: Tensor, num_samples: int) -> None:
        self._target, self._num_samples = target, num_samples

    def shift(self, rows: Tensor, first: int) -> Tensor:
        return rows - self._target[first : first + rows.shape[1]]

    def magnitude(self, loss: float, spread: float) -> float:
        return squared_magnitude(loss, spread)

    def values(self, outputs: Tensor) -> Tensor:
        return outputs.square().sum(1) / (2 * self._num_samples)

    def gradient(self, output: Tensor) -> Tensor:
        return output / self._num_samples

    def curvatures(self, output: Tensor, directions: Tensor) -> Tensor:
        return directions.square().sum(1) / self._num_samples


class BinaryCrossEntropy:
    """``mean log(1 + exp(u)) - y u`` of logits u; target 1 or 0 (samples,)."""

    name = "bce"

    def __init__(self, target: Tensor) -> None:
        wrong = ((target != 0) & (target != 1)).nonzero()
        if len(wrong):
            place = int(wrong[0])
            raise InputError(
                f"target: sample {place} holds {float(target[place])}, accepted 0 or 1 for bce"
            )
        self._target, self.empty_loss = target, math.log(2.0)
        self._signs = 1 - 2 * target

    def shift(self, rows: Tensor, first: int) -> Tensor:
        return rows

    def magnitude(self, loss: float, spread: float) -> float:
        return max(abs(loss), self.empty_loss)

    def values(self, outputs: Tensor) -> Tensor:
        # log(1 + exp(u)) - y u = max(v, 0) + log(1 + exp(-|v|)) with v = -u where y is 1, else u:
        # no two large terms cancel. The sum of logarithms is taken as the logarithm of products
        # of GROUP factors in [1, 2], which cannot overflow.
        linear = (outputs * self._signs).clamp_(min=0.0).sum(1)
        factors = outputs.abs().neg_().exp_().add_(1.0)
        whole = factors.shape[1] // GROUP * GROUP
        products = factors[:, :whole].unflatten(1, (-1, GROUP)).prod(2).log_().sum(1)
        rest = factors[:, whole:].log().sum(1)
        return (linear + products + rest) / len(self._target)

    def gradient(self, output: Tensor) -> Tensor:
        return (torch.sigmoid(output) - self._target) / len(self._target)

    def curvatures(self, output: Tensor, directions: Tensor) -> Tensor:
        p = torch.sigmoid(output)
        return directions.square() @ (p * (1 - p) / len(self._target))

    def radius(self, directions: Tensor) -> Tensor:
        return directions.abs().amax(1)


class CrossEntropy:
    """``mean logsumexp(u) - u_y`` of logits (samples, classes); target: class numbers."""

    name = "cross_entropy"

    def __init__(self, target: Tensor, num_samples: int, num_outputs: int) -> None:
        wrong = ((target != target.round()) | (target < 0) | (target >= num_outputs)).nonzero()
        if len(wrong):
            place = int(wrong[0])
            raise InputError(
                f"target: sample {place} holds {float(target[place])}, accepted class numbers "
                f"0 to {num_outputs - 1}"
            )
        self._classes, self._right = num_outputs, target.to(torch.int64)
        self._hot = functional.one_hot(self._right, num_outputs).to(torch.float64)
        self._num_samples, self.empty_loss = num_samples, math.log(num_outputs)

    def _split(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self._num_samples, self._classes))

    def shift(self, rows: Tensor, first: int) -> Tensor:
        logits = rows.unflatten(1, (-1, self._classes))
        sample = first // self._classes
        right = self._right[sample : sample + logits.shape[1]].expand(len(rows), -1)
        return (logits - logits.gather(2, right.unsqueeze(2))).flatten(1)

    def magnitude(self, loss: float, spread: float) -> float:
        return max(abs(loss), self.empty_loss)

    def values(self, outputs: Tensor) -> Tensor:
        return self._split(outputs).logsumexp(-1).sum(-1) / self._num_samples

    def gradient(self, output: Tensor) -> Tensor:
        p = self._split(output).softmax(-1)
        return ((p - self._hot) / self._num_samples).reshape(-1)

    def curvatures(self, output: Tensor, directions: Tensor) -> Tensor:
        p, d = self._split(output).softmax(-1), self._split(directions)
        mean = (p * d).sum(-1, keepdim=True)
        return (p * (d - mean).square()).sum((-1, -2)) / self._num_samples

    def radius(self, directions: Tensor) -> Tensor:
        d = self._split(directions)
        return (d.amax(-1) - d.amin(-1)).amax(-1)


def make_loss(name: str, target: Tensor, num_samples: int, num_outputs: int) -> Loss:
    """A loss by name; ``target`` float64, flat, as ``check_target`` leaves it."""
    if name == "squared":
        return SquaredLoss(target, num_samples)
    if name == "bce":
        if num_outputs != 1:
            raise ShapeError(f"contributions: found {num_outputs} outputs, accepted 1 for bce")
        return BinaryCrossEntropy(target)
    if name == "cross_entropy":
        if num_outputs < 2:
            raise ShapeError("contributions: found 1 output, accepted 2 or more for cross_entropy")
        return CrossEntropy(target, num_samples, num_outputs)
    raise InputError(f"loss: found {name!r}, accepted squared, bce, cross_entropy")
