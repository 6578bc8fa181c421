"""One typed configuration from conf/, the user's own files and the words of a command line.

In this order: the words that choose an option of a group, and the options that follow from others;
Hydra joins the files of conf/; a run that goes on has its stored configuration laid over them; the
words that set keys; then every key is checked against the schema of
:mod:`gfs_dist.config.commands`. What is returned has no interpolations and no missing values.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gfs_dist.command_words import assigned, typed, typed_place
from gfs_dist.config import CONF_FOLDER
from gfs_dist.config.commands import EXPERIMENT_DATA
from gfs_dist.config.groups import ALIASES, GROUPS, OPTION_KEY, value_of
from gfs_dist.config.overrides import nearest, parse, points, raw_value, text
from gfs_dist.config.paths import check_path, check_paths, paths_of
from gfs_dist.config.schema import Schema, groups, kind
from gfs_dist.config.stored import (
    as_stored,
    explain,
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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hydra.core.override_parser.types import Override


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
    said = {override.key_or_group: text(override) for override in overrides}
    check_paths(command, said.items())  # some paths are read at once
    chosen, values = _split(command, overrides, config_dir)
    resume = said.get("resume")
    stored = None if resume is None else read_stored(command, resume, "resume")
    if stored is None:
        options = _implied(command, chosen, said) | chosen
    else:
        options = stored_options(stored, chosen) | chosen
    with _plain_errors():
        cfg = _join_files(command, options, config_dir)
        if stored is not None:
            _lay_over(cfg, stored)
        schema = Schema(command, cfg)
        for override in values:
            _set(cfg, schema, override)
        one_process = OmegaConf.select(cfg, "runtime.kind") == "none"
        if one_process and isinstance(cfg.workers, int) and "workers" not in said:
            cfg.workers = 1
    config = _finished(command, schema)
    _refuse_unused_training(config, overrides)
    if stored is not None:
        refuse_changes(stored, config)
        again = f"gfs {command} {typed('resume', config.resume)}"
        refuse_unnamed(config, said, config.resume, again)
    return config


def sweep(command: str, words: Sequence[str], config_dir: Path | None = None) -> list[Any]:
    """One configuration for each combination of values; run ``i`` writes to ``OUT/i``.

    With ``resume=OUT`` of an earlier sweep, points that it has begun go on; the others are new,
    which needs all of its words.

    Raises:
        ConfigError: as :func:`compose`; nothing is run if any point is refused.
    """
    asked = points(words)
    total = len(asked)
    placed = [_in_sweep(command, point, str(number), total) for number, point in enumerate(asked)]
    begun = [point for point in placed if placed != asked and point[-1].startswith("resume=")]
    for point in begun if len(begun) < total else []:
        _refuse_other_words(command, point, config_dir)
    configs = [compose(command, point, config_dir) for point in placed]
    out = getattr(configs[0], "out", None)
    if out is not None and placed == asked:
        for number, config in enumerate(configs):
            config.out = below(out, str(number))
    return configs


def _in_sweep(command: str, words: list[str], number: str, total: int) -> list[str]:
    """The words of one of ``total`` points; where ``resume`` names a sweep, that is its folder.

    Where the point has not begun, its folder is ``out``.
    """
    said = {override.key_or_group: text(override) for override in parse(words)}
    check_paths(command, said.items())
    resume = said.get("resume")
    if resume is None or has_begun(resume, "resume") or not has_begun(below(resume, "0"), "resume"):
        return words
    if has_begun(below(resume, str(total)), "resume"):
        raise ConfigError(
            f"resume: found words of {total} {'run' if total == 1 else 'runs'}, {resume} holds "
            "more; accepted the words of the whole sweep"
        )
    place = below(resume, number)
    own = assigned("resume" if has_begun(place, "resume") else "out", place)
    return [*(word for word in words if word.partition("=")[0] != "resume"), own]


def _refuse_other_words(command: str, point: list[str], config_dir: Path | None) -> None:
    """Refuse words that would not have begun a point; the last one is its ``resume``."""
    *words, resume = point
    folder = str(text(parse([resume])[0]))
    stored = read_stored(command, folder, "resume")
    config = compose(command, [*words, assigned("out", stored["out"])], config_dir)
    try:
        refuse_changes(stored, config)
    except ConfigError as error:
        raise ConfigError(
            f"resume: accepted the words of the whole sweep, for points that it has not begun; "
            f"{folder} has others: {error}"
        ) from error


def compose_stored(
    command: str, folder: str, factory: str | None = None, *, reader: str = "cut"
) -> Any:
    """The configuration that the run folder ``folder`` was made with by ``command``.

    Args:
        command: a key of ``COMMANDS``.
        folder: the run folder, which anyone may have written.
        factory: of its network, as the command line names it too.
        reader: the command that reads it, for messages.

    Raises:
        ConfigError: no run folder, one of another command, or one whose network is made by
            another factory, or by none.
    """
    config = _whole(command, read_stored(command, folder, "path"))
    made_by = value_of(config, "model.factory")
    if factory is not None and made_by is None:
        raise ConfigError(
            f"factory: found {factory}, accepted with a run of model=custom; {folder} has "
            f"model={config.model.name}"
        )
    if made_by not in (None, factory):
        raise unnamed("factory", made_by, folder, f"gfs {reader} {typed_place('path', folder)}")
    return config


def compose_file(command: str, file: Path, words: Sequence[str] = ()) -> Any:
    """The configuration that ``file`` holds, as :func:`to_yaml` wrote it.

    Where its run folder has begun already, it is one that goes on there.

    Args:
        command: a key of ``COMMANDS``.
        file: which anyone may have written.
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


def to_yaml(config: Any) -> str:
    """A configuration as the text of its ``config.yaml``; composing it again gives the same."""
    return str(OmegaConf.to_yaml(OmegaConf.create(as_stored(config))))


def _whole(command: str, stored: dict[str, Any]) -> Any:
    with _plain_errors():
        cfg = _join_files(command, stored_options(stored, {}), None)
        cfg.merge_with(stored)
        schema = Schema(command, cfg)
    return _finished(command, schema)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Errors of Hydra, OmegaConf and YAML as one line each."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(explain(error)) from error


def _split(
    command: str, overrides: list[Override], config_dir: Path | None
) -> tuple[dict[str, str], list[Override]]:
    """The options that words choose, by group (``+GROUP`` for the user's own), and the others."""
    folders = [CONF_FOLDER, *([config_dir] if config_dir else [])]
    options, values = {}, []
    for override in overrides:
        key, added = override.key_or_group, override.is_add() or override.is_force_add()
        known = sorted({file.stem for folder in folders for file in (folder / key).glob("*.yaml")})
        if not known:
            values.append(override)
            continue
        if override.value() not in known:
            raise ConfigError(
                f"{key}: found {raw_value(override)}, accepted {', '.join(known)}"
                + nearest(raw_value(override), known)
            )
        own = key in groups(command)
        if own and added:
            raise ConfigError(f"{override.input_line}: {key} is a known key, write it without '+'")
        if not own and key in GROUPS and not override.is_add():
            raise ConfigError(f"{key}: gfs {command} takes no {key}")
        if not own and not override.is_add():
            raise ConfigError(f"{override.input_line}: not part of gfs {command}, add it as +{key}")
        options[key if own else f"+{key}"] = str(override.value())
    return options, values


def _implied(command: str, chosen: dict[str, str], said: dict[str, str | None]) -> dict[str, str]:
    """Options that follow from other words where none is chosen."""
    implied = {}
    checkpoint = said.get("checkpoint")
    if command == "prune" and "model" not in chosen and checkpoint and holds_deep(checkpoint):
        implied["model"] = "stored"  # the checkpoint describes the network
    deep = (implied | chosen).get("model", "two_layer") != "two_layer"
    if deep and "train" in groups(command):
        implied["train"] = "sgd"  # the only one there is
    if command == "benchmark" and said.get("preset") == "cluster":
        implied["runtime"] = "ray"
    if command == "reproduce" and said.get("preset") not in (None, "smoke"):
        datasets = EXPERIMENT_DATA.get(said.get("experiment") or "")
        if datasets:
            implied["data"] = datasets[0]
    return implied


def _join_files(command: str, options: dict[str, str], config_dir: Path | None) -> DictConfig:
    """The files of a command and of its options, joined by Hydra."""
    words = tuple(f"{group}={option}" for group, option in options.items())
    if config_dir is None:
        return copy.deepcopy(_our_files(command, words))
    if not config_dir.is_dir():
        raise ConfigError(f"--config-dir: found {config_dir}, accepted a folder")
    return _hydra(command, (f"hydra.searchpath=['file://{config_dir.resolve()}']", *words))


def _hydra(command: str, words: tuple[str, ...]) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        cfg = hydra.compose(command, list(words))
    OmegaConf.set_struct(cfg, False)  # the schema knows the keys
    return cfg


_our_files = cache(_hydra)
"""Our own files do not change while a process lives; the points of a sweep share them."""


def _lay_over(cfg: DictConfig, stored: dict[str, Any]) -> None:
    """Take the values of a run that goes on, but for those of a runtime of another kind."""
    same = "runtime" in stored and stored["runtime"]["kind"] == cfg.runtime.kind
    left_out = {"resume"} if same else {"resume", "runtime"}
    cfg.merge_with({key: value for key, value in stored.items() if key not in left_out})


def _set(cfg: DictConfig, schema: Schema, override: Override) -> None:
    """Let a word set its key; the value is checked later, with those of files."""
    key, value = override.key_or_group, override.value()
    key = ALIASES.get(OmegaConf.select(cfg, "model.name") or "", {}).get(key, key)
    group, _, name = key.rpartition(".")
    if any(key.startswith(f"{k}.") and kind(of) == dict[str, Any] for k, of in schema.keys.items()):
        OmegaConf.update(cfg, key, value, force_add=True)  # a name of the user's own
        return
    if key not in schema.keys:
        raise schema.unknown(key)
    if override.is_add() or override.is_force_add():
        raise ConfigError(f"{override.input_line}: {key} is a known key, write it without '+'")
    if name == OPTION_KEY.get(group):
        raise ConfigError(f"{key}: chosen by the group, write {group}={raw_value(override)}")
    if kind(schema.keys[key]) is str and not isinstance(value, str | None):
        value = text(override)
    OmegaConf.update(cfg, key, value, merge=False)


def _finished(command: str, schema: Schema) -> Any:
    """The configuration with its nulls settled, and checked as a whole."""
    with _plain_errors():
        config = schema.typed()
    config.settle()
    config.check()
    check_paths(command, paths_of(config))
    return config


def _refuse_unused_training(config: Any, overrides: list[Override]) -> None:
    """A network that is given is not trained, so keys of training mean a misunderstanding."""
    if getattr(config, "checkpoint", None) is None or config.repair.finetune:
        return
    for override in overrides:
        if override.key_or_group.partition(".")[0] == "train":
            raise ConfigError(
                f"{override.key_or_group}: found with checkpoint={config.checkpoint}, "
                "accepted only where gfs prune trains (no checkpoint, or repair.finetune=true)"
            )
