"""What the cells of the tables cost: seconds and bytes of a rank, known before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gfs_dist.data import Images
from gfs_dist.experiments.deep_cells import Setting, architecture_of
from gfs_dist.experiments.deep_rules import HALVINGS, RULES
from gfs_dist.files.scratch_folder import ScratchFolder
from gfs_dist.pruning.memory_needed import layer_costs, rank_bytes
from gfs_dist.pruning.pruner import Pruner
from gfs_dist.pruning.widths.budget import Budget
from gfs_dist.pruning.widths.choose import COMPARED, TRIAL_SAMPLES, most_trials
from gfs_dist.pruning.widths.feasible import check_feasible
from gfs_dist.runtime import RuntimeSpec, open_runtime
from gfs_dist.training import DeepSpec
from gfs_dist.workflows.stored_networks import fresh_network

CELL_S = 1.0
"""Of a pruning whatever it computes: the network is recorded, written and read."""

TRIAL_S = 0.02
"""Of a network that the paper's rule cuts to find widths, besides the images it then classifies."""

SPEED = {"cpu": 3.5e10, "cuda": 2.0e12}
"""Multiply-adds a second of one core, and of a GPU, in training and in search alike. Measured in
training: ResNet-8 0.13 s a step of 128 on a core, ResNet-56 0.039 s a step of 256 on an H200."""

DEPTHWISE = 2.5
"""How much slower multiply-adds are where convolutions are depthwise: MobileNetV2 of half the width
1.4e10, ResNet-18 of a quarter 5.7e10 a second of one core."""

PASSES = 3
"""Forward passes that a step of training, or a trial of widths, costs as much as."""


@dataclass(frozen=True)
class Costs:
    """Of one network: seconds of one rank for each kind of work, and bytes that it holds.

    Attributes:
        train_s: of a step of training.
        prune_s: of a pruning by each rule.
    """

    macs: int
    params: int
    train_s: float
    prune_s: dict[str, float]
    memory_bytes: int


def network_costs(model: str, width: float, images: Images, device: str, setting: Setting) -> Costs:
    """What a network costs, known from two images.

    Raises:
        BudgetError: it cannot be pruned so far.
    """
    network = fresh_network(architecture_of(model, width, images), 0)
    two = (images.inputs(images.x_train[:2]), images.labels_train[:2])
    budget, cuts = Budget({"macs": min(setting.macs)}), len(setting.macs)
    spec = RuntimeSpec(kind="none", workers=1, device="cpu")
    with ScratchFolder("plan") as folder, open_runtime(spec) as runtime:
        pruner = Pruner.prepare(
            network, [two], RULES["paper"].settings, runtime, folder / "workspace"
        )
        check_feasible(pruner, budget)
        macs, params = pruner.costs.dense("macs"), pruner.costs.dense("params")
        images_used = setting.calibration
        search = sum(cost.macs for cost in layer_costs(pruner, images_used))
        passes = HALVINGS * sum(2 + math.log2(n) for n in pruner.channels.values())
        each = macs * min(images_used, (1 + COMPARED) * TRIAL_SAMPLES)
        trials = setting.width_trials or most_trials(len(pruner.channels), each)
        memory = rank_bytes(pruner, budget, images_used)
    sought_s, sought_macs = CELL_S + cuts * passes * TRIAL_S, cuts * passes * images_used * macs
    own_s = {"paper": sought_s, "line_search": sought_s, "least_squares": CELL_S}
    prune_macs = {
        "paper": search + sought_macs,
        "line_search": sought_macs,
        "least_squares": cuts * PASSES * trials * each,
    }
    batch, speed = DeepSpec().batch, SPEED[device]
    speed /= DEPTHWISE if model.startswith("mobilenet") else 1
    return Costs(
        macs=macs,
        params=params,
        train_s=PASSES * batch * macs / speed,
        prune_s={rule: own_s[rule] + count / speed for rule, count in prune_macs.items()},
        memory_bytes=max(memory, training_bytes(network, two[0], batch)),
    )


def training_bytes(network: nn.Module, x: Tensor, batch: int) -> int:
    """Bytes of a step of training: weights, gradients and momentum, and what the way back needs."""
    weights = sum(parameter.nbytes for parameter in network.parameters())
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    saved = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += 0 if tensor.untyped_storage().data_ptr() in own else tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(x)
    return 3 * weights + saved * batch // len(x)
