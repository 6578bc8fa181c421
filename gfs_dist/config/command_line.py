"""The words of a command line that name the same thing once more."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gfs_dist.command_words import quoted, typed, typed_place
from gfs_dist.config import CONF_FOLDER
from gfs_dist.config import commands as schema
from gfs_dist.config.groups import OPTION_KEY, Custom, named, value_of
from gfs_dist.files.untrusted import ARCHITECTURE, read_json


def data_words(data: schema.Data, seed: int) -> str:
    """``data=NAME`` and what is not as in conf/; the data's own seed only if it is not ``seed``."""
    values = dict(vars(data))
    if data.seed == seed:
        del values["seed"]
    return _words("data", values)


def model_words(model: schema.Model) -> str:
    """``model=NAME`` and what is not as in conf/."""
    return _words("model", vars(model))


def resume_word(folder: str | Path, config: Any) -> str:
    """``resume=DIR``, and what its ``config.yaml`` may not name alone."""
    again = {"resume": folder, **named(config)}
    return " ".join(typed(key, str(value)) for key, value in again.items())


def sweep_words(words: Sequence[str], folder: str) -> str:
    """The words of a sweep with which the points in ``folder`` go on, and those left begin."""
    kept = [word for word in words if word.partition("=")[0] not in ("out", "resume")]
    return shlex.join(["-m", *kept]) + " " + typed("resume", folder)


def cut_words(folder: str | Path, config: schema.Prune) -> str:
    """``DIR``, and the factory that its ``config.yaml`` may not name alone."""
    factory = value_of(config, "model.factory")
    words = [typed("factory", factory)] if factory else []
    return " ".join([typed_place("path", str(folder)), *words])


def place_words(place: str | Path, model: schema.Model) -> str:
    """A ``models/NAME`` folder, and the factory that it may not name alone."""
    made_again = "graph" not in read_json(Path(place) / ARCHITECTURE)
    words = [model_words(model)] if made_again and isinstance(model, Custom) else []
    return " ".join([typed_place("path", str(place)), *words])


def _words(group: str, values: dict[str, Any]) -> str:
    option = values[OPTION_KEY[group]]
    defaults: Any = OmegaConf.to_container(OmegaConf.load(CONF_FOLDER / group / f"{option}.yaml"))
    changed = {key: value for key, value in values.items() if value != defaults[key]}
    words = [_word(f"{group}.{key}", value) for key, value in changed.items()]
    return " ".join([f"{group}={option}", *words])


def _word(key: str, value: Any) -> str:
    if isinstance(value, str):
        return typed(key, value)
    return shlex.quote(f"{key}={_inside(value)}")


def _inside(value: Any) -> str:
    """As Hydra reads it, also inside of lists and braces."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{','.join(map(_inside, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_inside(inner)}' for key, inner in value.items())}}}"
    return json.dumps(value)
