"""Planted problems: the target is the mean of a few known neurons of a two-layer network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gfs_dist.data.balanced import seeded
from gfs_dist.data.spec import Dataset, DataSpec, PlantedNetwork
from gfs_dist.errors import DataError

DEFAULT_SAMPLES = 2000
DEFAULT_TEST_SAMPLES = 500
ROW_NORM = 2.0
OTHERS_SCALE = (2.0, 3.0)


def load_synthetic(
    spec: DataSpec, width: int, activation: Callable[[Tensor], Tensor] = torch.tanh
) -> Dataset:
    """A regression problem that the mean of ``spec.planted`` known neurons solves exactly.

    Inputs are standard Gaussian. Planted neurons have orthogonal ``a_i`` of norm 2 and ``b_i``
    of alternating sign; the others' ``a_i`` are orthogonal to all planted ones (as far as there
    are dimensions left) and their ``b_i`` two to three times as large. So contributions of
    planted neurons hardly correlate with any other, adding another neuron costs its norm, and
    greedy selection takes each planted one once, then has loss 0. (Not so where no dimension is
    left and the activation is linear: there the others are combinations of planted ones.)

    Args:
        spec: ``samples``, ``test_samples``, ``seed``, ``features``, ``planted``.
        width: neurons of the whole network.
        activation: of the network.

    Raises:
        DataError: planted neurons do not fit into width or features, or a count below 1.
    """
    samples = DEFAULT_SAMPLES if spec.samples is None else spec.samples
    test_samples = DEFAULT_TEST_SAMPLES if spec.test_samples is None else spec.test_samples
    for key, found in (("data.samples", samples), ("data.test_samples", test_samples)):
        if found < 1:
            raise DataError(f"{key}: found {found}, accepted 1 or more")
    if spec.features < 1:
        raise DataError(f"data.features: found {spec.features}, accepted 1 or more")
    most = min(width, spec.features)
    if not 1 <= spec.planted <= most:
        raise DataError(
            f"data.planted: found {spec.planted}, accepted 1 to {most} "
            f"(model.width={width}, data.features={spec.features})"
        )
    planted = _network(spec, width)
    x_train, x_test = (
        torch.randn(rows, spec.features, generator=seeded(spec.seed, stream), dtype=torch.float64)
        for stream, rows in ((1, samples), (2, test_samples))
    )

    def mean_of_planted(x: Tensor) -> Tensor:
        hidden, output = planted.hidden[planted.support], planted.output[planted.support]
        return activation(x @ hidden.T) @ output / spec.planted

    return Dataset(x_train, mean_of_planted(x_train), x_test, mean_of_planted(x_test), planted)


def _network(spec: DataSpec, width: int) -> PlantedNetwork:
    generator = seeded(spec.seed, 0)
    support = torch.randperm(width, generator=generator)[: spec.planted].sort().values
    hidden = torch.randn(width, spec.features, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(hidden[support].T).Q.T
    if spec.planted < spec.features:
        hidden = hidden - (hidden @ basis.T) @ basis
    hidden[support] = basis
    hidden *= ROW_NORM / hidden.norm(dim=1, keepdim=True)

    low, high = OTHERS_SCALE
    scale = low + (high - low) * torch.rand(width, generator=generator, dtype=torch.float64)
    scale[support] = 1.0
    sign = 1.0 - 2.0 * torch.randint(2, (width,), generator=generator).double()
    sign[support] = 1.0 - 2.0 * (torch.arange(spec.planted) % 2).double()
    return PlantedNetwork(hidden, sign * scale, support.tolist())
