"""A description of a deep network, seen to make the same network again.

There are two kinds: the recorded graph (:mod:`gfs_dist.networks.graph.describe`), which needs
nobody's code, and what made the network together with what was removed
(:mod:`gfs_dist.networks.storage.removals`). Networks of the catalog prefer the second, all others
the first.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from gfs_dist.errors import ConfigError, InputError, NonFiniteError, ShapeError
from gfs_dist.files import atomic
from gfs_dist.networks.graph.describe import describe
from gfs_dist.networks.graph.json_values import UNSEEN, UnstorableError
from gfs_dist.networks.measure.non_finite import first_non_finite
from gfs_dist.networks.models.catalog import CATALOG
from gfs_dist.networks.storage import removals as replay
from gfs_dist.networks.storage.equality import difference, outputs_of
from gfs_dist.networks.storage.rebuild import load_tensors
from gfs_dist.networks.storage.tensors import copied, named_tensors, refuse_non_finite

UNKNOWN = {"model": "graph"}
"""The origin of a network that came as an object."""

Described = tuple[dict[str, Any], dict[str, Tensor]]


def described(
    network: nn.Module, inputs: list[Tensor], origin: dict[str, Any] | None = None
) -> Described:
    """A description that was seen to make the same network again, and the tensors for it.

    Args:
        network: a :func:`plain_copy`.
        inputs: its example.
        origin: what made it, see :func:`gfs_dist.networks.save`.

    Raises:
        UnstorableError: there is none.
        ShapeError: the network does not take the example.
        NonFiniteError: a tensor holds NaN or infinity, or the output NaN; names tensor or layer.
    """
    origin = _json(origin or UNKNOWN)
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            raise UnstorableError(
                f"its state has a {type(value).__name__}, {name!r}, no tensor: give it without "
                "get_extra_state, and a quantized network as it was before"
            )
        refuse_non_finite({name: value})
    running = copied(network)  # a forward pass may count its calls in a buffer
    try:
        examples = [(inputs, outputs_of(running, inputs))]
    except Exception as error:  # the user's code may raise anything
        words = f"{type(error).__name__}: {error}".partition("\n")[0]
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise ShapeError(f"example of shape {shapes}: on it the network raises {words}") from error
    if any(isinstance(leaf, Tensor) and leaf.isnan().any() for leaf in examples[0][1]):
        layer = first_non_finite(network, *inputs)
        raise NonFiniteError(f"model: its output is NaN, first after layer {layer!r}")
    with suppress(Exception):  # a network may need several rows; else any number has to do
        row = [x[:1] for x in inputs]
        examples.append((row, outputs_of(running, row)))
    ways = [lambda: _by_graph(network, inputs, origin), lambda: _by_origin(network, origin)]
    weaker: list[Described] = []
    reasons = []
    for way in ways[::-1] if origin.get("model") in CATALOG else ways:
        try:
            facts, tensors = way()
            _check(facts, tensors, network, examples)
        except (UnstorableError, InputError) as reason:
            reasons.append(str(reason))
            continue
        if not facts.get("graph", {}).get("evaluation_only"):
            return facts, tensors
        weaker.append((facts, tensors))
    if weaker:
        return weaker[0]
    raise UnstorableError(*reasons)


def _by_graph(network: nn.Module, inputs: list[Tensor], origin: dict[str, Any]) -> Described:
    graph, tensors = describe(network, inputs)
    refuse_non_finite(tensors)  # constants of the forward pass too
    return {**origin, "graph": graph}, tensors


def _by_origin(network: nn.Module, origin: dict[str, Any]) -> Described:
    if origin == UNKNOWN:
        raise UnstorableError("its factory, which could make it again, is not known")
    before = replay.fresh(origin, named=origin.get("factory"))
    own = named_tensors(network)
    tensors = {name: own[name].detach() for name in network.state_dict() if name in own}
    return {**origin, "removals": replay.removals(before, network)}, tensors


def _check(
    facts: dict[str, Any],
    tensors: dict[str, Tensor],
    network: nn.Module,
    examples: list[tuple[list[Tensor], list[Any]]],
) -> None:
    """Make the network again as :func:`gfs_dist.load` will.

    Raises:
        UnstorableError: it is not the same.
    """
    try:
        again = load_tensors(_json(facts), tensors, "model", factory=facts.get("factory"))
        wrong = [difference(wanted, outputs_of(again, inputs)) for inputs, wanted in examples]
    except Exception as error:  # a description that is not the whole truth may raise anything
        raise UnstorableError(f"made again: {error}: {UNSEEN}") from error
    for name in network.state_dict().keys() ^ again.state_dict().keys():
        raise UnstorableError(f"made again, {name!r} is not in both")
    for words in filter(None, wrong):
        raise UnstorableError(f"made again, it {words}: {UNSEEN}")


def _json(facts: dict[str, Any]) -> dict[str, Any]:
    """As a file gives them back."""
    try:
        read: dict[str, Any] = json.loads(atomic.json_text(facts))
    except TypeError as error:
        raise ConfigError(f"model: {error}, accepted is what JSON has") from error
    return read
