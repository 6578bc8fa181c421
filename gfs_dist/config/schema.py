"""The keys of a command once its groups have chosen their options, and an instance of its class."""

from __future__ import annotations

import dataclasses
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gfs_dist.config.commands import COMMANDS
from gfs_dist.config.constraints import annotations_of, checked
from gfs_dist.config.groups import GROUPS, OPTION_KEY, Data, Model, Runtime, Train
from gfs_dist.config.overrides import nearest
from gfs_dist.errors import ConfigError


def groups(command: str) -> set[str]:
    """The keys of ``command`` that choose one of several schemas."""
    bases = (Data, Model, Train, Runtime)
    return {key for key, schema in annotations_of(COMMANDS[command]).items() if schema in bases}


class Schema:
    """The keys of ``command`` with the options that ``cfg`` has.

    Attributes:
        sections: name to class of each section and each chosen option.
        keys: full name, ``data.root``, to the annotation that says what the key accepts.

    Raises:
        ConfigError: an option that does not exist.
    """

    def __init__(self, command: str, cfg: DictConfig) -> None:
        self._command, self._cfg = command, cfg
        own = annotations_of(COMMANDS[command])
        sections = {
            name: schema for name, schema in own.items() if dataclasses.is_dataclass(schema)
        }
        chosen = {name: self._option(name) for name in sections.keys() & groups(command)}
        self.sections: dict[str, Any] = sections | chosen
        self.keys = {key: accepted for key, accepted in own.items() if key not in sections} | {
            f"{name}.{key}": accepted
            for name, schema in self.sections.items()
            for key, accepted in annotations_of(schema).items()
        }

    def _option(self, group: str) -> type:
        key, options = f"{group}.{OPTION_KEY[group]}", GROUPS[group]
        option = OmegaConf.select(self._cfg, key)
        if option not in options:
            hint = nearest(str(option), options)
            raise ConfigError(f"{key}: found {option!r}, accepted {', '.join(options)}{hint}")
        return options[option]

    def unknown(self, key: str) -> ConfigError:
        """The error for a key that the command does not have: whose it is, or the nearest one."""
        group, _, name = key.rpartition(".")
        if group in groups(self._command):
            chosen = self._cfg[group][OPTION_KEY[group]]
            others = [o for o, schema in GROUPS[group].items() if name in annotations_of(schema)]
            if others:
                words = f"{group}={chosen}, it belongs to {group}={', '.join(others)}"
                return ConfigError(f"{key}: not a key of {words}")
        hint = nearest(key, self.keys) or f"; gfs {self._command} --help lists the keys"
        return ConfigError(f"{key}: unknown key of gfs {self._command}{hint}")

    def typed(self) -> Any:
        """The configuration as an instance of the command's class.

        Raises:
            ConfigError: a key is unknown, missing, of the wrong type or out of range.
        """
        flat: Any = OmegaConf.to_container(self._cfg, resolve=True)
        for name in self.sections:
            section = flat.pop(name)
            if not isinstance(section, dict):
                raise ConfigError(f"{name}: found {section!r}, accepted keys and their values")
            flat |= {f"{name}.{key}": value for key, value in section.items()}
        for key in flat:
            if key not in self.keys:
                raise self.unknown(key)
        values = {key: checked(key, of, flat.get(key, "???")) for key, of in self.keys.items()}
        made = {
            name: schema(**{key: values[f"{name}.{key}"] for key in annotations_of(schema)})
            for name, schema in self.sections.items()
        }
        rest = {key: value for key, value in values.items() if "." not in key}
        return COMMANDS[self._command](**made, **rest)
