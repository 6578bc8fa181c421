"""One typed configuration from conf/, the user's own files and the words of a command line.

Hydra joins the files. The result is laid on the schema of :mod:`gfs_dist.config.commands`, so that
every key is known and of its type, whoever set it; then ranges are checked. What is returned has
no interpolations left and no missing values.
"""

from __future__ import annotations

import dataclasses
import shlex
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gfs_dist.command_words import typed, typed_place
from gfs_dist.config import CONF_FOLDER
from gfs_dist.config.checks import check_ranges, check_type
from gfs_dist.config.commands import COMMANDS, GROUPS, OPTION_KEY
from gfs_dist.config.constraints import Accepted
from gfs_dist.config.job import value_of
from gfs_dist.config.overrides import nearest, parse, points, raw_value, text
from gfs_dist.config.paths import check_path, check_paths, paths_of
from gfs_dist.config.stored import (
    as_stored,
    explain,
    fields,
    has_begun,
    read_file,
    read_stored,
    refuse_changes,
    refuse_unnamed,
    stored_options,
    unnamed,
)
from gfs_dist.errors import ConfigError
from gfs_dist.files.find import holds_deep
from gfs_dist.urls import below


def compose(command: str, words: Sequence[str] = (), config_dir: Path | None = None) -> Any:
    """The configuration of one run of ``command``, an instance of its class in ``COMMANDS``.

    Args:
        command: a key of ``COMMANDS``.
        words: ``key=value``, as on the command line; the last one of a key counts.
        config_dir: a folder of the user's own configurations, laid out as conf/ is.

    Raises:
        ConfigError: a key or value is unknown, missing, of the wrong type or out of range; names
            the key, what was found and what is accepted, or the nearest valid name.
    """
    if config_dir is not None:
        check_path("--config-dir", config_dir)
    overrides = parse(words)
    given = [(o.key_or_group, text(o)) for o in overrides]
    check_paths(command, given)  # some paths are read at once
    stored = _stored_config(command, overrides)
    options, values = _split(command, overrides, config_dir)
    if stored is None:
        options = _with_network(command, options, values)
    options = _with_training(command, options)
    options = _with_cluster(command, options, values)
    if stored is not None:
        options = stored_options(stored, options) + options
    try:
        cfg = _typed(command, _join_files(command, options, config_dir))
        if stored is not None:
            cfg = OmegaConf.merge(cfg, _without_changed_runtime(stored, cfg))
        for override in values:
            _set(command, cfg, override)
        alone = _kind(cfg) == "none" and isinstance(cfg.workers, int)
        if alone and not any(o.key_or_group == "workers" for o in values):
            cfg.workers = 1  # this process is one rank
        _refuse_missing(cfg)
        config: Any = OmegaConf.to_object(cfg)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(explain(error)) from error
    config.settle()
    check_ranges(config)
    config.check()
    check_paths(command, paths_of(config))
    _refuse_unused_training(config, overrides)
    if stored is not None:
        refuse_changes(stored, config)
        said = {override.key_or_group for override in values}
        again = f"gfs {command} {typed('resume', config.resume)}"
        refuse_unnamed(config, said, config.resume, again)
    return config


def sweep(command: str, words: Sequence[str], config_dir: Path | None = None) -> list[Any]:
    """One configuration for each combination of values; run ``i`` writes to ``OUT/i``.

    Raises:
        ConfigError: as :func:`compose`; nothing is run if any point is refused.
    """
    configs = [compose(command, point, config_dir) for point in points(words)]
    out = getattr(configs[0], "out", None)
    if out is not None:
        for number, config in enumerate(configs):
            config.out = below(out, str(number))
    return configs


def to_yaml(config: Any) -> str:
    """A configuration as the text of its ``config.yaml``; composing it again gives the same."""
    return str(OmegaConf.to_yaml(OmegaConf.create(as_stored(config))))


def _split(
    command: str, overrides: list[Override], config_dir: Path | None
) -> tuple[list[str], list[Override]]:
    """Words that choose an option of a group, as Hydra takes them, and overrides of keys."""
    options, values = [], []
    for override in overrides:
        key = override.key_or_group
        known = _options(key, config_dir)
        if not known:
            values.append(override)
            continue
        if override.value() not in known:
            raise ConfigError(
                f"{key}: found {raw_value(override)}, accepted {', '.join(known)}"
                + nearest(raw_value(override), known)
            )
        own = key in _groups(command)
        if (override.is_add() or override.is_force_add()) and own:
            raise ConfigError(f"{override.input_line}: {key} is a known key, write it without '+'")
        if not override.is_add() and not own:
            if key in GROUPS:
                raise ConfigError(f"{key}: gfs {command} takes no {key}")
            raise ConfigError(f"{override.input_line}: not part of gfs {command}, add it as +{key}")
        options.append(f"{'' if own else '+'}{key}={override.value()}")
    return options, values


def _with_network(command: str, options: list[str], values: list[Override]) -> list[str]:
    """``options`` with ``model=stored`` where a checkpoint describes a deep network by itself."""
    places = [text(o) for o in values if o.key_or_group == "checkpoint"]
    chosen = any(option.startswith("model=") for option in options)
    if command != "prune" or chosen or not places or places[-1] is None:
        return options
    return [*options, "model=stored"] if holds_deep(places[-1]) else options


def _with_training(command: str, options: list[str]) -> list[str]:
    """``options`` with the only training there is for a deep network, where none was chosen."""
    chosen = dict(option.split("=") for option in options)
    deep = chosen.get("model", "two_layer") != "two_layer"
    if deep and "train" in fields(COMMANDS[command]) and "train" not in chosen:
        return [*options, "train=sgd"]
    return options


def _with_cluster(command: str, options: list[str], values: list[Override]) -> list[str]:
    """``options`` with ``runtime=ray`` where a benchmark is to be one of a cluster."""
    presets = [raw_value(o) for o in values if o.key_or_group == "preset"]
    chosen = any(option.startswith("runtime=") for option in options)
    if command != "benchmark" or chosen or presets[-1:] != ["cluster"]:
        return options
    return [*options, "runtime=ray"]


def _groups(command: str) -> set[str]:
    """The keys of ``command`` that choose one of several schemas."""
    hints = typing.get_type_hints(COMMANDS[command])
    return {
        group
        for group, options in GROUPS.items()
        if group in hints and all(issubclass(option, hints[group]) for option in options.values())
    }


def _options(group: str, config_dir: Path | None) -> list[str]:
    """The options of a group, ours and the user's; none if there is no such group."""
    folders = [CONF_FOLDER, *([config_dir] if config_dir else [])]
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


def _join_files(command: str, options: list[str], config_dir: Path | None) -> DictConfig:
    if config_dir is not None:
        if not config_dir.is_dir():
            raise ConfigError(f"--config-dir: found {config_dir}, accepted a folder")
        options = [f"hydra.searchpath=['file://{config_dir.resolve()}']", *options]
    with hydra.initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        return hydra.compose(command, options)


def _typed(command: str, joined: DictConfig) -> Any:
    """``joined`` laid on the schema of its command; the schema of a group follows its option."""
    schema: Any = OmegaConf.structured(COMMANDS[command])
    for group in _groups(command):
        options = GROUPS[group]
        name = OmegaConf.select(joined, f"{group}.{OPTION_KEY[group]}")
        if name not in options:
            raise ConfigError(
                f"{group}.{OPTION_KEY[group]}: found {name!r}, accepted {', '.join(options)}"
                + nearest(str(name), options)
            )
        schema[group] = options[name]
    OmegaConf.set_struct(joined, False)  # the schema knows the keys; names of the user's own follow
    return OmegaConf.merge(schema, joined)


def _set(command: str, cfg: Any, override: Override) -> None:
    key, value = override.key_or_group, override.value()
    known = list(_keys(cfg))
    if any(key.startswith(f"{name}.") and _is_of_names(cfg, name) for name in known):
        OmegaConf.update(cfg, key, value, force_add=True)  # a name of the user's own
        return
    if key not in known:
        raise ConfigError(f"{key}: {_why_unknown(command, cfg, key)}")
    if override.is_add() or override.is_force_add():
        raise ConfigError(f"{override.input_line}: {key} is a known key, write it without '+'")
    group, _, name = key.rpartition(".")
    if name == OPTION_KEY.get(group):
        raise ConfigError(f"{key}: chosen by the group, write {group}={raw_value(override)}")
    parent = OmegaConf.select(cfg, group) if group else cfg
    schema = OmegaConf.get_type(parent)
    assert schema is not None
    if Accepted.of(schema, name).kind is str and not isinstance(value, str | None):
        value = text(override)
    if not (isinstance(value, str) and "${" in value):
        check_type(schema, name, key, value)
    parent[name] = value


def _why_unknown(command: str, cfg: Any, key: str) -> str:
    group, _, name = key.rpartition(".")
    if group in _groups(command):
        chosen = cfg[group][OPTION_KEY[group]]
        others = [o for o, s in GROUPS[group].items() if name in fields(s)]
        if others:
            return f"not a key of {group}={chosen}, it belongs to {group}={', '.join(others)}"
    hint = nearest(key, _keys(cfg)) or f"; gfs {command} --help lists the keys"
    return f"unknown key of gfs {command}{hint}"


def _is_of_names(cfg: Any, key: str) -> bool:
    """True if the value of ``key`` is names and values that no schema knows."""
    group, _, name = key.rpartition(".")
    schema = OmegaConf.get_type(OmegaConf.select(cfg, group) if group else cfg)
    return schema is not None and Accepted.of(schema, name).kind == dict[str, Any]


def _keys(cfg: Any, prefix: str = "") -> Iterator[str]:
    for key in cfg:
        node = cfg._get_node(key)  # noqa: SLF001 - cfg[key] raises if missing
        if OmegaConf.is_config(node) and dataclasses.is_dataclass(OmegaConf.get_type(node)):
            yield from _keys(cfg[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _refuse_missing(cfg: Any) -> None:
    for key in sorted(OmegaConf.missing_keys(cfg)):
        raise ConfigError(f"{key}: has no default and was not given, accepted {key}=VALUE")


def _refuse_unused_training(config: Any, overrides: list[Override]) -> None:
    """A network that is given is not trained: who says how to train it expects something else."""
    if getattr(config, "checkpoint", None) is None or config.repair.finetune:
        return
    for override in overrides:
        if override.key_or_group.partition(".")[0] == "train":
            raise ConfigError(
                f"{override.key_or_group}: found with checkpoint={config.checkpoint}, "
                "accepted only where gfs prune trains (no checkpoint, or repair.finetune=true)"
            )


def _kind(cfg: Any) -> str | None:
    return OmegaConf.select(cfg, "runtime.kind")


def compose_stored(command: str, folder: str, factory: str | None = None) -> Any:
    """The configuration that the run folder ``folder`` was made with by ``command``.

    Args:
        command: a key of ``COMMANDS``.
        folder: the run folder, which may be anybody's.
        factory: of its network, as the command line names it too.

    Raises:
        ConfigError: no run folder, one of another command, or one whose network is made by
            another factory.
    """
    config = _whole(command, read_stored(command, folder, "path"))
    made_by = value_of(config, "model.factory")
    if made_by not in (None, factory):
        raise unnamed("factory", made_by, folder, f"gfs cut {typed_place('path', folder)}")
    return config


def compose_file(command: str, file: Path, words: Sequence[str] = ()) -> Any:
    """The configuration that ``file`` holds, as :func:`to_yaml` wrote it.

    Where its run folder has begun already, it is one that goes on there.

    Args:
        command: a key of ``COMMANDS``.
        file: which may be anybody's.
        words: ``key=value`` for each key of ``NAMED`` that it sets.

    Raises:
        ConfigError: no configuration of ``command``, the run folder has another one, or ``words``
            do not name the code and the machines that the file names.
    """
    config = _whole(command, read_file(command, file, "--config"))
    said = {override.key_or_group: override.value() for override in parse(words)}
    for key, value in said.items():
        if value != value_of(config, key):
            raise ConfigError(f"{key}: found {value}, {file} has {value_of(config, key)}")
    refuse_unnamed(config, said, str(file), f"gfs {command} --config {shlex.quote(str(file))}")
    if getattr(config, "resume", "") is None and has_begun(config.out):
        refuse_changes(read_stored(command, config.out, "out"), config)
        config.resume = config.out
    return config


def _whole(command: str, stored: dict[str, Any]) -> Any:
    """The typed configuration of one that was stored."""
    try:
        cfg = _typed(command, _join_files(command, stored_options(stored, []), None))
        config: Any = OmegaConf.to_object(OmegaConf.merge(cfg, stored))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(explain(error)) from error
    config.settle()
    check_ranges(config)
    config.check()
    check_paths(command, paths_of(config))
    return config


def _stored_config(command: str, overrides: list[Override]) -> dict[str, Any] | None:
    """The configuration of the run folder that ``resume=`` names, if one does."""
    folders = [text(o) for o in overrides if o.key_or_group == "resume"]
    if not folders or folders[-1] is None:
        return None
    return read_stored(command, folders[-1], "resume")


def _without_changed_runtime(stored: dict[str, Any], cfg: Any) -> dict[str, Any]:
    kept = {key: value for key, value in stored.items() if key != "resume"}
    if "runtime" in kept and kept["runtime"]["kind"] != _kind(cfg):
        del kept["runtime"]
    return kept
