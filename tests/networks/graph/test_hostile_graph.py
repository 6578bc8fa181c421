"""A description may come from anyone: nothing of it runs, allocates or crashes the reader.

Reaches inside, to break descriptions part by part without a folder for each.
"""

from __future__ import annotations

import copy
import json
import random
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gfs_dist import networks
from gfs_dist.errors import CheckpointError, ConfigError
from gfs_dist.networks.graph.build import build
from gfs_dist.networks.graph.describe import describe
from gfs_dist.networks.graph.json_values import MAX_PARTS, decode
from gfs_dist.networks.graph.tensors import named_tensors
from tests.networks import nets


@pytest.fixture
def graph() -> dict[str, Any]:
    """Of a small network: inputs, steps, an own tensor, a tied one, a second name."""
    described, _ = describe(nets.Shared(), [torch.randn(2, 12)])
    return json.loads(json.dumps(described))


def node(name: str = "n", **what: Any) -> dict[str, Any]:
    return {"name": name, "args": [], "kwargs": {}, **what}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("modules", None, "graph.modules: found NoneType, accepted an object"),
        ("modules", {"a": 3}, "layer 'a': found int, accepted an object"),
        ("modules", {"a": {"class": "LSTM", "arguments": {}}}, "found class 'LSTM', accepted lay"),
        ("modules", {"a": {"class": "os.system", "arguments": {}}}, "found class 'os.system'"),
        ("modules", {"a": {"class": ["Linear"], "arguments": {}}}, "accepted layers of torch.nn"),
        (
            "modules",
            {"a": {"class": "Linear", "arguments": {}}},
            "Linear cannot be made: .*missing",
        ),
        ("modules", {"a": {"class": "ReLU", "arguments": {"device": "cpu"}}}, "argument 'device'"),
        ("modules", {"a": {"class": "ReLU", "arguments": {"_x": 1}}}, "found argument '_x'"),
        ("modules", {"a": {"same_as": "b"}}, "same_as 'b' is no layer before it"),
        ("modules", {"a": {"same_as": []}}, r"same_as '\[\]' is no layer before it"),
        ("modules", {"forward": {"class": "ReLU", "arguments": {}}}, "'forward' cannot be placed"),
        (
            "modules",
            {"_modules": {"class": "ReLU", "arguments": {}}},
            "'_modules' cannot be placed",
        ),
        ("modules", {"": {"class": "ReLU", "arguments": {}}}, "'' cannot be placed"),
        ("modules", {"a..b": {"class": "ReLU", "arguments": {}}}, "'a..b' cannot be placed"),
        ("modules", {"a." * 90 + "b": {"class": "ReLU", "arguments": {}}}, "too many levels"),
        ("modules", {"train.a": {"class": "ReLU", "arguments": {}}}, "'train.a' cannot be placed"),
        ("tensors", {"a": {"kind": "file", "shape": []}}, "found 'file', accepted parameter"),
        ("tensors", {"a": {"kind": "buffer", "shape": "12"}}, "found shape 12, which no tensor"),
        ("tensors", {"a": {"kind": "buffer", "shape": [-1]}}, "which no tensor has"),
        ("tensors", {"a": {"kind": "buffer", "shape": [2**62, 2**62]}}, "which no tensor has"),
        ("tensors", {"a": {"kind": "buffer", "shape": [1.5]}}, "which no tensor has"),
        ("tied", {"encode.weight": "inner.weight"}, "'encode.weight' cannot be 'inner.weight'"),
        ("tied", {"encode.weight": None}, "'encode.weight' cannot be 'None'"),
        ("tied", {"offset": "inner.bias"}, "graph.tied: 'offset'"),
        ("inputs", ["a", "a"], "graph.inputs: .* accepted different names"),
        ("inputs", [1], "graph.inputs: .* accepted different names"),
        ("inputs", [], "uses 'input_0' before it is there"),
        ("output", {"node": "none"}, "graph.output: found 'none', which no step gives"),
        ("output", {"node": 3}, "graph.output: found {'node': 3}"),
        ("nodes", {}, "graph.nodes: found dict of 0, accepted a list"),
        ("nodes", [3], "graph.nodes: found int, accepted an object"),
        ("nodes", [node()], "accepted is a name and one of module, tensor, call"),
        ("nodes", [node(call="torch.cat", module="inner")], "one of module, tensor, call"),
        ("nodes", [node(call=3)], "found call 3, accepted a name"),
        ("nodes", [node(call="torch.load")], "found no call 'torch.load'"),
        ("nodes", [node(call="builtins.eval")], "found no call 'builtins.eval'"),
        ("nodes", [node(call="torch.ops.aten.add")], "found no call"),
        ("nodes", [node(call="Tensor.__class__")], "found no call"),
        ("nodes", [node(module="forward.__globals__")], "found no module"),
        ("nodes", [node(tensor="__dict__")], "found no tensor '__dict__'"),
        ("nodes", [node(tensor="inner")], "found no tensor 'inner'"),
        ("nodes", [node(module="inner", args=3)], "args: found int, accepted a list"),
        ("nodes", [node(module="inner", kwargs=[])], "kwargs: found list of 0, accepted an object"),
        ("nodes", [node(module="inner", args=[{"eval": "1"}])], "argument 0: found 'eval': '1'"),
        ("nodes", [node(module="inner", args=[{"device": "x\n"}])], "argument 0: found 'device'"),
        (
            "nodes",
            [node(module="inner", args=[{"slice": [1]}])],
            "accepted values of a desc",
        ),
        ("nodes", [node(module="inner", args=[{"a": 1, "b": 2}])], "accepted values of a desc"),
        ("nodes", [node(module="inner", args=[2**70])], r"accepted below 2\*\*62"),
        ("nodes", [node(module="inner", args=[deep(50)])], "nested more than 8 deep"),
        ("nodes", [node("a", module="inner", args=[{"node": "a"}])], "'a' uses 'a' before"),
        ("nodes", [node(call="torch.cat"), node(call="torch.cat")], "'n' is there twice"),
        ("nodes", [node("input_0", call="torch.cat")], "'input_0' is there twice"),
        ("nodes", [node()] * (MAX_PARTS + 1), "accepted a list of 50000 or less"),
    ],
)
def test_a_malformed_description_is_refused(
    graph: dict[str, Any], key: str, value: Any, message: str
) -> None:
    if key == "nodes":
        graph["output"] = {"node": "input_0"}
    with pytest.raises(ConfigError, match=message):
        build({**graph, key: value})


def test_two_steps_cannot_need_each_other(graph: dict[str, Any]) -> None:
    graph["nodes"] = [
        node("a", module="inner", args=[{"node": "b"}]),
        node("b", module="inner", args=[{"node": "a"}]),
    ]
    with pytest.raises(ConfigError, match="step 'a' uses 'b' before it is there"):
        build(graph)


@pytest.mark.parametrize("features", [2**27, 2**45, 2**61, 10**30])
def test_an_enormous_layer_is_refused_before_it_is_allocated(tmp_path: Path, features: int) -> None:
    networks.save(tmp_path / "m", nets.mlp(), example=torch.randn(2, 12))
    file = tmp_path / "m" / "architecture.json"
    facts = json.loads(file.read_text())
    facts["graph"]["modules"]["1"]["arguments"]["out_features"] = features
    file.write_text(json.dumps(facts))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        CheckpointError, match="found \\(7, 12\\)|found \\(7,\\)|cannot be made|below"
    ):
        networks.load(tmp_path / "m")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON value with every key or index of it."""
    if isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in list(items):
            yield content, key
            yield from places(value)


JUNK = [None, True, -1, 0, 2**40, 1e308, "", "x", "__class__", [], {}, [[]], {"node": "x"}]
JUNK += [{"node": "input_0"}, {"tuple": [1]}, {"slice": [0, 1, 0]}, {"dict": {"a": 1}}, "1.weight"]


@pytest.mark.parametrize("name", nets.TRACED)
def test_damaged_descriptions_are_refused_or_whole(name: str) -> None:
    """Junk in one to three places: an error of one line, or a network of just these tensors."""
    make, shape = nets.TRACED[name]
    described, tensors = describe(make(), [torch.randn(2, *shape)])
    text, chance, refused = json.dumps(described), random.Random(name), []
    for _ in range(100):
        graph = json.loads(text)
        for _ in range(chance.randint(1, 3)):
            holder, key = chance.choice(list(places(graph)))
            if chance.random() < 0.2:
                del holder[key]
            else:
                holder[key] = copy.deepcopy(chance.choice(JUNK))
        try:
            network = networks.load_tensors({"model": "graph", "graph": graph}, tensors, "file")
        except (ConfigError, CheckpointError) as error:
            refused.append(str(error))
        else:
            assert named_tensors(network).keys() == tensors.keys()
    assert len(refused) > 50
    assert not any("\n" in message for message in refused)


@pytest.mark.parametrize("text", ['{"format": 1}', '{"format": 1, "model": "graph"}', "[]", "{"])
def test_an_empty_description_is_refused(tmp_path: Path, text: str) -> None:
    networks.save(tmp_path / "m", nets.mlp(), example=torch.randn(2, 12))
    (tmp_path / "m" / "architecture.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"architecture.json: "):
        networks.load(tmp_path / "m")


@pytest.mark.parametrize("levels", [20, 500, 900, 980, 2000])
@pytest.mark.parametrize("place", ['"graph": {}', '"graph": {"modules": {"a": {"class": {}}}}'])
def test_deep_nesting_is_refused(tmp_path: Path, place: str, levels: int) -> None:
    networks.save(tmp_path / "m", nets.mlp(), example=torch.randn(2, 12))
    inner = place.replace("{}", "[" * levels + "]" * levels)
    text = '{"format": 1, "model": "graph", ' + inner + "}"
    (tmp_path / "m" / "architecture.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"architecture.json: "):
        networks.load(tmp_path / "m")


def test_values_are_what_they_say() -> None:
    assert decode({"slice": [None, {"node": "a"}, 2]}, "here").step == 2
    assert decode({"float": "-inf"}, "here") == float("-inf")
    assert decode({"dtype": "bfloat16"}, "here") is torch.bfloat16
