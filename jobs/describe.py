"""The keys of a command with the line of help that stands above each in conf/.

Reads the files as text: help must not wait for Hydra, and comments are lost to a YAML reader.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gfs_dist._layout import conf_folder
from gfs_dist.jobs.config import OPTION_KEY

_ENTRY = re.compile(r"(?P<dash> *- )?(?P<key>\w+): *(?P<value>.*)")


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
class Description:
    """A command in one line, its plain keys and its groups."""

    help: str
    keys: list[Key]
    groups: list[Group]


def describe(command: str) -> Description:
    """What conf/ says of ``command``."""
    text, entries = _read(conf_folder() / f"{command}.yaml")
    groups = [_group(key) for is_group, key in entries if is_group]
    return Description(text, [key for is_group, key in entries if not is_group], groups)


def _group(key: Key) -> Group:
    options = {}
    for file in sorted((conf_folder() / key.name).glob("*.yaml")):
        keys = [Key(f"{key.name}.{k.name}", k.default, k.help) for _, k in _read(file)[1]]
        assert keys[0].name == f"{key.name}.{OPTION_KEY[key.name]}", file
        options[file.stem] = keys
    return Group(key.name, key.default, key.help, options)


def _read(file: Path) -> tuple[str, list[tuple[bool, Key]]]:
    """The first comment, and (is it an entry of the defaults list, key) for every entry."""
    comment = first = ""
    entries = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("#"):
            comment = line.lstrip("# ")
            first = first or comment
        elif (match := _ENTRY.fullmatch(line)) and match["key"] != "defaults":
            entries.append((bool(match["dash"]), Key(match["key"], match["value"], comment)))
            comment = ""
    return first, entries
