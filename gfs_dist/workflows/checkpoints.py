"""Checkpoints as jobs use them: read into networks, made by training."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from gfs_dist import networks
from gfs_dist.config import commands as schema
from gfs_dist.errors import CheckpointError, ConfigError, RunFolderError
from gfs_dist.files import RunFolder, checkpoint
from gfs_dist.files.find import read_iteration
from gfs_dist.networks import TwoLayer
from gfs_dist.networks.storage.store import ARCHITECTURE
from gfs_dist.training import TrainSpec, TrainState, default_lr, loss_rise_warning, train
from gfs_dist.workflows.process import local_device, own_event
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.two_layer import Inputs, two_layer


class Trained(NamedTuple):
    """Iteration and network of each checkpoint of a training, and its step size."""

    networks: list[tuple[int, TwoLayer]]
    lr: float


def load_network(path: Path | str, model: schema.TwoLayer) -> TwoLayer:
    """Read one network, whatever it is stored as.

    Args:
        path: one place that :func:`gfs_dist.files.find.find_checkpoints` gave.
        model: the keys ``model.*``, which describe a bare file; folders describe themselves.

    Raises:
        CheckpointError: damaged, unsafe, NaN, or not the described network.
    """
    path = Path(path)
    if (path / ARCHITECTURE).is_file():
        return _two_layer(networks.load(path), path)
    found = checkpoint.load(path)
    if not path.is_dir():
        described = _described(path, found.tensors, model)
        return _two_layer(networks.load_tensors(described, found.tensors, path), path)
    architecture = found.state.get("architecture")
    try:
        described = architecture if isinstance(architecture, dict) else {}
        return _two_layer(networks.load_tensors(described, found.tensors, path), path)
    except ConfigError as error:
        raise CheckpointError(f"{path / checkpoint.STATE}: {error}") from error


def train_checkpoints(
    config: schema.Pretrain | schema.Prune, inputs: Inputs, folder: RunFolder, reporter: Reporter
) -> Trained:
    """Train into a run folder, from its last checkpoint if it has one.

    Killed anywhere and called again with the same configuration, data and number of threads, the
    last checkpoint has the same bits as without. Training runs on a GPU unless ``device=cpu`` or
    there is none. On synthetic data it starts from the planted network.

    Returns:
        Iteration and network of each checkpoint, in order, on the CPU; and the step size.

    Raises:
        RunFolderError: the run folder's checkpoints come from other data or settings.
        RunError: training diverged.
    """
    model, done = two_layer(config.model), folder.checkpoints()
    start, losses = None, {}
    if done:
        network, start, spec = _resume(done[-1][1], config, inputs, model)
        assert start.loss is not None
        losses[start.iteration] = start.loss
    else:
        network, spec = first_network(config, inputs), train_spec(config, inputs)
    facts, lr = _facts(config, inputs, spec), spec.lr
    assert lr is not None, "measured"
    x, target = inputs()
    # Where ranks of other machines have GPUs, this process may have none: then it trains without.
    device = local_device("cpu" if config.device == "cpu" else "auto")
    network.to(device)

    def on_checkpoint(iteration: int, network: TwoLayer, state: TrainState) -> None:
        known = {"iteration": iteration, "loss": state.loss, "architecture": network.architecture}
        checkpoint.save(
            folder.checkpoint(iteration), network.state_dict(), known | facts, state.velocity
        )
        folder.append_event(own_event("step", iteration))
        assert state.loss is not None, "measured at every checkpoint"
        losses[iteration] = state.loss
        if said := loss_rise_warning(losses, lr):
            reporter.note(said)

    reporter.phase("train", spec.iterations)
    train(
        network,
        x.to(device),
        target.to(device),
        inputs.objective,
        spec,
        start=start,
        on_checkpoint=on_checkpoint,
        on_progress=lambda iteration, loss: reporter.step(iteration, loss),
    )
    networks = [(step, load_network(path, model)) for step, path in folder.checkpoints()]
    return Trained(networks, lr)


def train_spec(
    config: schema.Pretrain | schema.Prune, inputs: Inputs, lr: float | None = None
) -> TrainSpec:
    """How the keys ``train.*`` want it; a step size that they leave open is ``lr``, or measured."""
    names = TrainSpec.__dataclass_fields__
    given = {key: value for key, value in vars(config.train).items() if value is not None}
    known = {key: value for key, value in given.items() if key in names}
    spec = TrainSpec(**{"lr": lr, **known}, seed=config.seed)
    if spec.lr is not None:
        return spec
    share = 1.0 if config.train.step_share is None else config.train.step_share
    x, _ = inputs()
    measured = default_lr(first_network(config, inputs), x, inputs.objective, spec, share)
    return replace(spec, lr=measured)


def _facts(
    config: schema.Pretrain | schema.Prune, inputs: Inputs, spec: TrainSpec
) -> dict[str, Any]:
    """What has to be the same for training to go on."""
    return {
        "objective": inputs.objective,
        "training": {f"train.{key}": value for key, value in asdict(spec).items()},
        "inputs": {f"data={config.data.name}": inputs.dataset().fingerprint},
    }


def first_network(config: schema.Pretrain | schema.Prune, inputs: Inputs) -> TwoLayer:
    """The planted network of synthetic data, else Gaussian weights."""
    dataset = inputs.dataset()
    width, activation = inputs.width, inputs.activation
    if dataset.planted is None:
        return TwoLayer.initialise(width, dataset.features, activation, config.seed)
    network = TwoLayer(width, dataset.features, activation)
    planted = {"hidden.weight": dataset.planted.hidden, "output.weight": dataset.planted.output}
    network.load_state_dict(planted)
    return network


def _resume(
    path: Path, config: schema.Pretrain | schema.Prune, inputs: Inputs, model: schema.TwoLayer
) -> tuple[TwoLayer, TrainState, TrainSpec]:
    """The last checkpoint, if it comes from this training, and how that goes on.

    Its step size is taken as it was measured: other threads give it other last digits.
    """
    found = checkpoint.load(path)
    training = found.state.get("training")
    lr = training.get("train.lr") if isinstance(training, dict) else None
    spec = train_spec(config, inputs, lr if isinstance(lr, float) else None)
    facts, iteration = _facts(config, inputs, spec), read_iteration(found.state)
    if lr is None and iteration == spec.iterations:
        facts["training"]["train.lr"] = None  # an earlier version kept none; nothing is trained on
    refuse_changes(path, found.state, facts)
    state = TrainState(iteration, float(found.state["loss"]), found.optimizer)
    return load_network(path, model), state, spec


def refuse_changes(path: Path, state: dict[str, Any], facts: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint that other settings or data made.

    Raises:
        RunFolderError: one of ``facts`` is another in ``state``; names the first.
    """
    before = _flat({key: state.get(key) for key in facts})
    for key, now in _flat(facts).items():
        if before.get(key) != now:
            raise RunFolderError(
                f"resume: {key} changed since {path} was written "
                f"(found {now!r}, it has {before.get(key)!r}); start a new run"
            )


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    """One level of nested facts laid beside the others."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return flat


def _two_layer(network: nn.Module, path: Path) -> TwoLayer:
    if not isinstance(network, TwoLayer):
        raise CheckpointError(f"{path}: found a deep network, accepted here is a two-layer one")
    return network


def _described(
    path: Path, tensors: dict[str, torch.Tensor], model: schema.TwoLayer
) -> dict[str, Any]:
    """The architecture of a bare file: ``model.*`` with the number of inputs it holds."""
    hidden = tensors.get("hidden.weight")
    if hidden is None or hidden.ndim != 2:
        raise CheckpointError(
            f"{path}: no two-layer network; found {', '.join(sorted(tensors)[:3]) or 'nothing'}, "
            "accepted hidden.weight (N, d) and output.weight (N); of a deep network say model=NAME"
        )
    if len(hidden) != model.width:
        raise CheckpointError(
            f"{path}: found {len(hidden)} neurons, accepted model.width={model.width}; "
            f"set model.width={len(hidden)} and model.activation"
        )
    dtype = "float64" if hidden.dtype == torch.float64 else "float32"
    return {
        "model": "two_layer",
        "width": len(hidden),
        "features": hidden.shape[1],
        "activation": model.activation,
        "dtype": dtype,
    }
