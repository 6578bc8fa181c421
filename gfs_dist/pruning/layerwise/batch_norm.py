"""Statistics of batch norms measured again, after what they see has changed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gfs_dist.networks import device_of, evaluating


def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set running mean and variance of every batch norm to those of the samples, in place.

    All batches count by their number of samples; the network is otherwise in evaluation mode, so
    that dropout stays off.

    Args:
        network: one without batch norms is left as it is.
        batches: inputs.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    if not norms:
        return
    device = device_of(network)
    with evaluating(network), torch.no_grad():
        before = [norm.momentum for norm in norms]
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
        seen = 0
        for x in batches:
            seen += len(x)
            for norm in norms:
                norm.momentum = len(x) / seen
            network(x.to(device))
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
