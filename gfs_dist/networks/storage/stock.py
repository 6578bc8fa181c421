"""Pruned networks of transformers as folders that transformers itself loads.

Its classes read their widths from a configuration: one width for all blocks. Where a pruned
network has such widths, a configuration says the same, and the folder needs no code of this
project.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gfs_dist.errors import ConfigError, error_line
from gfs_dist.files import atomic
from gfs_dist.networks.graph.tensors import assign, named_tensors
from gfs_dist.networks.measure.evaluation import dtype_of, evaluating
from gfs_dist.networks.measure.inputs import Inputs, run, tensors_of
from gfs_dist.networks.models.builders import Builder, build_empty, package, quiet

FEED_FORWARD = (
    *("intermediate_size", "ffn_dim", "n_inner", "d_ff", "hidden_dim", "ffn_hidden_size"),
    *("encoder_ffn_dim", "decoder_ffn_dim"),
)
HEADS, KEY_HEADS, HEAD_SIZE = "num_attention_heads", "num_key_value_heads", "head_dim"
BIASES = ("attention_bias", "mlp_bias", "qkv_bias", "use_bias", "bias")
"""Keys of configurations."""

GATED = 2
"""Gate and values of a feed-forward block may be the rows of one layer."""

GPT2_RATIO = 4
TOLERANCE = 1e-5
"""Largest difference between outputs, in units of the largest output."""

WRITTEN = ("config.json", "generation_config.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model"),
    *("sentencepiece.bpe.model", "chat_template.jinja", "preprocessor_config.json"),
    *("processor_config.json", "image_processor_config.json"),
)
"""Files that go with a model."""

Shapes = dict[str, tuple[int, ...]]


def stock_form(network: nn.Module, builder: Builder) -> tuple[nn.Module, Builder]:
    """The same network as its class makes it from a configuration, and that configuration.

    Biases that a configuration adds elsewhere are zero.

    Args:
        network: pruned, of transformers' own class; not modified.
        builder: of the dense network.

    Raises:
        ConfigError: no configuration says its widths or biases; says why.
    """
    if builder.kind != "hf":
        raise ConfigError("it is not a network of transformers")
    own, dense = _shapes(network), _shapes(build_empty(builder))
    _refuse_uneven(own)
    for changed in _configs(builder.settings["config"], dense, own):
        settings = {**builder.settings, "config": {**builder.settings["config"], **changed}}
        small = replace(builder, settings=settings)
        try:
            made = build_empty(small)
        except ConfigError:
            continue
        wanted = _shapes(made)
        added = {name for name in wanted.keys() - own.keys() if name.endswith("bias")}
        if {**own, **{name: wanted[name] for name in added}} == wanted:
            tensors = dict(network.state_dict())
            tensors |= {name: torch.zeros(wanted[name]) for name in added}
            stored = {n: t for n, t in named_tensors(made).items() if n in tensors}
            assign(made, stored, tensors, "model")
            return made.eval(), small
    if extra := sorted(own.keys() - dense.keys()):
        raise ConfigError(f"{extra[0]!r}: its class takes no bias there")
    changed_name = next((name for name in own if own[name] != dense.get(name)), "")
    raise ConfigError(f"{changed_name!r}: its configuration has no key for this width")


def write_hf_files(folder: Path | str, stock: nn.Module, source: Path | str | None = None) -> None:
    """Write what ``from_pretrained`` needs beside ``model.safetensors``.

    Args:
        folder: holds the tensors of ``stock`` already.
        stock: of :func:`stock_form`.
        source: folder of the dense model, whose tokenizer is copied; None: there is none.
    """
    network: Any = stock
    content = json.loads(network.config.to_json_string())
    content |= {"architectures": [type(stock).__name__], "use_cache": True}
    content["dtype"] = str(dtype_of(stock)).removeprefix("torch.")
    text = json.dumps(content, indent=2, sort_keys=True)
    atomic.write_text(Path(folder) / WRITTEN[0], text + "\n")
    generation = getattr(stock, "generation_config", None)
    if generation is not None:
        atomic.write_text(Path(folder) / WRITTEN[1], generation.to_json_string())
    for name in TOKENIZER if source is not None else ():
        if (Path(str(source)) / name).is_file():
            shutil.copyfile(Path(str(source)) / name, Path(folder) / name)


def check_stock(
    folder: Path | str, network: nn.Module, example: Tensor | Inputs, class_name: str
) -> float:
    """How far a model is from the network, as transformers loads it from a folder.

    Args:
        folder: of :func:`write_hf_files`.
        network: the pruned one.
        example: what it is called with, on its device.
        class_name: the class to load.

    Returns:
        the largest difference between outputs, in units of the largest output.

    Raises:
        ConfigError: it is above 1e-5, or the model cannot be loaded.
    """
    transformers = package("hf")
    made_by = getattr(transformers, class_name)
    try:
        with quiet(transformers):
            model = made_by.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except Exception as error:  # transformers raises anything
        raise ConfigError(f"transformers cannot load it: {error_line(error)}") from error
    model.config.use_cache = False
    largest = 0.0
    with evaluating(model), evaluating(network):
        pairs = zip(_floats(run(network, example)), _floats(run(model, example)), strict=True)
        for one, other in pairs:
            scale = float(one.abs().max()) or 1.0
            largest = max(largest, float((one.double() - other.double()).abs().max()) / scale)
    if not largest <= TOLERANCE:  # NaN too
        raise ConfigError(f"loaded by transformers its output differs by {largest:.1e}")
    return largest


def _floats(outputs: Any) -> Iterator[Tensor]:
    return (t for t in tensors_of(outputs) if t.is_floating_point())


def _shapes(network: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _refuse_uneven(own: Shapes) -> None:
    """Refuse widths that differ between blocks.

    Raises:
        ConfigError: names two tensors.
    """
    first: dict[str, str] = {}
    for name, shape in own.items():
        before = first.setdefault(re.sub(r"\.\d+\.", ".*.", name), name)
        if own[before] != shape:
            raise ConfigError(
                f"widths differ between blocks: {before!r} is {list(own[before])}, {name!r} "
                f"{list(shape)}"
            )


def _configs(config: Mapping[str, Any], dense: Shapes, own: Shapes) -> Iterator[dict[str, Any]]:
    """Changes of a configuration that could say the widths, those with fewest keys first."""
    narrowed = {
        (before, after)
        for name, shape in own.items()
        for before, after in zip(dense.get(name, shape), shape, strict=True)
        if before != after
    }

    def widths(key: str, unit: int) -> set[int | None]:
        """Values of a key that turn a size into one that was found; None: as it is."""
        now = config.get(key)
        if now is None and key == "n_inner":  # GPT-2's way to say four times the stream
            now = GPT2_RATIO * config.get("n_embd", 0)
        if not isinstance(now, int):
            return {None}
        scaled = itertools.product(narrowed, (unit, GATED * unit))
        found = {
            after // u for (before, after), u in scaled if before == now * u and after % u == 0
        }
        return {None, *found}

    heads = config.get(HEADS)
    size = config.get(HEAD_SIZE)
    if not isinstance(size, int):
        hidden = config.get("hidden_size")
        size = hidden // heads if isinstance(hidden, int) and isinstance(heads, int) else 1
    extra = own.keys() - dense.keys()
    choices: dict[str, list[Any]] = {
        **{key: sorted(widths(key, 1), key=str) for key in FEED_FORWARD if key in config},
        **{key: sorted(widths(key, size), key=str) for key in (HEADS, KEY_HEADS) if key in config},
        **{key: [None, True] for key in BIASES if extra and config.get(key) is False},
    }
    keys = {key: values for key, values in choices.items() if len(values) > 1}
    changes = [
        {key: value for key, value in zip(keys, values, strict=True) if value is not None}
        for values in itertools.product(*keys.values())
    ]
    for change in sorted(changes, key=len):
        yield {**change, HEAD_SIZE: size} if change.keys() & {HEADS, KEY_HEADS} else change
