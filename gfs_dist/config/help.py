"""The keys of a command with the line of help that stands above each in conf/.

Reads the files as text: help must not wait for Hydra, and comments are lost to a YAML reader.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from gfs_dist.config import CONF_FOLDER
from gfs_dist.config.groups import OPTION_KEY

_ENTRY = re.compile(r"(?P<indent> *)(?P<dash>- )?(?P<key>\w+): *(?P<value>.*)")


@dataclass(frozen=True)
class Key:
    """One key: its full name, its default as written, and what it means."""

    name: str
    default: str
    help: str


@dataclass(frozen=True)
class Group:
    """A key that chooses one of several files, each of which has keys of its own."""

    name: str
    default: str
    help: str
    options: dict[str, list[Key]]
    """Option name to its keys; the first key holds the name and says what the option is."""


@dataclass(frozen=True)
class Section:
    """Keys that belong together, ``NAME.KEY`` each."""

    name: str
    help: str
    keys: list[Key]


@dataclass(frozen=True)
class Description:
    """A command in one line, its plain keys, its sections of keys and its groups."""

    help: str
    keys: list[Key]
    sections: list[Section]
    groups: list[Group]


def describe(command: str) -> Description:
    """What conf/ says of ``command``."""
    found = _read(CONF_FOLDER / f"{command}.yaml")
    return Description(
        found.help, found.keys, found.sections, [_group(key) for key in found.chosen]
    )


def _group(key: Key) -> Group:
    options = {}
    for file in sorted((CONF_FOLDER / key.name).glob("*.yaml")):
        keys = [Key(f"{key.name}.{k.name}", k.default, k.help) for k in _read(file).keys]
        assert keys[0].name == f"{key.name}.{OPTION_KEY[key.name]}", file
        options[file.stem] = keys
    return Group(key.name, key.default, key.help, options)


@dataclass
class _Contents:
    """What stands in one file, in its order; ``chosen``: entries of the defaults list."""

    help: str = ""
    keys: list[Key] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    chosen: list[Key] = field(default_factory=list)


def _read(file: Path) -> _Contents:
    found, comment = _Contents(), ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("#"):
            comment = line.lstrip("# ")
            found.help = found.help or comment
        elif match := _ENTRY.fullmatch(line):
            name, value = match["key"], match["value"]
            if match["dash"]:
                found.chosen.append(Key(name, value, comment))
            elif match["indent"]:
                section = found.sections[-1]
                section.keys.append(Key(f"{section.name}.{name}", value, comment))
            elif value:
                found.keys.append(Key(name, value, comment))
            elif name != "defaults":
                found.sections.append(Section(name, comment, []))
            comment = ""
    return found
