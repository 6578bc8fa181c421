"""One network pruned layer by layer: searched once, cut to any size.

find prunable layers -> one path a layer -> widths for a budget -> cut, refit, check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.errors import InputError, NonFiniteError
from gfs_dist.files import checkpoint
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.measure.inputs import Batch, Call
from gfs_dist.networks.models.layer_kinds import kernel_size
from gfs_dist.pruning.calibration.dense_pass import SMALL_SUMS, DensePass, DenseTask, run_dense_pass
from gfs_dist.pruning.calibration.layer_sites import Site, find_sites
from gfs_dist.pruning.calibration.workspace import Select, Workspace, read_sums
from gfs_dist.pruning.objectives.evaluation_batches import Sampling
from gfs_dist.pruning.objectives.fisher import DerivativesTask, FisherProblem
from gfs_dist.pruning.objectives.moment_objectives import LayerProblem
from gfs_dist.pruning.objectives.network_loss import NetworkLossProblem
from gfs_dist.pruning.objectives.stored_moments import StoredMap, make_map, stored_products
from gfs_dist.pruning.repair.fit_rule import AUTO, FitRule
from gfs_dist.pruning.repair.reselect import reselectable
from gfs_dist.pruning.repair.stream_training import StreamSpec, StreamTask, repair_streams
from gfs_dist.pruning.repair.streams import compared_streams
from gfs_dist.pruning.repair.sweep import SweepTask, run_sweep
from gfs_dist.pruning.smaller import KeptChannels, check_equal, expand_to_dense, make_smaller
from gfs_dist.pruning.structure.discover import find_structure, keep_fittable, nothing_to_prune
from gfs_dist.pruning.structure.structure import Layer, Slice, Structure
from gfs_dist.pruning.widths.costs import Costs, measure_costs
from gfs_dist.runtime import Problem, Progress, Runtime
from gfs_dist.selection.objectives.factory import Recipe
from gfs_dist.selection.path import GreedyPath
from gfs_dist.selection.stop import Stop

SearchLayer = Callable[[Layer, Problem, float], None]
"""Searches a layer by a problem; the number is :attr:`LayerPath.unit`."""


@dataclass(frozen=True)
class Settings:
    """How layers are searched and refitted.

    Attributes:
        objective: ``least_squares``, ``layer_output``, ``fisher`` or ``network_loss``.
        weights: ``uniform`` or ``line_search``.
        replacement: whether a channel may be picked again.
        coupled: prune residual widths too.
        target: of the refit of consumers, see :class:`FitRule`; ``auto``: the stream, or in
            networks of attention what is measured to be best.
        steps: picks in each layer at most; None for as many as it has candidates.
        batch, candidates: ``network_loss``: samples of its mini-batch, and candidates scored at
            each step; None for all.
        seed: of mini-batches and candidates (``network_loss``).
    """

    objective: str = "least_squares"
    weights: str = "uniform"
    replacement: bool = False
    coupled: bool = False
    target: str = "auto"
    steps: int | None = None
    batch: int = 128
    candidates: int | None = None
    seed: int = 0

    def recipe(self, method: str) -> Recipe:
        """How a layer's squared loss is searched."""
        return Recipe("squared", method, self.weights, self.replacement)

    @property
    def sampling(self) -> Sampling:
        return Sampling(batch=self.batch, candidates=self.candidates, seed=self.seed)


@dataclass(frozen=True)
class LayerPath:
    """The search of one layer.

    Attributes:
        path: picks in order.
        loss: after each pick.
        unit: makes losses of different layers comparable: the variance of the stream that
            the layer's consumers write to (``fisher``, ``network_loss``: 1, they are losses of
            the network).
    """

    path: GreedyPath
    loss: list[float]
    unit: float

    @property
    def errors(self) -> list[float]:
        """Loss in units of the stream, after each pick."""
        return [loss / self.unit for loss in self.loss]

    @property
    def curve(self) -> list[float]:
        """Error with 1, 2, ... distinct channels."""
        curve: list[float] = []
        seen: set[int] = set()
        for pick, error in zip(self.path.picks, self.errors, strict=True):
            if pick in seen:
                curve[-1] = min(curve[-1], error)
            else:
                seen.add(pick)
                curve.append(error)
        return curve


@dataclass
class Pruner:
    """A network in its workspace, ready to be searched and cut.

    Attributes:
        workspace: the dense network and the calibration samples.
        structure: prunable layers; those that cannot be handled are among the skipped.
        settings: of search and refit.
        runtime: the ranks.
        paths: layers searched so far.
        weights: by layer, what trials of widths for another budget weighed its error with.
    """

    workspace: Workspace
    structure: Structure
    settings: Settings
    runtime: Runtime
    paths: dict[str, LayerPath] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    rule: FitRule | None = None
    compared_rules: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def prepare(
        cls,
        model: nn.Module,
        batches: Iterable[Any],
        settings: Settings,
        runtime: Runtime,
        folder: Path | str,
        call: Call | None = None,
        select: Select | None = None,
    ) -> Pruner:
        """Write the workspace and find the prunable layers.

        Args:
            model: not modified.
            batches: calibration samples; see :meth:`Workspace.create`.
            folder: new; for scratch files, on storage that all ranks reach.
            call, select: see :meth:`Workspace.create`.

        Raises:
            InputError: nothing in the network can be pruned; names the first reasons. Or the
                objective needs class numbers, and there are none.
        """
        workspace = Workspace.create(folder, model, batches, call, select)
        if settings.objective == "network_loss" and workspace.follows:
            raise InputError(
                "objective: found 'network_loss', accepted for networks of one tensor in recorded "
                "steps; least_squares, layer_output and fisher take any"
            )
        if settings.objective in LABELLED:
            workspace.require_labels(f"objective {settings.objective}")
        example, given = workspace.x(0)[:2], workspace.dense() if workspace.follows else model
        structure = find_structure(given, example, coupled=settings.coupled)
        numbered = any(layer.counts for layer in structure.layers)
        if numbered and not workspace.follows and settings.objective != "network_loss":
            # Recorded steps hold numbers of heads that a cut changes.
            workspace = workspace.followed(model)
            given, example = workspace.dense(), workspace.x(0)[:2]
        structure = keep_fittable(given, workspace.dense(), structure, example)
        if not structure.layers:
            raise nothing_to_prune(type(model).__name__, structure)
        return cls(workspace, structure, settings, runtime)

    @cached_property
    def dense(self) -> GraphNetwork:
        return self.workspace.dense()

    @cached_property
    def example(self) -> Batch:
        """Two samples."""
        return self.workspace.x(0)[:2]

    @property
    def only_input(self) -> Tensor:
        """Two samples of a network that takes one tensor, and is recorded."""
        assert isinstance(self.example, Tensor)
        return self.example

    @cached_property
    def costs(self) -> Costs:
        return measure_costs(self.dense, self.example, self.structure)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        return find_sites(self.dense, self.example)

    @property
    def channels(self) -> dict[str, int]:
        """Candidates of each layer."""
        return {layer.name: layer.num_candidates for layer in self.structure.layers}

    def consumer_sites(self, layers: Sequence[Layer]) -> tuple[Site, ...]:
        """Sites that read candidates of ``layers``."""
        names = {part.module for layer in layers for part in layer.consumers}
        return tuple(site for site in self.sites if site.module in names)

    def samples_a_coefficient(self, widths: Mapping[str, int]) -> float:
        """Positions of the samples, padding apart, for each input of the consumer with the most.

        A fit of fewer than about ten follows the samples, not the network.

        Args:
            widths: of the layers.
        """
        real = sum(self.workspace.real_share(i) for i in range(self.workspace.num_chunks))
        share = real / self.workspace.num_chunks
        positions = {site.module: site.positions for site in self.sites}
        return min(
            self.workspace.num_samples
            * positions[part.module]
            * (share if positions[part.module] > 1 else 1.0)
            / (
                widths[layer.name]
                * len(part.channels[0])
                * kernel_size(self.dense.get_submodule(part.module))
            )
            for layer in self.structure.layers
            for part in layer.consumers
        )

    def search(
        self,
        *,
        start: Callable[[str], GreedyPath | None] = lambda _: None,
        on_progress: Callable[[str, Progress], None] = lambda *_: None,
        on_layer: Callable[[str, LayerPath], None] = lambda *_: None,
    ) -> None:
        """Search every layer that has no path yet, in forward order.

        Args:
            start: picks already made of a layer, to be replayed and continued.
            on_progress: called with the layer's name while it is searched.
            on_layer: called with each path that is finished.
        """
        wanted = [layer for layer in self.structure.layers if layer.name not in self.paths]

        def search_layer(layer: Layer, problem: Problem, unit: float) -> None:
            with errors_of_layer(layer.name):
                path = self.runtime.search(
                    problem,
                    Stop(steps=self.settings.steps or layer.num_candidates),
                    path=start(layer.name),
                    on_progress=lambda progress: on_progress(layer.name, progress),
                ).path
                loss = path.loss
                if isinstance(problem, LayerProblem) and problem.is_refitted:
                    loss = problem.undamped_losses(path.picks)
            self.paths[layer.name] = LayerPath(path, loss, unit)
            on_layer(layer.name, self.paths[layer.name])

        if wanted:
            PROBLEMS[self.settings.objective](self, wanted, search_layer)
        # Later phases go through layers in this order, whenever they were searched.
        self.paths = {name: self.paths[name] for name in self.channels}

    def by_moments(self, wanted: Sequence[Layer], search_layer: SearchLayer) -> None:
        """Search layers by the moments of their consumers, as soon as one pass has summed them."""
        sites = self.consumer_sites(wanted)
        dense_pass = DensePass(self.dense, sites)
        maps: dict[str, list[StoredMap]] = {layer.name: [] for layer in wanted}
        units = dict.fromkeys(maps, 0.0)
        readers: dict[str, list[tuple[Layer, Slice]]] = {site.module: [] for site in sites}
        for layer in wanted:
            for part in layer.consumers:
                readers[part.module].append((layer, part))
        samples = self.workspace.num_samples

        def on_site(stage: int, files: Sequence[Path]) -> None:
            reading = dense_pass.reading(stage, read_sums(files, SMALL_SUMS))
            with stored_products(self.runtime, files) as pieces:
                for layer, consumer in readers[sites[stage].module]:
                    folder = self.workspace.subfolder("maps", layer.name, consumer.module)
                    maps[layer.name].append(
                        make_map(self.runtime, pieces, reading, consumer, samples, folder)
                    )
                    units[layer.name] += 2 * reading.variance / samples
            for layer in wanted:
                if layer.name not in self.paths and len(maps[layer.name]) == len(layer.consumers):
                    problem = LayerProblem(
                        self.settings.objective,
                        layer.num_candidates,
                        tuple(maps[layer.name]),
                        self.settings.recipe("lazy"),
                    )
                    search_layer(layer, problem, units[layer.name] or 1.0)
                    for stored in maps[layer.name]:
                        stored.remove()

        run_dense_pass(DenseTask(self.workspace, sites), self.runtime, on_site)

    def by_derivatives(self, wanted: Sequence[Layer], search_layer: SearchLayer) -> None:
        """Search layers by the derivatives of each sample's loss, after one pass back."""
        task = DerivativesTask(self.workspace, self.structure)
        files = tuple(self.runtime.map(task, range(len(self.workspace.parts()))).values)
        for layer in wanted:
            recipe = self.settings.recipe("lazy")
            problem = FisherProblem(layer.name, layer.num_candidates, files, recipe)
            search_layer(layer, problem, 1.0)
        for file in files:
            Path(file).unlink()

    def by_network_loss(self, wanted: Sequence[Layer], search_layer: SearchLayer) -> None:
        """Search layers by the loss of the whole network."""
        for layer in wanted:
            recipe, sampling = self.settings.recipe("auto"), self.settings.sampling
            problem = NetworkLossProblem(self.workspace, layer, recipe, sampling)
            search_layer(layer, problem, 1.0)

    @property
    def picks_are_weighted(self) -> bool:
        """Whether a pick can count more than once (with ``least_squares`` it counts nothing)."""
        return self.settings.objective != "least_squares"

    def keep(self, widths: Mapping[str, int], *, fold: bool) -> KeptChannels:
        paths = {name: found.path for name, found in self.paths.items()}
        return KeptChannels.of_paths(paths, widths, fold=fold)

    def cut(self, kept: KeptChannels) -> GraphNetwork:
        """The smaller network, before any repair."""
        return make_smaller(self.dense, self.structure, kept)

    def refit(
        self,
        kept: KeptChannels,
        name: str,
        on_site: Callable[[int], None] = lambda _: None,
        *,
        reselect: bool = False,
        rule: FitRule | None = None,
        chunks: Sequence[int] = (),
    ) -> tuple[GraphNetwork, KeptChannels]:
        """The smaller network with every weight that comes after a cut fitted again.

        Args:
            kept: channels that stay.
            name: folder for this sweep's files, new in the workspace.
            on_site: called with the number of sites that are done.
            reselect: pick channels again, as many, where that can be done on the way.
            rule: of the fits; None: the pruner's.
            chunks: of samples that are fitted to; none for all.

        Returns:
            The network, and its channels.
        """
        work, structure, sites = self.workspace, self.structure, self.fitted_sites
        rule = rule or self.fit_rule
        whole: tuple[str, ...] = ()
        if reselect or rule.needs_all_inputs:
            repick = not rule.needs_all_inputs
            whole = reselectable(structure, sites, self.dense, kept, repick=repick)
        work = work.subset(chunks) if chunks else work
        task = SweepTask(work, structure, sites, kept, rule, name, whole, reselect)
        return run_sweep(task, self.runtime, on_site)

    @property
    def fit_rule(self) -> FitRule:
        """How weights are fitted: as asked, or measured, or as it is best for CNNs."""
        return self.rule or FitRule(
            "stream" if self.settings.target == AUTO else self.settings.target
        )

    @property
    def measures_rule(self) -> bool:
        """Whether a rule is to be measured: for networks of attention, unless one is given."""
        return self.settings.target == AUTO and self.rule is None and self.has_blocks

    @property
    def has_blocks(self) -> bool:
        """Whether there are units other than channels: feed-forward neurons, heads."""
        return any(layer.kind not in ("channels", "groups") for layer in self.structure.layers)

    @property
    def fitted_sites(self) -> tuple[Site, ...]:
        """Sites that a refit goes through; in networks of attention those of consumers alone.

        All 37 of MiniLM, cut to half its feed-forward neurons, reach a cosine of 0.9375, the six
        consumers 0.9403, in a third of the time.
        """
        return self.consumer_sites(self.structure.layers) if self.has_blocks else self.sites

    @property
    def has_streams(self) -> bool:
        """Whether there is anything that :meth:`repair_streams` could aim at."""
        kept = KeptChannels.first(dict.fromkeys(self.channels, 1))
        outputs = kept.outputs(self.structure, self.dense)
        return bool(compared_streams(self.dense, self.sites, outputs))

    def repair_streams(
        self,
        small: GraphNetwork,
        kept: KeptChannels,
        spec: StreamSpec,
        state: Path,
        on_step: Callable[[int, float], None] = lambda *_: None,
    ) -> GraphNetwork:
        """The smaller network with all its weights trained towards the dense network's streams.

        Args:
            small: has the channels ``kept``, whatever was repaired before.
            state: file of the steps done so far; its folder is there, on storage that ranks reach.
            on_step: called with the number of steps that are done and the loss.
        """
        start = self.workspace.subfolder("streams") / f"{state.stem}.safetensors"
        checkpoint.write_tensors(start, small.state_dict(), durable=False)
        task = StreamTask(
            self.workspace, self.structure, self.sites, kept, str(start), str(state), spec
        )
        return repair_streams(task, self.runtime, on_step)

    def check(self, small: nn.Module, kept: KeptChannels) -> float:
        """The difference between the smaller network and the masked one on all samples.

        Raises:
            RunError: it is more than rounding.
        """
        masked = expand_to_dense(small, self.dense, self.structure, kept)
        return check_equal(small, masked, map(self.workspace.x, range(self.workspace.num_chunks)))


@contextmanager
def errors_of_layer(name: str) -> Iterator[None]:
    """Errors of the search's arithmetic, which knows no layers, get the layer's name."""
    try:
        yield
    except (NonFiniteError, torch.linalg.LinAlgError) as error:
        if repr(name) in str(error):
            raise
        raise NonFiniteError(f"layer {name!r}: {error}") from error


PROBLEMS: dict[str, Callable[[Pruner, Sequence[Layer], SearchLayer], None]] = {
    "least_squares": Pruner.by_moments,
    "layer_output": Pruner.by_moments,
    "fisher": Pruner.by_derivatives,
    "network_loss": Pruner.by_network_loss,
}
"""Objectives, and how each makes problems of layers."""

LABELLED = ("fisher", "network_loss")
"""Objectives that need the class number of every sample."""
