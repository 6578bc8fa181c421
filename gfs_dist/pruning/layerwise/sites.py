"""Where weights sit in a network, and what their outputs turn into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from gfs_dist.networks.graph_network import GraphNetwork, Step
from gfs_dist.networks.values import Result

_SUMS = {"operator.add", "torch.add", "Tensor.add"}
_RECTIFIERS = {
    "torch.relu",
    "torch.nn.functional.relu",
    "torch.nn.functional.relu6",
    "Tensor.relu",
}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_PASSES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class Site:
    """A convolution or linear layer whose weights can be fitted by least squares.

    Attributes:
        module: its qualified name.
        output, source: steps that give its output and its input.
        norm: the batch norm that alone reads its output.
        stream: the step it is aimed at: its output, normed, and added to ``other`` if it is.
        other: the other summand (a residual block's shortcut).
        rectified: nothing but ReLUs reads the stream, so that values below zero are all alike.
    """

    module: str
    output: str
    source: str
    norm: str | None
    stream: str
    other: str | None
    rectified: bool


def fittable(module: nn.Module) -> bool:
    """Whether least squares can fit it: linear, or an ungrouped zero-padded 2-d convolution."""
    if isinstance(module, nn.Linear):
        return True
    return (
        type(module) is nn.Conv2d
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def find_sites(network: GraphNetwork) -> tuple[Site, ...]:
    """All sites, each after those that its input and its ``other`` summand depend on."""
    steps = {step.name: step for step in network.gfs_program}
    users: dict[str, list[Step]] = {name: [] for name in (*network.gfs_inputs, *steps)}
    for step in steps.values():
        for name in step.needs & users.keys():
            users[name].append(step)
    calls: dict[str, int] = {}
    for step in steps.values():
        if step.kind == "module":
            calls[step.target] = calls.get(step.target, 0) + 1
    found = [
        _site(network, step, users, calls)
        for step in steps.values()
        if step.kind == "module"
        and calls[step.target] == 1
        and fittable(network.get_submodule(step.target))
        and step.plain
        and len(step.args) == 1
    ]
    return tuple(_in_order(network, found))


def _site(
    network: GraphNetwork, step: Step, users: dict[str, list[Step]], calls: dict[str, int]
) -> Site:
    source = step.args[0].name
    norm, stream, other = None, step.name, None
    reader = _only_reader(network, stream, users)
    if reader is not None and reader.kind == "module" and calls[reader.target] == 1:
        module = network.get_submodule(reader.target)
        if isinstance(module, _NORMS) and module.running_mean is not None and module.affine:
            norm, stream = reader.target, reader.name
            reader = _only_reader(network, stream, users)
    if reader is not None and reader.kind == "call" and reader.target in _SUMS:
        names = [arg.name for arg in reader.args if isinstance(arg, Result)]
        passed = _passed_on(network, stream, users)
        others = [name for name in names if name != passed]
        if len(names) == 2 and len(others) == 1 and not reader.kwargs:
            stream, other = reader.name, others[0]
    readers = users[stream]
    rectified = bool(readers) and all(_rectifies(network, user) for user in readers)
    return Site(step.target, step.name, source, norm, stream, other, rectified)


def _passed_on(network: GraphNetwork, name: str, users: dict[str, list[Step]]) -> str:
    """The last of the steps after ``name`` that change nothing when evaluated."""
    while len(users[name]) == 1 and _passes(network, users[name][0]):
        name = users[name][0].name
    return name


def _only_reader(network: GraphNetwork, name: str, users: dict[str, list[Step]]) -> Step | None:
    readers = users[_passed_on(network, name, users)]
    return readers[0] if len(readers) == 1 else None


def _passes(network: GraphNetwork, step: Step) -> bool:
    return step.kind == "module" and isinstance(network.get_submodule(step.target), _PASSES)


def _rectifies(network: GraphNetwork, step: Step) -> bool:
    if step.kind == "module":
        return isinstance(network.get_submodule(step.target), nn.ReLU | nn.ReLU6)
    return step.kind == "call" and step.target in _RECTIFIERS


def _in_order(network: GraphNetwork, sites: Iterable[Site]) -> list[Site]:
    by_output = {site.output: site for site in sites}
    before = ancestors(network)
    ordered: list[Site] = []
    done: set[str] = set()

    def visit(site: Site) -> None:
        if site.output in done:
            return
        done.add(site.output)
        needed = set(before[site.source])
        if site.other is not None:
            needed |= before[site.other]
        for name in by_output:
            if name in needed:
                visit(by_output[name])
        ordered.append(site)

    for site in by_output.values():
        visit(site)
    return ordered


def ancestors(network: GraphNetwork) -> dict[str, frozenset[str]]:
    """For each step and input: itself and all that it is computed from."""
    found = {name: frozenset([name]) for name in network.gfs_inputs}
    for step in network.gfs_program:
        above = [found[name] for name in step.needs if name in found]
        found[step.name] = frozenset([step.name]).union(*above)
    return found
