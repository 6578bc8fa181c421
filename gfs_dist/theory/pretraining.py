"""How much pre-training is enough: Theorems 2 and 3 and the spectrum of Definition 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gfs_dist.errors import InputError, NonFiniteError, ShapeError
from gfs_dist.theory.arguments import at_least, whole_numbers


@dataclass(frozen=True)
class Spectrum:
    """Extreme singular values of the hidden outputs ``act(X A_0')`` at initialisation.

    Attributes:
        smallest: alpha, the smallest singular value.
        largest: beta, the largest one.
        num_samples, num_neurons: shape of the matrix.
    """

    smallest: float
    largest: float
    num_samples: int
    num_neurons: int

    @property
    def condition_number(self) -> float:
        """The ratio kappa = beta / alpha; infinite if alpha is 0 (fewer neurons than samples)."""
        return self.largest / self.smallest if self.smallest > 0 else math.inf

    def step_share(self, lr: float) -> float:
        """Share that ``lr`` is of the largest step the theory allows, N^2 / beta^2.

        ``lr`` multiplies the gradient of the mean loss, as everywhere in gfs-dist; the paper's
        step, for the summed loss, is ``lr`` divided by the number of samples. N^2 / beta^2 looks
        at the output weights alone; where both layers are trained, steps are stable only below 2
        over the largest eigenvalue of the tangent kernel of both: a share of 0.33 on 20 digits,
        of 0.04 on MNIST (tanh, Gaussian initialisation). ``train.lr`` is null: that is measured.
        """
        step = at_least("lr", lr, 0.0, above=True) / self.num_samples
        return step * self.largest**2 / self.num_neurons**2


def initial_spectrum(hidden: Tensor | NDArray[Any]) -> Spectrum:
    """Singular values of Definition 1.

    Args:
        hidden: ``act(X A_0')``, (samples, neurons): the hidden layer's outputs at initialisation,
            without the output weights. Computed in float64.

    Raises:
        ShapeError: not a matrix, or empty.
        NonFiniteError: NaN or infinity.

    Source: PAPER Definition 1.
    """
    matrix = torch.as_tensor(hidden).detach().to(torch.float64)
    if matrix.dim() != 2 or matrix.numel() == 0:
        raise ShapeError(
            f"hidden: found shape {tuple(matrix.shape)}, accepted (samples, neurons), not empty"
        )
    if not bool(torch.isfinite(matrix).all()):
        raise NonFiniteError("hidden: found NaN or infinity, accepted finite numbers")
    num_samples, num_neurons = matrix.shape
    values = torch.linalg.svdvals(matrix)
    # Definition 1 takes all m directions of the output: with fewer neurons some are never reached.
    smallest = float(values[-1]) if num_neurons >= num_samples else 0.0
    return Spectrum(smallest, float(values[0]), num_samples, num_neurons)


def pretraining_bound(
    k: ArrayLike,
    iterations: ArrayLike,
    initial_loss: float,
    condition_number: float,
    *,
    step_share: float = 1.0,
    rate_constant: float = 1.0,
    loss_constant: float = 1.0,
    sparsity_constant: float = 1.0,
) -> NDArray[np.float64]:
    """Theorem 2: the loss of ``k`` picks after ``t`` iterations of pre-training.

        L[u_k] <= C log(k) / k  +  c' (1 - c s / kappa^2)^t L(0)

    The first term falls with the picks alone, the second with the iterations alone: it is the
    bound of the dense loss (Theorem 7). They are equal at :func:`pretraining_threshold`.

    The paper leaves c, c' and C open. Ours: ``c = 2 lambda_min(K) N^2 / alpha^2`` from the tangent
    kernel of both layers (:meth:`gfs_dist.theory.KernelRate.rate_constant`), ``c' = 1``, and
    ``C = D^2/2`` of Lemma 1. Then ``c s / kappa^2`` is ``2 lambda_min(K)`` times the paper's step.
    Lemma 1 itself also has ``D^2/4`` (or L[u_1] - L_N) ``/ k``, which the order in k hides:
    add it for a bound that holds for small k.

    Args:
        k: picks, at least 1.
        iterations: t, at least 0; broadcast with ``k``.
        initial_loss, condition_number, step_share, rate_constant, loss_constant,
            sparsity_constant: as for :func:`pretraining_threshold`.

    Returns:
        float64 of the broadcast shape, in the units of the loss.

    Raises:
        InputError: an argument is out of its range.

    Source: arXiv 2108.00259, Theorem 2.
    """
    picks = whole_numbers("k", k, least=1)
    t = whole_numbers("iterations", iterations, least=0)
    loss, dense, constant = _above_0(
        initial_loss=initial_loss, loss_constant=loss_constant, sparsity_constant=sparsity_constant
    )
    kept = max(0.0, 1.0 - _contraction(condition_number, step_share, rate_constant))
    bound: NDArray[np.float64] = constant * np.log(picks) / picks + dense * loss * kept**t
    return bound


def pretraining_threshold(
    k: ArrayLike,
    initial_loss: float,
    condition_number: float,
    *,
    step_share: float = 1.0,
    rate_constant: float = 1.0,
    loss_constant: float = 1.0,
    sparsity_constant: float = 1.0,
) -> NDArray[np.float64]:
    """Iterations of pre-training after which the dense loss no longer limits ``k`` picks.

        t >= log( c' k L(0) / (C log k) ) / -log(1 - c s / kappa^2)   ~  kappa^2 / (c s) log k

    (equation 18 with the loss as mean over samples, which cancels the number of samples, and the
    step as share ``s`` of its largest value N^2/beta^2, which cancels the width). Before it,
    picking more neurons is not promised to help: pre-training was too short.

    The paper does not give c, c' and C: with their defaults of 1 the numbers show how the
    threshold moves with k, kappa and the step, not where it lies. With the constants that
    :func:`pretraining_bound` names, from the network itself, it is 1 to 6 times the iterations
    after which more picks begin to help; with all constants 1, 150 to 3,000 times (digits and
    MNIST, tanh, 10 to 40 samples, N = 1,000 and 4,000, 447 picks).

    Args:
        k: picks, at least 2; one number or an array of any shape.
        initial_loss: mean loss at initialisation, larger than 0.
        condition_number: kappa of Definition 1, at least 1 (``initial_spectrum``).
        step_share: s, in (0, 1] (``Spectrum.step_share``).
        rate_constant: c of the linear rate of gradient descent, larger than 0.
        loss_constant: c' before the dense loss, larger than 0.
        sparsity_constant: C before the terms in log(k)/k, larger than 0.

    Returns:
        float64 of the shape of ``k``, iterations, at least 0; infinite where kappa is.

    Raises:
        InputError: an argument is out of its range.

    Source: PAPER Theorem 3.
    """
    steps = whole_numbers("k", k, least=2)
    loss, dense, constant = _above_0(
        initial_loss=initial_loss, loss_constant=loss_constant, sparsity_constant=sparsity_constant
    )
    needed = np.maximum(0.0, np.log(dense / constant * steps * loss / np.log(steps)))
    contraction = _contraction(condition_number, step_share, rate_constant)
    if contraction == 0.0:
        per_iteration = math.inf
    else:
        per_iteration = 1.0 / -math.log1p(-contraction) if contraction < 1.0 else 0.0
    threshold: NDArray[np.float64] = np.zeros_like(needed)
    np.multiply(needed, per_iteration, out=threshold, where=needed > 0)
    return threshold


def _above_0(**values: float) -> list[float]:
    """The values, each refused by its name unless it is finite and above 0."""
    return [at_least(name, value, 0.0, above=True) for name, value in values.items()]


def _contraction(condition_number: float, step_share: float, rate_constant: float) -> float:
    """Share ``c s / kappa^2`` of the loss that an iteration takes away, as the theory has it."""
    if not condition_number >= 1:
        raise InputError(f"condition_number: found {condition_number}, accepted numbers from 1")
    share = at_least("step_share", step_share, 0.0, above=True)
    if share > 1:
        raise InputError(
            f"step_share: found {share:g}, accepted numbers above 0 up to 1; the theory says "
            "nothing about larger steps"
        )
    rate = at_least("rate_constant", rate_constant, 0.0, above=True)
    return rate * share / condition_number**2
