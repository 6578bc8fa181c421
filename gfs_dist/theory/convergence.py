"""How fast gradient descent trains a two-layer network: Theorem 7, by its tangent kernel.

The paper bounds the rate by the output layer's part of the kernel and leaves its constant open.
Here the kernel of both layers is measured, and with it that constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gfs_dist.errors import NonFiniteError, ShapeError
from gfs_dist.theory.arguments import at_least
from gfs_dist.theory.pretraining import Spectrum


@dataclass(frozen=True)
class KernelRate:
    """What the tangent kernel at initialisation says of gradient descent on the squared loss.

    Steps here are those of equation 5 on the loss summed over samples, as the paper's; gfs-dist's
    ``train.lr``, on the mean loss, is the number of samples times as large.

    Attributes:
        smallest, largest: extreme eigenvalues of the kernel; ``smallest`` is 0 where rounding
            hides it.
        num_samples: its size.
    """

    smallest: float
    largest: float
    num_samples: int

    @property
    def rate(self) -> float:
        """Theorem 7 per unit of step: after t small steps eta, L_t <= exp(-rate eta t) L_0."""
        return 2 * self.smallest

    @property
    def stable_step(self) -> float:
        """Larger steps overshoot and grow along the steepest direction."""
        return 2 / self.largest if self.largest > 0 else math.inf

    def losses(self, iterations: ArrayLike, initial_loss: float, lr: float) -> NDArray[np.float64]:
        """Theorem 7: the least contraction that is sure, ``(1 - eta lambda_min)^(2 t) L_0``.

        Args:
            iterations: t, any shape.
            initial_loss: L_0.
            lr: step on the mean loss; ``eta = lr / num_samples`` is below ``stable_step``.

        Returns:
            float64 of the shape of ``iterations``; infinite where the step is not stable.
        """
        step = at_least("lr", lr, 0.0, above=True) / self.num_samples
        ends = max(abs(1 - step * value) for value in (self.smallest, self.largest))
        count = np.asarray(iterations, dtype=np.float64)
        if ends > 1:
            return np.where(count > 0, math.inf, initial_loss)
        return np.asarray(initial_loss * ends ** (2 * count))

    def rate_constant(self, spectrum: Spectrum) -> float:
        """The paper's open c in ``1 - c eta alpha^2 / N^2``: ``2 lambda_min N^2 / alpha^2``.

        At least 2, what the output layer alone gives to leading order, and more by what the
        hidden layer adds; NaN where alpha is 0.

        Args:
            spectrum: of the hidden outputs of the same network on the same samples.
        """
        alpha = spectrum.smallest / spectrum.num_neurons
        return self.rate / alpha**2 if alpha > 0 else math.nan


def kernel_rate(kernel: Tensor | NDArray[Any]) -> KernelRate:
    """Rate and stable step of gradient descent, from the tangent kernel of both layers.

        K_jl = 1/N^2 sum_i [ act(a_i x_j) act(a_i x_l)
                             + (x_j . x_l) b_i^2 act'(a_i x_j) act'(a_i x_l) ]

    The residual of the summed squared loss follows ``r_{t+1} = (1 - eta K_t) r_t``, up to the
    network's curvature; the rate is that of K at initialisation, as long as training moves it
    little. Measured (tanh, N = 1,000 and 4,000, steps of 1 / lambda_max): 0.95 to 1.25 of it on 10
    and 20 digits; 0.12 to 0.15 of it on MNIST, whose K shrinks to an eighth as neurons saturate,
    and then the rate is that of the kernel after training.

    Args:
        kernel: K, (samples, samples), symmetric: :func:`gfs_dist.training.tangent_kernel`.

    Raises:
        ShapeError: not a square matrix, or empty.
        NonFiniteError: NaN or infinity.

    Source: arXiv 2108.00259, Theorem 7 and appendix B; the kernel of both layers is ours.
    """
    matrix = torch.as_tensor(kernel).detach().to(torch.float64)
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or matrix.numel() == 0:
        raise ShapeError(
            f"kernel: found shape {tuple(matrix.shape)}, accepted (samples, samples), not empty"
        )
    if not bool(torch.isfinite(matrix).all()):
        raise NonFiniteError("kernel: found NaN or infinity, accepted finite numbers")
    values = torch.linalg.eigvalsh(matrix)
    smallest, largest = float(values[0]), float(values[-1])
    if smallest <= len(matrix) * torch.finfo(torch.float64).eps * largest:
        smallest = 0.0
    return KernelRate(smallest, largest, len(matrix))
