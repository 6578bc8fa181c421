"""Pages of help: the keys of each command with the line of help that stands above each in conf/.

Reads the files as text: help must not wait for Hydra, and a YAML reader loses comments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gfs_dist.cli.arguments import FLAGS, INFORMATION, JOBS, MORE, OPTIONS, POSITIONAL, SERVICES
from gfs_dist.config import CONF_FOLDER
from gfs_dist.config.groups import OPTION_KEY

_COLUMN = 38
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


def overview() -> str:
    """``gfs --help``."""
    return _page(
        ["usage: gfs COMMAND [key=value ...] [options]", ""],
        ["commands:", *_rows(JOBS.items()), ""],
        ["on a Ray cluster:", *_rows(SERVICES.items()), ""],
        ["about gfs:", *_rows(INFORMATION.items()), ""],
        ["options:", *_rows(OPTIONS.items())],
    )


def command_help(command: str) -> str:
    """``gfs COMMAND --help``: every key with its default and one line."""
    about = describe(command)
    positional = "".join(f" {key.upper()}" for key in POSITIONAL.get(command, ()))
    positional += "..." if command in MORE else ""
    having = {flag for flag, (_, commands) in FLAGS.items() if command in commands}
    own = [(flags, text) for flags, text in OPTIONS.items() if flags.split(", ")[-1] in having]
    return _page(
        [f"usage: gfs {command}{positional} [key=value ...] [options]", "", about.help, ""],
        ["keys, with their defaults:", *_rows(map(_row, about.keys)), ""] if about.keys else [],
        *([f"{s.name}: {s.help}", *_rows(map(_row, s.keys)), ""] for s in about.sections),
        *(_group(group) for group in about.groups),
        ["options:", *_rows(own), ""] if own else [],
        ["Options of every command, as --dry-run and --json: gfs --help"],
    )


def _group(group: Group) -> list[str]:
    lines = [f"{group.name}: {group.help} ({', '.join(group.options)})"]
    for option in sorted(group.options, key=lambda name: name != group.default):
        name, *keys = group.options[option]
        default = " (default)" if option == group.default else ""
        lines += _rows([(f"{group.name}={option}", name.help + default)])
        lines += _rows((f"  {row}", text) for row, text in map(_row, keys))
    return [*lines, ""]


def _row(key: Key) -> tuple[str, str]:
    return f"{key.name}={key.default}", key.help


def _rows(pairs: Iterable[tuple[str, str]]) -> list[str]:
    lines = []
    for left, right in pairs:
        if len(left) >= _COLUMN:
            lines += [f"  {left}", f"  {'':{_COLUMN}} {right}"]
        else:
            lines.append(f"  {left:{_COLUMN}} {right}")
    return lines


def _page(*parts: Sequence[str]) -> str:
    return "\n".join(line.rstrip() for part in parts for line in part)
