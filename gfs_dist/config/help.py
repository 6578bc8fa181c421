"""The keys of a command with the line of help that stands above each in conf/.

Reads the files as text: help must not wait for Hydra, and a YAML reader loses comments.
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

    @property
    def options(self) -> dict[str, list[Key]]:
        """Option name to its keys; the first key holds the name and says what the option is."""
        options = {}
        for file in sorted((CONF_FOLDER / self.name).glob("*.yaml")):
            keys = [Key(f"{self.name}.{k.name}", k.default, k.help) for k in _read(file).keys]
            assert keys[0].name == f"{self.name}.{OPTION_KEY[self.name]}", file
            options[file.stem] = keys
        return options


@dataclass(frozen=True)
class Section:
    """Keys that belong together, ``NAME.KEY`` each."""

    name: str
    help: str
    keys: list[Key] = field(default_factory=list)


@dataclass
class Description:
    """A command in one line, its plain keys, its sections of keys and its groups."""

    help: str = ""
    keys: list[Key] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)


def describe(command: str) -> Description:
    """What conf/ says of ``command``."""
    return _read(CONF_FOLDER / f"{command}.yaml")


def _read(file: Path) -> Description:
    found, comment = Description(), ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("#"):
            comment = line.lstrip("# ")
            found.help = found.help or comment
        elif match := _ENTRY.fullmatch(line):
            name, value = match["key"], match["value"]
            if match["dash"]:
                found.groups.append(Group(name, value, comment))
            elif match["indent"]:
                section = found.sections[-1]
                section.keys.append(Key(f"{section.name}.{name}", value, comment))
            elif value:
                found.keys.append(Key(name, value, comment))
            elif name != "defaults":
                found.sections.append(Section(name, comment))
            comment = ""
    return found
