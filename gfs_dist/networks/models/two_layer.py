"""The paper's two-layer network: the average of its neurons' outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.errors import ConfigError, NonFiniteError, ShapeError

Activation = Callable[[Tensor], Tensor]

BLOCK = 48
"""Neurons of a product of contributions, and what divides its samples: a processor then computes
all elements alike, wherever they are."""

ACTIVATIONS: dict[str, Activation] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "softplus": functional.softplus,
    "silu": functional.silu,
    "identity": torch.clone,
}
DTYPES = {"float64": torch.float64, "float32": torch.float32}
HIDDEN_SCALE = 4.0


def find_activation(name: str) -> Activation:
    """The activation called ``name``.

    Raises:
        ConfigError: there is none; names the known ones.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"model.activation: found {name!r}, accepted {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class TwoLayer(nn.Module):
    """``f(x) = (1/N) sum_i b_i act(a_i . x)``, no bias (equations 1 and 2).

    State dict: ``hidden.weight`` (N, d) holds the ``a_i``, ``output.weight`` (N) the ``b_i``.

    Args:
        width: neurons, N.
        features: inputs, d.
        activation: a name of :data:`ACTIVATIONS`.
        dtype: of the weights.

    Raises:
        ConfigError: unknown activation, width or features below 1.

    Source: arXiv 2108.00259, section 1.
    """

    def __init__(
        self,
        width: int,
        features: int,
        activation: str = "tanh",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        find_activation(activation)
        for name, value in (("width", width), ("features", features)):
            if value < 1:
                raise ConfigError(f"model.{name}: found {value}, accepted 1 or more")
        self.activation = activation
        self.hidden = _Weight(torch.zeros(width, features, dtype=dtype))
        self.output = _Weight(torch.zeros(width, dtype=dtype))

    @classmethod
    def initialise(
        cls,
        width: int,
        features: int,
        activation: str = "tanh",
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> Self:
        """A network with Gaussian weights, the same for the same seed.

        ``a_i ~ N(0, 16/d)`` and ``b_i ~ N(0, 1)``. Inputs in [0, 1] have a mean square of 0.1 to
        0.2 (digits, MNIST), so that ``a_i . x`` has a standard deviation of 1.3 to 1.8: tanh
        bends without saturating. Measured on digits, width 1,000: twice as wide or narrow, the
        loss after 300 iterations is higher or the larger steps overshoot.
        """
        network = cls(width, features, activation, dtype)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight, scale in (
                (network.hidden.weight, HIDDEN_SCALE / features**0.5),
                (network.output.weight, 1.0),
            ):
                drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
                weight.copy_(drawn * scale)
        return network

    @property
    def width(self) -> int:
        return self.hidden.weight.shape[0]

    @property
    def features(self) -> int:
        return self.hidden.weight.shape[1]

    @property
    def architecture(self) -> dict[str, Any]:
        """Model, sizes, activation and dtype: the content of ``architecture.json``."""
        return {
            "model": "two_layer",
            "width": self.width,
            "features": self.features,
            "activation": self.activation,
            "dtype": str(self.hidden.weight.dtype).removeprefix("torch."),
        }

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (m,) for inputs (m, d)."""
        self._check_inputs(x)
        hidden = x.to(self.hidden.weight.dtype) @ self.hidden.weight.T
        return ACTIVATIONS[self.activation](hidden) @ self.output.weight / self.width

    @torch.no_grad()
    def contributions(self, x: Tensor, neurons: Tensor) -> Tensor:
        """``b_i act(a_i . x_j)`` of chosen neurons; the mean over all neurons is the output.

        Args:
            x: inputs (m, d).
            neurons: indices, int64 (n,).

        Returns:
            float64 (n, m), computed in float64 whatever the network's dtype; by products of one
            shape, so that the bits of a neuron do not depend on which others are chosen.
        """
        self._check_inputs(x)
        weights = self.hidden.weight[neurons].double()
        blocks = functional.pad(weights, (0, 0, 0, -len(weights) % BLOCK)).split(BLOCK)
        inputs = functional.pad(x.double(), (0, 0, 0, -len(x) % BLOCK)).T
        products = torch.bmm(torch.stack(blocks), inputs.expand(len(blocks), -1, -1))
        hidden = products.flatten(0, 1)[: len(weights), : len(x)]
        return ACTIVATIONS[self.activation](hidden) * self.output.weight[neurons].double()[:, None]

    @torch.no_grad()
    def shrink(self, coefficients: Tensor) -> TwoLayer:
        """The pruned network, of the same form on the N' neurons with a coefficient.

        ``b_i`` becomes ``b_i * coefficient_i * N'``, so that its average is
        ``sum_i coefficient_i b_i act(a_i . x)``. This network is not modified.

        Args:
            coefficients: weights of all neurons, (N,).

        Raises:
            ShapeError: not one coefficient a neuron, or all zero.
            NonFiniteError: a coefficient is NaN or infinite.
        """
        if coefficients.shape != (self.width,):
            found = tuple(coefficients.shape)
            raise ShapeError(f"coefficients: found shape {found}, accepted ({self.width},)")
        if not torch.isfinite(coefficients).all():
            first = int((~torch.isfinite(coefficients)).nonzero()[0])
            raise NonFiniteError(f"coefficients: neuron {first} is {coefficients[first].item()}")
        kept = coefficients.nonzero().flatten().to(self.hidden.weight.device)
        if len(kept) == 0:
            raise ShapeError("coefficients: all are zero, at least one neuron must be kept")
        dtype = self.hidden.weight.dtype
        small = TwoLayer(len(kept), self.features, self.activation, dtype).to(kept.device)
        scale = coefficients.to(kept.device, torch.float64)[kept] * len(kept)
        small.hidden.weight.copy_(self.hidden.weight[kept])
        small.output.weight.copy_(self.output.weight[kept].double() * scale)
        return small

    def _check_inputs(self, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != self.features:
            raise ShapeError(f"x: found shape {tuple(x.shape)}, accepted (m, {self.features})")


class _Weight(nn.Module):
    """One tensor as a module, so that its name in the state dict is ``hidden.weight``."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
