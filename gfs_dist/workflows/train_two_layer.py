"""Trains a two-layer network in this process, into the checkpoints of a run folder."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from gfs_dist.command_words import typed, typed_place
from gfs_dist.config import commands as schema
from gfs_dist.errors import ConfigError
from gfs_dist.files import RunFolder, checkpoint
from gfs_dist.files.find import read_iteration
from gfs_dist.networks import TwoLayer
from gfs_dist.networks.models.two_layer import DTYPES
from gfs_dist.records import ResultRow
from gfs_dist.runtime.resources import free_memory_bytes
from gfs_dist.training import TrainSpec, TrainState, default_lr, train
from gfs_dist.workflows import plan_text
from gfs_dist.workflows.checkpoints import (
    LossWatch,
    checkpoint_rows,
    refuse_changes,
    training_facts,
)
from gfs_dist.workflows.measures import measure_two_layer
from gfs_dist.workflows.process import given_keys, local_device, own_device
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.run_report import RunReport
from gfs_dist.workflows.stored_networks import load_network
from gfs_dist.workflows.two_layer import Inputs, input_words, two_layer


def training_key(config: schema.Prune) -> Hashable:
    """All that the training of a run depends on: equal keys give the same checkpoints, bit for bit.

    :meth:`TwoLayerTraining.train` checks it: it goes on from no checkpoint of another training.
    """
    inputs, given = Inputs.of(config, None), sorted(given_keys(config.train, TrainSpec).items())
    inputs = replace(inputs, spec=replace(inputs.spec, prune_samples=None))
    return inputs, *given, config.seed, config.device, config.threads


class TwoLayerTraining:
    """Training on all data, or mini-batches of it, as the keys ``train.*`` say.

    A step size that they leave open is measured: the curvature at the start decides it.
    """

    in_ranks: ClassVar[bool] = False

    def __init__(
        self, config: schema.Pretrain | schema.Prune, inputs: Inputs | None = None
    ) -> None:
        local_device(config.device)
        self.config = config
        self.inputs = inputs or Inputs.of(config, None)
        self.spec = self._spec()

    @property
    def lines(self) -> list[str]:
        return plan_text.two_layer_training(self.config, self.inputs.dataset(), self.spec)

    def train(
        self, report: RunReport, reporter: Reporter, enough: Callable[[int], bool] | None = None
    ) -> None:
        """Train into a run folder, from its last checkpoint if it has one.

        Killed anywhere and called again with the same configuration, data and number of threads,
        the last checkpoint has the same bits as without. Training runs on a GPU unless
        ``device=cpu`` or there is none. On synthetic data it starts from the planted network.
        It ends at the first checkpoint of which ``enough`` says so, asked in their order.

        Raises:
            RunFolderError: the run folder's checkpoints come from other data or settings.
            RunError: training diverged.
        """
        folder, done, start = report.folder, report.folder.checkpoints(), None
        network, spec = self._first_network(), self.spec
        if done:
            network, start, spec = self._resume(done[-1][1])
        facts = self._facts(spec)
        assert spec.lr is not None, "measured"
        report.lr, watch = spec.lr, LossWatch(reporter, spec.lr)
        if start is not None:
            watch.add(start.iteration, start.loss)
        if enough is not None and any(enough(iteration) for iteration, _ in done):
            return

        def on_checkpoint(iteration: int, network: TwoLayer, state: TrainState) -> bool:
            known = {
                "iteration": iteration,
                "loss": state.loss,
                "architecture": network.architecture,
            }
            checkpoint.save(
                folder.checkpoint(iteration), network.state_dict(), known | facts, state.velocity
            )
            report.events.first_rank("step", iteration)
            watch.add(iteration, state.loss)
            return enough is not None and enough(iteration)

        reporter.phase("train", spec.iterations)
        device = own_device(self.config.device)
        x, target = self.inputs.training()
        train(
            network.to(device),
            x.to(device),
            target.to(device),
            self.inputs.objective,
            spec,
            start=start,
            on_checkpoint=on_checkpoint,
            on_progress=lambda iteration, loss: reporter.step(iteration, loss),
        )

    def rows(self, folder: RunFolder) -> list[ResultRow]:
        model = two_layer(self.config.model)
        return checkpoint_rows(
            folder,
            self.inputs.objective,
            self.inputs.width,
            lambda path: measure_two_layer(load_network(path, model), self.inputs),
        )

    def commands(self, folder: RunFolder, rows: list[ResultRow]) -> list[str]:
        assert isinstance(self.config, schema.Pretrain)
        words, last = input_words(self.config), str(folder.path / str(rows[-1]["model"]))
        return [
            f"gfs prune {typed('checkpoint', str(folder.path))} {words}",
            f"gfs evaluate {typed_place('path', last)} {words}",
        ]

    def _spec(self, lr: float | None = None) -> TrainSpec:
        """How the keys ``train.*`` want it; a step size left open is ``lr``, or measured."""
        config = self.config
        spec = TrainSpec(**{"lr": lr, **given_keys(config.train, TrainSpec)}, seed=config.seed)
        if spec.lr is not None:
            return spec
        share = 1.0 if config.train.step_share is None else config.train.step_share
        x, _ = self.inputs.training()
        network, objective = self._first_network(), self.inputs.objective
        return replace(spec, lr=default_lr(network, x, objective, spec, share))

    def _first_network(self) -> TwoLayer:
        """The planted network of synthetic data, else Gaussian weights."""
        dataset, inputs = self.inputs.dataset(), self.inputs
        shape = inputs.width, dataset.features, inputs.activation
        dtype = DTYPES[self.config.train.precision or "float64"]
        needed = 2 * inputs.width * (dataset.features + 1) * dtype.itemsize  # gradients, too
        if needed > (free := free_memory_bytes()):
            raise ConfigError(
                f"model.width: found {inputs.width}, which takes {needed / 2**30:,.1f} GiB, "
                f"accepted what fits in {free / 2**30:,.1f} GiB of free memory"
            )
        if dataset.planted is None:
            return TwoLayer.initialise(*shape, self.config.seed, dtype)
        network = TwoLayer(*shape, dtype)
        planted = {"hidden.weight": dataset.planted.hidden, "output.weight": dataset.planted.output}
        network.load_state_dict(planted)
        return network

    def _facts(self, spec: TrainSpec) -> dict[str, Any]:
        trained_on = replace(self.inputs.dataset(), prune_rows=None)
        data = {f"data={self.config.data.name}": trained_on.fingerprint}
        return {"objective": self.inputs.objective, **training_facts(spec, data)}

    def _resume(self, path: Path) -> tuple[TwoLayer, TrainState, TrainSpec]:
        """The last checkpoint, if it comes from this training, and how that goes on.

        Its step size is taken as it was measured: other threads give it other last digits.
        """
        found = checkpoint.load(path)
        training = found.state.get("training")
        lr = training.get("train.lr") if isinstance(training, dict) else None
        spec = self._spec(lr if isinstance(lr, float) else None)
        facts, iteration = self._facts(spec), read_iteration(found.state)
        if lr is None and iteration == spec.iterations:
            facts["training"]["train.lr"] = None  # an earlier version kept none
        refuse_changes(path, found.state, facts)
        state = TrainState(iteration, float(found.state["loss"]), found.optimizer)
        return load_network(path, two_layer(self.config.model)), state, spec
