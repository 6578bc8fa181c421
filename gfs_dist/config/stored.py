"""The ``config.yaml`` of a run folder, which anyone may have written: read, checked, compared."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf

from gfs_dist.command_words import literal, looks_up, typed
from gfs_dist.config.commands import COMMANDS
from gfs_dist.config.groups import CHANGEABLE, GROUPS, OPTION_KEY, named
from gfs_dist.config.schema import annotations_of
from gfs_dist.errors import ConfigError, first_line
from gfs_dist.files import RunFolder
from gfs_dist.files.remote import Remote
from gfs_dist.urls import below, is_url

CONFIG = "config.yaml"
MAX_YAML_BYTES = 2**20
MAX_YAML_DEPTH = 40


def has_begun(folder: str, key: str = "out") -> bool:
    """Whether ``folder``, a path or a URL, is a run folder.

    Raises:
        ConfigError: a URL that cannot be reached.
    """
    if is_url(folder):
        return CONFIG in Remote(folder, key).files()
    return (Path(folder) / CONFIG).is_file()


def read_stored(command: str, folder: str, key: str) -> dict[str, Any]:
    """The configuration that the run folder ``folder`` was made with; ``key`` named it."""
    if not has_begun(folder, key):
        raise ConfigError(f"{key}: found {folder}, accepted a run folder (with config.yaml)")
    if not is_url(folder):
        RunFolder(folder).refuse_damage(key, CONFIG)
        return read_file(command, Path(folder) / CONFIG, key)
    with tempfile.TemporaryDirectory(prefix="gfs-config-") as here:
        file = Path(here) / CONFIG
        Remote(folder, key).get(CONFIG, file)
        return read_file(command, file, key, below(folder, CONFIG))


def read_file(
    command: str, file: Path, key: str, place: Path | str | None = None
) -> dict[str, Any]:
    """The stored configuration of ``command`` in ``file``; ``key`` named it.

    ``place`` is what a user calls it, if not by its path.
    """
    place = place or file
    try:
        stored = OmegaConf.to_container(OmegaConf.create(_plain_yaml(file)))
    except Exception as error:  # damaged text makes the readers raise anything
        raise ConfigError(f"{key}: {place} cannot be read: {explain(error)}") from error
    if not _is_of(command, stored):
        raise ConfigError(f"{key}: {place} is not a configuration of gfs {command}")
    for name, text in _texts(stored):
        if looks_up(text):
            raise ConfigError(
                f"{key}: {place}: {name}: found {text!r}, accepted a plain value, as gfs writes "
                "them: nothing is looked up for a file, least of all in the environment"
            )
    return cast(dict[str, Any], stored)


def _plain_yaml(file: Path) -> str:
    """The text of a ``config.yaml``.

    Raises:
        ValueError: more than a run writes: very long, deeply nested (slow to parse), or with
            aliases, which can unfold without end.
    """
    if not file.is_file() or file.stat().st_size > MAX_YAML_BYTES:
        raise ValueError(f"accepted is a file of at most {MAX_YAML_BYTES:,} bytes")
    text, depth = file.read_text(encoding="utf-8"), 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH or isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has aliases, or is nested more than {MAX_YAML_DEPTH} deep")
    return text


def _is_of(command: str, stored: object) -> bool:
    """True if ``stored`` has the keys of ``command``, and known groups where groups belong.

    Keys with a default in the schema are younger than some run folders.
    """
    schema = COMMANDS[command]
    younger = {field.name for field in dataclasses.fields(schema) if field.default is None}
    known = annotations_of(schema).keys()
    if not isinstance(stored, dict) or not known - younger <= set(stored) <= known:
        return False
    groups = [(stored[group], group) for group in GROUPS if group in stored]
    return all(
        # Hydra would take another text for the path of a file of options.
        isinstance(value, dict) and value.get(OPTION_KEY[group]) in [*GROUPS[group]]
        for value, group in groups
    )


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text inside nested dicts and lists, with its dotted name."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(inner, f"{name}.{key}".removeprefix("."))
    elif isinstance(value, str):
        yield name, value


def as_stored(value: Any) -> Any:
    """A configuration, or a value in it, as plain data in which nothing is looked up."""
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {key: as_stored(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_stored(inner) for inner in value]
    return literal(value) if isinstance(value, str) else value


def stored_options(stored: dict[str, Any], chosen: dict[str, str]) -> dict[str, str]:
    """The options of the run folder, which those that words choose now must repeat."""
    options = {group: stored[group][OPTION_KEY[group]] for group in GROUPS if group in stored}
    for group, option in chosen.items():
        if group not in CHANGEABLE and options.get(group) != option:
            raise _changed(group, option, options.get(group), stored)
    return options


def refuse_changes(stored: dict[str, Any], config: Any) -> None:
    """Only ``CHANGEABLE`` keys may differ where a run goes on."""
    now = as_stored(config)
    for key, kept in stored.items():  # in the order of the file: the first one is named
        if key in CHANGEABLE or key == "resume":
            continue
        found = now[key]
        if isinstance(found, dict):
            for name in found:  # a file may leave out what is null
                if found[name] != kept.get(name):
                    raise _changed(f"{key}.{name}", found[name], kept.get(name), stored)
        elif found != kept:
            raise _changed(key, found, kept, stored)


def _written(value: object) -> object:
    """As a configuration has it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else value


def _changed(key: str, found: object, kept: object, stored: dict[str, Any]) -> ConfigError:
    changeable = ", ".join(key for key in CHANGEABLE if key in stored)
    return ConfigError(
        f"{key}: found {_written(found)}, the run folder has {_written(kept)}; "
        f"only {changeable} may change when a run is resumed"
    )


def refuse_unnamed(config: Any, said: Iterable[str], place: str, again: str) -> None:
    """Refuse code and machines that only a file names, before anything is imported or contacted.

    Args:
        config: composed.
        said: the keys that the command line sets.
        place: the file or folder, which anyone may have written.
        again: a command line that the missing word can be added to.

    Raises:
        ConfigError: a key of :data:`NAMED` is not among them; says what to type.
    """
    for key, value in named(config).items():
        if key not in said:
            raise unnamed(key, value, place, again)


def unnamed(key: str, value: str, place: str, again: str) -> ConfigError:
    """The error for one of them."""
    what = "contacted" if key == "runtime.address" else "imported"
    return ConfigError(
        f"{key}: {place} names {value}, which is {what} only if the command line names it too: "
        f"{again} {typed(key, value)}"
    )


def explain(error: Exception) -> str:
    """The line of a message of Hydra or OmegaConf that means something to a user."""
    key = getattr(error, "full_key", None)
    cause = error.__cause__ if isinstance(error, HydraException) and error.__cause__ else error
    return f"{key or 'configuration'}: {first_line(cause)}"
