"""Sites: layers whose weights least squares can fit, and the stream each adds to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gfs_dist.networks.graph.graph_network import GraphNetwork, Step
from gfs_dist.networks.graph.json_values import TRAINING, StepOutput, needed
from gfs_dist.networks.measure.inputs import Inputs
from gfs_dist.networks.models.layer_kinds import (
    CONVOLUTIONS,
    TRANSPOSED,
    blocks,
    is_transformers_conv1d,
    kernel_size,
    num_groups,
    num_inputs,
    num_outputs,
    reads_features,
)

MAX_GROUPED_INPUTS = 2304
"""Inputs of a grouped convolution, kernel positions counted, up to which it is fitted."""

_SUMS = {"operator.add", "torch.add", "Tensor.add"}
_RECTIFIERS = {"torch.relu", "torch.nn.functional.relu", "torch.nn.functional.relu6", "Tensor.relu"}
_LAYERS = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
_NORM_PASSES = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
_PASSES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_DROPOUTS = {f"torch.nn.functional.dropout{kind}" for kind in ("", "1d", "2d", "3d")}
_SIZES = {f"Tensor.{name}" for name in ("shape", "size", "ndim", "dim", "numel", "dtype", "device")}


@dataclass(frozen=True)
class Site:
    """A convolution or linear layer whose weights can be fitted by least squares.

    Attributes:
        module: its qualified name.
        output, source: steps of its output and its input.
        norm: the batch norm that is the only reader of its output.
        normed: the step of the norm; without one, of the output.
        stream: the step that a fit aims at: ``normed``, or its sum with ``other``.
        other: the other summand (a residual block's shortcut).
        rectified: only ReLUs read the stream, so that all values below zero are equivalent.
        positions: that the layer visits in a sample.
    """

    module: str
    output: str
    source: str
    norm: str | None
    normed: str
    stream: str
    other: str | None
    rectified: bool
    positions: int

    def alone(self) -> Site:
        """The site aimed at its own output."""
        if self.other is None:
            return self
        return replace(self, stream=self.normed, other=None, rectified=False)


def fittable(module: nn.Module) -> bool:
    """Whether its output is its weight times what it reads: linear layers and convolutions.

    Depthwise ones, which join no channels, are left as they are, and so are those whose weight is
    computed from other tensors, and grouped ones of many inputs: moments are held for all groups
    together.
    """
    if not isinstance(module, _LAYERS) and not is_transformers_conv1d(module):
        return False
    if "weight" not in dict(module.named_parameters(recurse=False)):
        return False
    if num_groups(module) == 1:
        return True
    inputs = num_inputs(module) * kernel_size(module)
    return blocks(module).shape[2] > 1 and inputs <= MAX_GROUPED_INPUTS


def find_sites(network: GraphNetwork, example: Tensor | Inputs) -> tuple[Site, ...]:
    """All sites, each after those that its input and its ``other`` summand depend on.

    Args:
        network: recorded.
        example: a batch of inputs, which is run once for the shapes of results.
    """
    finder = _Finder(network, example)
    before = ancestors(network)
    called = ((step, finder.called(step)) for step in network.gfs_program)
    sites = [finder.site(step) for step, layer in called if layer is not None and fittable(layer)]
    return tuple(_in_order(_in_turn(sites, before), before))


class _Finder:
    """The readers of each result in one network."""

    def __init__(self, network: GraphNetwork, example: Tensor | Inputs) -> None:
        self.network = network
        self.shapes: dict[str, torch.Size] = {}
        self.others: set[str] = set()
        for step, results in _run(network, example):
            found = results[step.name]
            if isinstance(found, Tensor):
                self.shapes[step.name] = found.shape
                module = network.get_submodule(step.target) if step.kind == "module" else None
                layer = isinstance(module, _LAYERS) and step.plain and len(step.args) == 1
                if layer and not _is_itself(module, results[step.args[0].name], found):
                    self.others.add(step.name)
        self.outputs = needed(network.gfs_output)
        self.users: dict[str, list[Step]] = {name: [] for name in network.gfs_inputs}
        self.calls: Counter[nn.Module] = Counter()
        self.owners = Counter(
            id(parameter)
            for module in network.modules()
            for parameter in module.parameters(recurse=False)
        )
        for step in network.gfs_program:
            self.users[step.name] = []
            if step.target not in _SIZES:  # these read no values
                for name in step.needs & self.users.keys():
                    self.users[name].append(step)
            if step.kind == "module":
                self.calls[network.get_submodule(step.target)] += 1
        for step in network.gfs_program:
            # Code that asks for a weight's dtype alone does not share it.
            if step.kind == "tensor" and (self.users[step.name] or step.name in self.outputs):
                self.owners[id(reduce(getattr, step.path, network))] += 1

    def called(self, step: Step) -> nn.Module | None:
        """The layer that a step calls with one tensor, if no other step uses it or its weights."""
        if step.kind != "module" or not step.plain or len(step.args) != 1:
            return None
        if step.name in self.others:
            return None
        module = self.network.get_submodule(step.target)
        parameters = module.parameters(recurse=False)
        alone = self.calls[module] == 1 and all(self.owners[id(p)] == 1 for p in parameters)
        return module if alone else None

    def site(self, step: Step) -> Site:
        norm, normed = None, step.name
        reader = self.only_reader(normed)
        if reader is not None and self.norms(reader, step):
            norm, normed = reader.target, reader.name
            reader = self.only_reader(normed)
        stream, other = normed, None
        if reader is not None:
            other = self.other_summand(reader, self.passed_on(normed))
            # A stream of another shape (broadcasting) has no target for each position.
            if other is not None and self.shapes[reader.name] == self.shapes[step.name]:
                stream = reader.name
            else:
                other = None
        source = step.args[0].name
        rectified = self.is_rectified(stream)
        outputs = num_outputs(self.network.get_submodule(step.target))
        positions = self.shapes[step.name][1:].numel() // outputs
        return Site(
            step.target, step.name, source, norm, normed, stream, other, rectified, positions
        )

    def norms(self, reader: Step, step: Step) -> bool:
        """Whether ``reader`` is a batch norm of the channels that ``step`` gives."""
        norm = self.called(reader)
        # A class of its own may do more than the norm (activate, in timm).
        if not isinstance(norm, _BatchNorm) or type(norm).forward not in _NORM_PASSES:
            return False
        if norm.running_mean is None or not norm.affine:
            return False
        # In three dimensions, a norm takes the second for the channels, a linear layer the last.
        last = reads_features(self.network.get_submodule(step.target))
        return not last or len(self.shapes[step.name]) == 2

    def other_summand(self, reader: Step, summand: str) -> str | None:
        if reader.kind != "call" or reader.target not in _SUMS or reader.kwargs:
            return None
        names = [arg.name for arg in reader.args if isinstance(arg, StepOutput)]
        others = [name for name in names if name != summand]
        return others[0] if len(names) == 2 and len(others) == 1 else None

    def is_rectified(self, name: str) -> bool:
        def rectifies(step: Step) -> bool:
            if step.kind == "module":
                return isinstance(self.network.get_submodule(step.target), nn.ReLU | nn.ReLU6)
            return step.kind == "call" and step.target in _RECTIFIERS

        end = self.passed_on(name)
        readers = self.users[end]
        return end not in self.outputs and bool(readers) and all(map(rectifies, readers))

    def only_reader(self, name: str) -> Step | None:
        end = self.passed_on(name)
        return self.users[end][0] if self.is_read_once(end) else None

    def passed_on(self, name: str) -> str:
        """The last of the steps after ``name`` that are the identity in evaluation."""
        while self.is_read_once(name) and self.passes(self.users[name][0]):
            name = self.users[name][0].name
        return name

    def is_read_once(self, name: str) -> bool:
        return len(self.users[name]) == 1 and name not in self.outputs

    def passes(self, step: Step) -> bool:
        if step.kind == "module":
            return isinstance(self.network.get_submodule(step.target), _PASSES)
        training = step.kwargs.get("training", step.args[2] if len(step.args) > 2 else True)
        return step.target in _DROPOUTS and training in (False, TRAINING)


@torch.no_grad()
def _run(network: GraphNetwork, example: Tensor | Inputs) -> Iterator[tuple[Step, dict[str, Any]]]:
    """Each step, with its result and those that it needed."""
    (name,) = network.gfs_inputs
    results: dict[str, Any] = {TRAINING.name: False, name: example}
    for step in network.gfs_program:
        results[step.name] = network.run_step(step, results)
        yield step, results
        for used in step.last_used:
            del results[used]


def _is_itself(module: Any, x: Tensor, found: Tensor) -> bool:
    """Whether a layer of a class of its own computes what the class of torch.nn does."""
    kind = next(kind for kind in _LAYERS if isinstance(module, kind))
    if type(module) is kind:
        return True
    expected = kind.forward(module, x)
    return expected.shape == found.shape and torch.allclose(expected, found, 1e-4, 1e-6)


def _in_turn(sites: Sequence[Site], before: dict[str, frozenset[str]]) -> list[Site]:
    """Of two sites whose outputs are added, only the second is aimed at the sum.

    The second is the one that depends on more steps (a block's last layer, not its shortcut's).
    """
    pairs: dict[str, list[Site]] = {}
    for site in sites:
        if site.other is not None:
            pairs.setdefault(site.stream, []).append(site)
    first = {
        one
        for pair in pairs.values()
        for one, _ in pairwise(sorted(pair, key=lambda site: len(before[site.output])))
    }
    return [site.alone() if site in first else site for site in sites]


def _in_order(sites: Iterable[Site], before: dict[str, frozenset[str]]) -> list[Site]:
    """Depth first: each site after those it depends on."""
    by_output = {site.output: site for site in sites}
    ordered: dict[str, Site] = {}

    def visit(site: Site) -> None:
        needed_first = before[site.source] | before[site.other or site.source]
        for name, earlier in by_output.items():
            if name in needed_first and name not in ordered:
                visit(earlier)
        ordered.setdefault(site.output, site)

    for site in by_output.values():
        visit(site)
    return list(ordered.values())


def ancestors(network: GraphNetwork) -> dict[str, frozenset[str]]:
    """For each step and input: itself and everything it is computed from."""
    found = {name: frozenset([name]) for name in network.gfs_inputs}
    for step in network.gfs_program:
        above = [found[name] for name in step.needs if name in found]
        found[step.name] = frozenset([step.name]).union(*above)
    return found
