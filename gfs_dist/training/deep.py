"""Stochastic gradient descent on a deep network, from any iteration to the last, the same way.

One code path for one rank and many: each rank takes its share of every mini-batch, gradients are
averaged over ranks where there are any, and all ranks take the same step. Batch norm sees the
share of its own rank, as in DistributedDataParallel; the running statistics kept are rank 0's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.errors import ConfigError, DataError, ShapeError
from gfs_dist.networks import device_of, prefer_channels_last
from gfs_dist.runtime.spec import NoPeers, Peers
from gfs_dist.training.batches import batch_rows, crop_and_flip, mixed_seed
from gfs_dist.training.spec import DeepSpec, TrainState, loss_fault, refuse_divergence

COLOURS = 3


class Samples(Protocol):
    """Training data: ``gfs_dist.data.Images``, or the like."""

    @property
    def x_train(self) -> Tensor: ...

    @property
    def labels_train(self) -> Tensor: ...

    def inputs(self, x: Tensor) -> Tensor:
        """Inputs of the network for rows of ``x_train``: float32, normalised."""
        ...


def train_deep(
    network: nn.Module,
    samples: Samples,
    spec: DeepSpec,
    *,
    start: TrainState | None = None,
    until: int | None = None,
    peers: Peers | None = None,
    on_checkpoint: Callable[[nn.Module, TrainState], None] = lambda *_: None,
    on_progress: Callable[[int, float], None] = lambda *_: None,
) -> None:
    """Train ``network`` in place on the mean cross-entropy.

    With gradient g of a mini-batch of all ranks, weights w and step size ``spec.lr_at``:
    ``v <- momentum v + g + weight_decay w``, ``w <- w - lr v``. Stopped at any checkpoint and
    started again from its weights, buffers and state, training gives the same bits as in one go,
    with the same device, number of threads and number of ranks.

    Args:
        network: maps inputs (m, ...) to logits (m, classes); where it is, is where it is trained.
        samples: x_train of any dtype (m, C, H, W) or (m, features), labels int64 (m,).
        spec: how.
        start: where an earlier training stopped; None to start at iteration 0.
        until: end at this iteration, a checkpoint; None: at the last one.
        peers: the other ranks; each must hold the same network and samples.
        on_checkpoint: called on every rank with network and state at iteration 0 (at ``start``:
            not again), every ``checkpoint_every``, and the last; must copy what it keeps.
        on_progress: called with the number of finished iterations and the last one's loss, after
            ``on_checkpoint`` where there is both.

    Raises:
        DataError: no samples.
        ConfigError: nothing in the network can be trained.
        ShapeError: labels do not fit the samples, or outputs do not fit the labels.
        RunError: the loss or a weight is no longer finite; names iteration and step size.

    Source: github.com/kuangliu/pytorch-cifar, whose settings arXiv 2108.00259 takes.
    """
    peers = peers or NoPeers()
    if len(samples.x_train) == 0:
        raise DataError("training: no samples")
    if samples.labels_train.shape != (len(samples.x_train),):
        raise ShapeError(
            f"labels: found shape {tuple(samples.labels_train.shape)}, "
            f"accepted ({len(samples.x_train)},)"
        )
    first = samples.inputs(samples.x_train[:2].to(device_of(network)))
    prefer_channels_last(network, first)
    network.train()
    optimizer = _optimizer(network, spec, start.velocity if start else {})
    total, count = 0.0, 0  # of losses since the checkpoint before

    def reach(iteration: int) -> None:
        nonlocal total, count
        if not spec.is_checkpoint(iteration):
            return
        refuse_divergence(_non_finite_weight(network), iteration, spec.lr)
        mean = total / count if count else None
        on_checkpoint(network, TrainState(iteration, mean, _velocity(network, optimizer)))
        total, count = 0.0, 0

    if start is None:
        reach(0)
    end = spec.iterations if until is None else until
    for iteration in range(start.iteration if start else 0, end):
        loss, size = _step(network, optimizer, samples, spec, iteration, peers)
        refuse_divergence(loss_fault(loss), iteration, spec.lr)
        total, count = total + loss * size, count + size
        reach(iteration + 1)
        on_progress(iteration + 1, loss)


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: Samples,
    spec: DeepSpec,
    iteration: int,
    peers: Peers,
) -> tuple[float, int]:
    """One step of all ranks; the mean loss before it, and over how many samples."""
    for group in optimizer.param_groups:
        group["lr"] = spec.lr_at(iteration)
    optimizer.zero_grad(set_to_none=True)
    device = next(network.parameters()).device
    x, labels, share, size = _share(samples, spec, iteration, peers, device)
    if any(p.ndim == 4 and not p.is_contiguous() for p in network.parameters()):
        x = x.contiguous(memory_format=torch.channels_last)
    with _reproducible(mixed_seed(spec.seed, iteration, peers.rank), device):
        # Ranks may have unlike shares: a mean over ranks of these is the mean over samples.
        loss = _mean_loss(network, x, labels, spec) * (share * peers.num_ranks)
        torch.autograd.backward(loss)
    loss = loss.detach()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    peers.average([*gradients, loss])
    peers.broadcast(list(network.buffers()))
    optimizer.step()
    return float(loss), size


def _share(
    samples: Samples, spec: DeepSpec, iteration: int, peers: Peers, device: torch.device
) -> tuple[Tensor, Tensor, float, int]:
    """This rank's inputs and labels of one mini-batch, their share of it, and its size.

    The whole batch is augmented on every rank: a sample looks the same for any
    number of ranks. A rank for which there is no sample takes one that does not count: it too has
    to know which weights have gradients.
    """
    rows = batch_rows(len(samples.x_train), spec.batch, iteration, spec.seed)
    x = samples.x_train[rows]
    # Mirrored digits are no digits: by default only images of three colours are augmented.
    if x.ndim == 4 and (x.shape[1] == COLOURS if spec.augment is None else spec.augment):
        generator = torch.Generator().manual_seed(mixed_seed(spec.seed, iteration))
        x = crop_and_flip(x, generator)
    own = torch.arange(len(rows)).tensor_split(peers.num_ranks)[peers.rank]
    share = len(own) / len(rows)
    own = own if len(own) else torch.zeros(1, dtype=torch.int64)
    x = samples.inputs(x[own].to(device))
    return x, samples.labels_train[rows[own]].to(device), share, len(rows)


def _mean_loss(network: nn.Module, x: Tensor, labels: Tensor, spec: DeepSpec) -> Tensor:
    """Mean cross-entropy, a float32 scalar."""
    amp = x.is_cuda if spec.amp is None else spec.amp
    with torch.autocast(x.device.type, torch.bfloat16, enabled=amp):
        logits = network(x)
    if logits.ndim != 2 or len(logits) != len(x):
        raise ShapeError(
            f"model: its output for {len(x)} samples has shape {tuple(logits.shape)}, "
            f"accepted ({len(x)}, classes)"
        )
    return functional.cross_entropy(logits.float(), labels)


def _optimizer(
    network: nn.Module, spec: DeepSpec, velocity: dict[str, Tensor]
) -> torch.optim.Optimizer:
    """Plain SGD that goes on with ``velocity``."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        raise ConfigError("model: it has no parameter to train")
    optimizer = torch.optim.SGD(
        trained, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay
    )
    for name, parameter in network.named_parameters():
        if name in velocity:
            own = torch.empty_like(parameter, requires_grad=False).copy_(velocity[name])
            optimizer.state[parameter]["momentum_buffer"] = own
    return optimizer


def _velocity(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    buffers = {
        name: optimizer.state.get(parameter, {}).get("momentum_buffer")
        for name, parameter in network.named_parameters()
    }
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


@contextlib.contextmanager
def _reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Seed dropout and the like, and leave the caller's random numbers alone.

    On a GPU, only convolutions that give the same bits every time are taken.
    """
    on_gpu = device.type == "cuda"
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with (
        torch.random.fork_rng([device.index or 0] if on_gpu else []),
        exact if on_gpu else contextlib.nullcontext(),
    ):
        torch.manual_seed(seed)
        yield


def _non_finite_weight(network: nn.Module) -> str:
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"{name} holds NaN or infinity"
    return ""
