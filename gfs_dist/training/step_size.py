"""The step size of a two-layer network, from the curvature measured at its first weights."""

from __future__ import annotations

import torch
from torch import Tensor

from gfs_dist.errors import DataError
from gfs_dist.networks import TwoLayer
from gfs_dist.networks.measure.loss_and_accuracy import row_chunks
from gfs_dist.networks.models.two_layer import ACTIVATIONS
from gfs_dist.training.spec import TrainSpec

SAMPLES = 1024
"""Of which the curvature is measured; digits: 0.3 % from that of all samples."""

LOSS_CURVATURE = {"squared": 1.0, "bce": 0.25}
"""The most that a loss bends along one output."""


def default_lr(
    network: TwoLayer, x: Tensor, loss: str, spec: TrainSpec, share: float = 1.0
) -> float:
    """A step size that follows from the network and its inputs: ``share (1 - momentum) / L``.

    L is the largest curvature of the mean loss, with the tangent kernel K of both layers and
    c = 1 (squared) or 1/4 (BCE): ``c lambda_max(K) / m`` for gradient descent, for mini-batches of
    B samples ``c ((B - 1) lambda_max(K) / m + max_i K_ii) / B`` (Ma, Bassily and Belkin,
    arXiv 1712.06559). Steps of 2/L and more overshoot and grow along the steepest direction, those
    up to 1/L (share 1) do not even change sides. Momentum adds up to 1 / (1 - momentum) steps.

    Args:
        network: at initialisation.
        x: inputs (m, d); of more than 1,024 every so many-th counts.
        loss: ``squared`` or ``bce``.
        spec: method, batch and momentum count.
        share: of the step 1/L, below 2.

    Raises:
        DataError: no weight changes the output on these samples.
    """
    count = min(SAMPLES, len(x))
    kernel = tangent_kernel(network, x[torch.arange(count) * len(x) // count])
    mean = float(torch.linalg.eigvalsh(kernel)[-1]) / len(kernel)
    if spec.method == "sgd":
        batch = min(spec.batch, len(x))
        mean = ((batch - 1) * mean + float(kernel.diagonal().max())) / batch
    if not mean > 0:
        raise DataError(
            "train.lr: cannot be measured, since no weight changes the network's output on these "
            "samples; accepted a number"
        )
    return share * (1 - spec.momentum) / (LOSS_CURVATURE[loss] * mean)


@torch.no_grad()
def tangent_kernel(network: TwoLayer, x: Tensor) -> Tensor:
    """Inner products of the output's gradients by all weights, for each pair of samples.

    ``K = (act(H) act(H)' + (X X') * (D D')) / N^2`` with ``H = X A'`` and ``D = act'(H) b``.

    Returns:
        float64 (m, m).
    """
    x = x.double()
    outer, inner = (x.new_zeros(len(x), len(x)) for _ in range(2))
    for neurons in row_chunks(network.width, len(x)):
        before = x @ network.hidden.weight[neurons].double().T
        with torch.enable_grad():
            before.requires_grad_()
            after = ACTIVATIONS[network.activation](before)
            (slope,) = torch.autograd.grad(after.sum(), before)
        slope = slope * network.output.weight[neurons].double()
        outer += after.detach() @ after.detach().T
        inner += slope @ slope.T
    return (outer + inner * (x @ x.T)) / network.width**2
