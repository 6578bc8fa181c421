"""Reads data and networks of two layers, as ``gfs pretrain``, ``prune`` and ``evaluate`` do."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist import data, networks
from gfs_dist.config import commands as schema
from gfs_dist.config.command_line import data_words, model_words
from gfs_dist.data import Dataset, DataSpec
from gfs_dist.errors import CheckpointError, ConfigError
from gfs_dist.files import checkpoint
from gfs_dist.networks import TwoLayer
from gfs_dist.networks.storage.store import ARCHITECTURE
from gfs_dist.workflows.process import data_spec


@dataclass(frozen=True)
class Inputs:
    """The training split as a rank reads it: called, it gives ``(x, target)``.

    Attributes:
        spec: which data.
        width, activation: of the planted network (synthetic data).
        objective: decides the target, ``squared`` or ``bce``.
    """

    spec: DataSpec
    width: int
    activation: str
    objective: str

    @classmethod
    def of(
        cls, config: schema.Pretrain | schema.Prune | schema.Evaluate, network: TwoLayer | None
    ) -> Inputs:
        """The data of a job on ``network``, or on the one that ``model.*`` describes."""
        shape = network or two_layer(config.model)
        assert config.objective is not None, "settled"
        return cls(data_spec(config.data), shape.width, shape.activation, config.objective)

    def __call__(self) -> tuple[Tensor, Tensor]:
        dataset = self.dataset()
        return dataset.x_train, data.target(dataset.labels_train, self.objective)

    def dataset(self) -> Dataset:
        """Both splits; read once a process."""
        return _load(self.spec, self.width, self.activation)


@functools.lru_cache(maxsize=1)
def _load(spec: DataSpec, width: int, activation: str) -> Dataset:
    return data.load(spec, width=width, activation=networks.find_activation(activation))


def two_layer(model: schema.Model) -> schema.TwoLayer:
    """The keys ``model.*`` of a two-layer network.

    Raises:
        ConfigError: another network was chosen.
    """
    if not isinstance(model, schema.TwoLayer):
        raise ConfigError(f"model: found {model.name}, accepted here two_layer")
    return model


def input_words(config: schema.Pretrain | schema.Prune) -> str:
    """The words of a command line that name the same data and target once more."""
    words = [data_words(config.data, config.seed), f"objective={config.objective}"]
    if config.data.name == "synthetic":
        words.append(model_words(config.model))
    return " ".join(words)


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
        return _require_two_layers(networks.load(path), path)
    found = checkpoint.load(path)
    if not path.is_dir():
        described = _described(path, found.tensors, model)
        return _require_two_layers(networks.load_tensors(described, found.tensors, path), path)
    architecture = found.state.get("architecture")
    try:
        described = architecture if isinstance(architecture, dict) else {}
        return _require_two_layers(networks.load_tensors(described, found.tensors, path), path)
    except ConfigError as error:
        raise CheckpointError(f"{path / checkpoint.STATE}: {error}") from error


def _require_two_layers(network: nn.Module, path: Path) -> TwoLayer:
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
    return {
        "model": "two_layer",
        "width": len(hidden),
        "features": hidden.shape[1],
        "activation": model.activation,
        "dtype": "float64" if hidden.dtype == torch.float64 else "float32",
    }
