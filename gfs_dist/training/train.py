"""Gradient descent on a two-layer network, from any iteration to the last, always the same way.

Where no step size is given, it follows from the curvature measured at the first weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gfs_dist.errors import DataError, ShapeError
from gfs_dist.networks import TwoLayer, loss_sum
from gfs_dist.networks.measure.loss_and_accuracy import row_chunks
from gfs_dist.networks.models.two_layer import ACTIVATIONS
from gfs_dist.training.batches import batch_rows
from gfs_dist.training.spec import TrainSpec, TrainState, loss_fault, refuse_divergence

SAMPLES = 1024
"""Of which the curvature is measured; digits: 0.3 % from that of all samples."""

LOSS_CURVATURE = {"squared": 1.0, "bce": 0.25}
"""The most that a loss bends along one output."""


def train(
    network: TwoLayer,
    x: Tensor,
    target: Tensor,
    loss: str,
    spec: TrainSpec,
    *,
    start: TrainState | None = None,
    on_checkpoint: Callable[[int, TwoLayer, TrainState], bool | None] = lambda *_: None,
    on_progress: Callable[[int, float], None] = lambda *_: None,
) -> None:
    """Train ``network`` in place: ``theta <- theta - lr grad L(theta)`` (equation 5).

    ``L`` is the mean loss over all samples (``gd``) or a mini-batch (``sgd``). Stopped at any
    checkpoint and started again from its weights and state, training gives the same bits as in
    one go, with the same number of threads.

    Args:
        network: the weights to start from; changed. Training computes in their dtype.
        x: inputs (m, d), on the network's device.
        target: float64 (m,), see :func:`gfs_dist.data.target`.
        loss: ``squared`` or ``bce``.
        spec: how.
        start: where an earlier training stopped; None to start at iteration 0.
        on_checkpoint: called with iteration, network and state at iteration 0 (at ``start``:
            not again), every ``checkpoint_every``, and the last; must copy what it keeps.
            Training ends where it returns True.
        on_progress: called with the number of finished iterations and the last one's loss.

    Raises:
        DataError: no samples.
        ShapeError: inputs and target do not fit.
        RunError: the loss is no longer finite; names iteration and step size.

    Source: arXiv 2108.00259, equation 5.
    """
    if len(x) == 0:
        raise DataError("training: no samples")
    if target.shape != (len(x),):
        raise ShapeError(f"target: found shape {tuple(target.shape)}, accepted ({len(x)},)")
    x = x.to(network.hidden.weight.dtype)
    target = target.to(network.hidden.weight.dtype)
    lr = spec.lr
    if lr is None:
        assert start is None, "measured at the first weights, which are gone"
        lr = default_lr(network, x, loss, spec)
    velocity = {name: tensor.clone() for name, tensor in (start.velocity if start else {}).items()}

    for iteration in range(start.iteration if start else 0, spec.iterations + 1):
        is_new = start is None or iteration > start.iteration
        if is_new and spec.is_checkpoint(iteration):
            whole = _loss_and_gradient(network, x, target, loss, gradient=False)
            refuse_divergence(loss_fault(whole), iteration, lr)
            if on_checkpoint(iteration, network, TrainState(iteration, whole, velocity)):
                return
        if iteration == spec.iterations:
            return
        if spec.method == "gd":
            value = _loss_and_gradient(network, x, target, loss)
        else:
            rows = batch_rows(len(x), spec.batch, iteration, spec.seed).to(x.device)
            value = _loss_and_gradient(network, x[rows], target[rows], loss)
        refuse_divergence(loss_fault(value), iteration, lr)
        _step(network, lr, spec.momentum, velocity)
        on_progress(iteration + 1, value)


def _loss_and_gradient(
    network: TwoLayer, x: Tensor, target: Tensor, loss: str, *, gradient: bool = True
) -> float:
    """Mean loss; its gradient is left in the parameters. Chunk by chunk, to bound memory."""
    network.zero_grad(set_to_none=True)
    total = 0.0
    for rows in row_chunks(len(x), network.width):
        with torch.set_grad_enabled(gradient):
            part = loss_sum(network(x[rows]), target[rows], loss) / len(x)
        if gradient:
            torch.autograd.backward(part)
        total += float(part.detach())
    return total


@torch.no_grad()
def _step(network: TwoLayer, lr: float, momentum: float, velocity: dict[str, Tensor]) -> None:
    """``v <- momentum v + grad``, ``theta <- theta - lr v``; without momentum ``v`` is not kept."""
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        step = parameter.grad
        if momentum:
            if name in velocity:
                step = velocity[name].mul_(momentum).add_(step)
            else:
                velocity[name] = step.clone()
        parameter.add_(step, alpha=-lr)


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
