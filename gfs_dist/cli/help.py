"""Pages of help, from the comments in conf/."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gfs_dist.cli.arguments import FLAGS, INFORMATION, JOBS, OPTIONS, POSITIONAL, SERVICES
from gfs_dist.config.help import Group, Key, Section, describe

_COLUMN = 38


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
    return _page(
        [f"usage: gfs {command}{positional} [key=value ...] [options]", "", about.help, ""],
        ["keys, with their defaults:", *_rows(map(_row, about.keys)), ""] if about.keys else [],
        *(_section(section) for section in about.sections),
        *(_group(group) for group in about.groups),
        _own_options(command),
        ["Options of every command, as --dry-run and --json: gfs --help"],
    )


def _own_options(command: str) -> list[str]:
    """The options that few commands have."""
    having = {flag for flag, (_, commands) in FLAGS.items() if command in commands}
    own = [(flags, text) for flags, text in OPTIONS.items() if flags.split(", ")[-1] in having]
    return ["options:", *_rows(own), ""] if own else []


def _section(section: Section) -> list[str]:
    return [f"{section.name}: {section.help}", *_rows(map(_row, section.keys)), ""]


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
