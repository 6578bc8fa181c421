"""Data for two-layer networks, as ranks read it and as a command line names it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import Tensor

from gfs_dist import data, networks
from gfs_dist.config import commands as schema
from gfs_dist.config.command_line import data_words, model_words
from gfs_dist.data import Dataset, DataSpec
from gfs_dist.errors import ConfigError
from gfs_dist.networks import TwoLayer
from gfs_dist.workflows.process import data_spec


@dataclass(frozen=True)
class Inputs:
    """The data that is pruned on as a rank reads it: called, it gives ``(x, target)``.

    Attributes:
        spec: which data.
        width, activation: of the planted network (synthetic data).
        objective: the loss, which decides the target too: ``squared`` or ``bce``.
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
        return cls(data_spec(config.data), shape.width, shape.activation, loss_of(config.objective))

    def __call__(self) -> tuple[Tensor, Tensor]:
        x, labels = self.dataset().pruned_on
        return x, data.target(labels, self.objective)

    def training(self) -> tuple[Tensor, Tensor]:
        """The same of the whole training split."""
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


def loss_of(objective: str) -> str:
    """The loss that networks are trained and measured by where they are pruned by ``objective``."""
    return "squared" if objective == "least_squares" else objective


def input_words(config: schema.Pretrain | schema.Prune) -> str:
    """The words of a command line that name the same data and target once more."""
    words = [data_words(config.data, config.seed), f"objective={loss_of(str(config.objective))}"]
    if config.data.name == "synthetic":
        words.append(model_words(config.model))
    return " ".join(words)
