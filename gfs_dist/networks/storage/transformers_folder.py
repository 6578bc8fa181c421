"""The files with which stock ``transformers`` loads a stored network, where a configuration can.

It can where every layer of a kind has the same size. Which numbers of the configuration decide
which axes of tensors is not known but tried, and the folder is loaded before it is said to load.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gfs_dist.errors import ConfigError, error_line
from gfs_dist.files import atomic
from gfs_dist.networks.measure.inputs import tensors_of
from gfs_dist.networks.models.builders import Builder, build_empty, read_hf
from gfs_dist.networks.storage.equality import Given, outputs_of

CONFIG, GENERATION = "config.json", "generation_config.json"
COPIED = re.compile(
    r"(tokenizer|vocab|merges|special_tokens|added_tokens|spiece|sentencepiece|chat_template"
    r"|preprocessor|processor|spm).*\.(json|txt|model|jinja)"
)
"""Names of files of tokenizers and the like, which come along."""

SIZES = re.compile(r"heads?$|inter|inner|ffn|d_ff|mlp|hidden_dim")
"""Numbers of configurations that may be the size of what can be removed."""

TOLERANCE = 1e-5
"""Largest difference, in units of the largest output."""


class OtherSizesError(Exception):
    """No configuration has these sizes; says which."""


def write_hf_files(folder: Path, network: nn.Module, builder: Builder, inputs: Given) -> str | None:
    """Add tokenizer and configuration to a folder that holds ``model.safetensors``.

    Args:
        folder: it gets a configuration only where ``from_pretrained`` then gives the network.
        network: the smaller one.
        builder: of the dense one, of kind ``hf``.
        inputs: on which outputs are compared.

    Returns:
        Why stock transformers cannot load it; None where it does.
    """
    _copy_tokenizer(network, folder)
    written: list[Path] = []
    try:
        settings = _fitting(network, builder)
        network_class = builder.settings["class"]
        config = {**settings["config"], "architectures": [network_class]}
        config["dtype"] = str(next(network.parameters()).dtype).removeprefix("torch.")
        if "use_cache" in config:
            config["use_cache"] = True  # off for pruning alone
        written.append(folder / CONFIG)
        atomic.write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
        with suppress(Exception):  # most models do not generate
            generation: Any = network.generation_config
            atomic.write_text(folder / GENERATION, generation.to_json_string())
            written.append(folder / GENERATION)
        _compare(folder, network, inputs)
    except (OtherSizesError, ConfigError) as error:
        for path in written:
            path.unlink(missing_ok=True)
        return str(error)
    return None


def _copy_tokenizer(network: nn.Module, folder: Path) -> None:
    """Of the local folder that the model came from."""
    source = str(getattr(network, "name_or_path", ""))
    for path in sorted(Path(source).iterdir()) if source and Path(source).is_dir() else ():
        if COPIED.fullmatch(path.name) and path.is_file():
            shutil.copyfile(path, folder / path.name)


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _fitting(network: nn.Module, builder: Builder) -> dict[str, Any]:
    """Settings of a builder whose networks have the shapes of ``network``.

    Raises:
        OtherSizesError: there are none.
    """
    wanted, settings = _shapes(network), _with_head_size(builder)
    dense = _shapes(build_empty(_with(builder, settings)))
    if extra := sorted(wanted.keys() ^ dense.keys()):
        raise OtherSizesError(f"its configuration says nothing of {extra[0]!r}")
    changed: dict[str, Any] = {}
    for key, value, slopes in _axes(_with(builder, settings), dense):
        found = {
            value + (wanted[name][axis] - dense[name][axis]) / slope: name
            for (name, axis), slope in slopes.items()
        }
        if len(found) > 1:
            few, many = min(found), max(found)
            raise OtherSizesError(
                f"{key} would be {few:g} in {found[few]!r}, {many:g} in {found[many]!r}, and a "
                "configuration has one for all layers (budget.uniform=true)"
            )
        size = next(iter(found))
        if size != value:
            changed[key] = int(size)
    fitted = {**settings, "config": {**settings["config"], **changed}}
    made = _shapes(build_empty(_with(builder, fitted)))
    for name, shape in wanted.items():
        if made.get(name) != shape:
            raise OtherSizesError(f"no configuration gives {name!r} the shape {shape}")
    return fitted


def _with(builder: Builder, settings: dict[str, Any]) -> Builder:
    return Builder(builder.kind, settings, builder.package, builder.version)


def _with_head_size(builder: Builder) -> dict[str, Any]:
    """Settings that say the size of a head, which would else follow from the number of heads."""
    config = dict(builder.settings["config"])
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if isinstance(heads, int) and isinstance(hidden, int) and not config.get("head_dim"):
        config["head_dim"] = hidden // heads
    return {**builder.settings, "config": config}


Axes = dict[tuple[str, int], float]
"""By tensor and axis, by how much it grows with a number of the configuration."""


def _axes(builder: Builder, dense: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, int, Axes]]:
    """Numbers of the configuration that sizes of tensors follow from, their values, and which."""
    config = builder.settings["config"]
    for key, value in config.items():
        if not SIZES.search(key) or not (type(value) is int or (value is None and "inner" in key)):
            continue
        old = value or 4 * config.get("n_embd", 0)
        for new in (2 * old, old // 2, 1, old + 1):
            changed = {**builder.settings, "config": {**config, key: new}}
            if new == old or new < 1:
                continue
            try:
                made = _shapes(build_empty(_with(builder, changed)))
            except ConfigError:
                continue
            slopes = {
                (name, axis): (made[name][axis] - size) / (new - old)
                for name, shape in dense.items()
                for axis, size in enumerate(shape)
                if name in made and made[name][axis] != size
            }
            if slopes:
                yield key, old, slopes
            break


def _compare(folder: Path, network: nn.Module, inputs: Given) -> None:
    """Load the folder as anyone would.

    Raises:
        ConfigError: it does not load, or gives something else.
    """
    stock = read_hf(folder)
    single = next(network.parameters()).dtype in (torch.float32, torch.float64)
    tolerance = TOLERANCE if single else 1e-2
    try:
        pairs = zip(
            *(list(tensors_of(outputs_of(model, inputs))) for model in (network, stock)),
            strict=True,
        )
        for one, other in pairs:
            scale = max(1e-30, float(one.abs().max()))
            difference = float((one.double() - other.double()).abs().max()) / scale
            if not difference <= tolerance:  # NaN too
                raise ConfigError(f"loaded by transformers its outputs differ by {difference:.1e}")
    except ConfigError:
        raise
    except Exception as error:  # code of the package may raise anything
        raise ConfigError(f"loaded by transformers it raises {error_line(error)}") from error
