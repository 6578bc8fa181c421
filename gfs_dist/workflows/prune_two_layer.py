"""What ``gfs prune`` is about to do: checked, costed and put into words before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gfs_dist.config import commands as schema
from gfs_dist.errors import ConfigError, ShapeError
from gfs_dist.files import RunFolder
from gfs_dist.files.find import find_checkpoints
from gfs_dist.files.untrusted import load_json
from gfs_dist.networks import TwoLayer
from gfs_dist.networks.models.two_layer import DTYPES
from gfs_dist.pruning.objectives.two_layer import TwoLayerContributions
from gfs_dist.runtime import RuntimeSpec, make_graph
from gfs_dist.runtime.resources import memory_per_rank_bytes
from gfs_dist.selection.objectives.factory import Recipe, settle
from gfs_dist.selection.partition import KINDS, Partition, make_partition
from gfs_dist.selection.stop import Stop
from gfs_dist.training import TrainSpec
from gfs_dist.workflows.checkpoints import load_network, train_spec
from gfs_dist.workflows.process import check_device
from gfs_dist.workflows.two_layer import Inputs, data_spec, two_layer


@dataclass(frozen=True)
class Plan:
    """A pruning job whose inputs were read and fit each other.

    Attributes:
        config: as composed.
        inputs: the training split as ranks read it.
        width: neurons of the dense network.
        networks: iteration and network of each given checkpoint; empty if it is trained first.
        recipe: of the search, with the method settled.
        rules: when a search ends, tolerance apart.
        partition: who owns what.
        lines: the plan in words.
    """

    config: schema.Prune
    inputs: Inputs
    width: int
    networks: list[tuple[int, TwoLayer]]
    recipe: Recipe
    rules: Stop
    partition: Partition
    lines: list[str]

    def stop(self, dense_loss: float) -> Stop:
        """When the search of a checkpoint with that dense loss ends."""
        tolerance = self.config.tolerance
        limit = None if tolerance is None else dense_loss + tolerance
        return replace(self.rules, loss=limit)

    @property
    def num_checkpoints(self) -> int:
        """Given, or those that the training will keep."""
        if self.networks:
            return len(self.networks)
        train = self.config.train
        every = train.checkpoint_every or TrainSpec.checkpoint_every
        last = TrainSpec.iterations if train.iterations is None else train.iterations
        return len({*range(0, last, every), last})

    def runtime_spec(self, folder: RunFolder) -> RuntimeSpec:
        """The ranks of this job; their logs go into its folder."""
        known = {k: v for k, v in vars(self.config.runtime).items() if k != "kind"}
        return RuntimeSpec(
            kind=self.config.runtime.kind,
            workers=self.config.workers,
            device=self.config.device,
            threads=self.config.threads,
            graph=_graph(self.config.graph),
            log_folder=str(folder.logs),
            **known,
        )


def make_plan(config: schema.Prune) -> Plan:
    """Read and check everything the job needs; nothing is written.

    Raises:
        InputError: data, checkpoint, partition, graph or stop rules that do not fit.
    """
    check_device(config)
    model = two_layer(config.model)
    objective, replacement, steps = config.objective, config.replacement, config.steps
    assert objective is not None and replacement is not None and steps is not None, "settled"
    given = [
        (iteration, load_network(path, model))
        for iteration, path in (find_checkpoints(config.checkpoint) if config.checkpoint else [])
    ]
    shape = given[0][1] if given else None
    width = shape.width if shape else model.width
    activation = shape.activation if shape else model.activation
    inputs = Inputs(data_spec(config.data), width, activation, objective)
    dataset = inputs.dataset()
    for _, network in given:
        if network.features != dataset.features or network.width != width:
            raise ShapeError(
                f"checkpoint: found a network of {network.width} neurons on {network.features} "
                f"inputs, accepted {width} neurons on {dataset.features} inputs "
                f"(data={config.data.name})"
            )
    rules = Stop(steps, config.distinct)
    rules.check(width)
    if config.graph != "none":
        make_graph(_graph(config.graph), config.workers)
    recipe = Recipe(objective, config.method, config.weights, replacement)
    dense = shape or TwoLayer(width, dataset.features, activation)
    source = TwoLayerContributions(dense, dataset.x_train, DTYPES[config.precision])
    memory = memory_per_rank_bytes(config.workers, config.device)
    settled, reason = settle(recipe, source, config.workers, rules, memory)
    plan = Plan(
        config,
        inputs,
        width,
        given,
        settled,
        rules,
        _partition(config.partition, width, config.workers),
        [],
    )
    plan.lines.extend(_words(plan, reason))
    return plan


def _words(plan: Plan, method: str) -> list[str]:
    config, dataset = plan.config, plan.inputs.dataset()
    classes = "regression" if dataset.labels_train.is_floating_point() else "two classes"
    count = plan.num_checkpoints
    checkpoints = "1 checkpoint" if count == 1 else f"{count} checkpoints"
    if plan.networks:
        source = f"{checkpoints} from {config.checkpoint}"
    else:
        spec = train_spec(config, plan.inputs)
        source = (
            f"trained first: {spec.iterations:,} iterations of {spec.method}, lr {spec.lr:.4g}, "
            + checkpoints
        )
    rules = [f"at most {plan.rules.steps:,} picks"]
    if config.distinct is not None:
        rules = [f"until {config.distinct:,} distinct neurons", *rules]
    if config.tolerance is not None:
        rules.append(f"until the loss is within {config.tolerance:g} of the dense one")
    return [
        f"data      {config.data.name}: {len(dataset.x_train):,} samples to prune on, "
        f"{len(dataset.x_test):,} to test on, {dataset.features:,} inputs, {classes}",
        f"network   two-layer, {plan.width:,} {plan.inputs.activation} neurons; {source}",
        f"search    {config.objective} loss, {config.weights} weights, "
        f"{'with' if config.replacement else 'without'} replacement, {'; '.join(rules)}",
        f"method    {method}",
        f"ranks     {config.workers} on runtime={config.runtime.kind}, device={config.device}, "
        f"{config.partition} partition"
        + (f", graph {config.graph}" if config.graph != "none" else ""),
        "time      told once the first steps are measured",
    ]


def _partition(word: str, width: int, workers: int) -> Partition:
    if word in KINDS:
        return make_partition(word, width, workers)
    parts = _read_lists("partition", word, f"{', '.join(KINDS)} or a JSON file of lists")
    partition = Partition(parts)
    if partition.num_candidates != width:
        raise ConfigError(
            f"partition: {word} names {partition.num_candidates} neurons, accepted {width}"
        )
    return partition.over(workers)


def _graph(word: str) -> Any:
    if word == "none":
        return None
    if not word.endswith(".json"):
        return word
    return [tuple(edge) for edge in _read_lists("graph", word, "a JSON file of [rank, rank] pairs")]


def _read_lists(key: str, word: str, accepted: str) -> list[list[int]]:
    try:
        lists = load_json(word)
    except OSError as error:
        raise ConfigError(f"{key}: found {word!r}, accepted {accepted}") from error
    except ValueError as error:
        raise ConfigError(f"{key}: {word} is not JSON ({error}), accepted {accepted}") from error
    fits = isinstance(lists, list) and all(
        isinstance(part, list) and all(type(i) is int for i in part) for part in lists
    )
    if not fits:
        raise ConfigError(f"{key}: {word} holds no lists of whole numbers, accepted {accepted}")
    return lists
