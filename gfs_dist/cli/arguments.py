"""The words of a command line, read into one plain object. Knows no keys: jobs do."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gfs_dist.errors import InputError

POSITIONAL = {"cut": "path", "finetune": "path", "evaluate": "path", "report": "path"}
"""Commands that take a word without ``=``, and the key that it sets."""

COMMANDS = {
    "pretrain": "train a network, keeping checkpoints",
    "prune": "prune one or many checkpoints",
    "cut": "another size from the stored paths of a deep network: gfs cut RUN_DIR budget.macs=35%",
    "finetune": "train a stored deep network on: gfs finetune PATH",
    "evaluate": "measure a stored network: gfs evaluate PATH",
    "benchmark": "measure methods, what more workers buy, and whether something got worse",
    "report": "write the pages and plots of a run folder again: gfs report RUN_DIR",
}


@dataclass(frozen=True)
class Arguments:
    """One command line."""

    command: str | None
    words: tuple[str, ...]
    help: bool
    version: bool
    cfg: bool
    multirun: bool
    config_dir: Path | None
    dry_run: bool
    json: bool
    debug: bool


OPTIONS = {
    "-h, --help": "show the keys of a command",
    "--cfg job": "print the composed configuration and stop",
    "-m, --multirun": "run every combination of values: steps=100,200",
    "--config-dir DIR": "add your own configurations, laid out as conf/ is",
    "--dry-run": "print the plan and stop",
    "--json": "one JSON object on standard output, the rest on standard error",
    "--open": "show the page of gfs report in a browser",
    "--debug": "show the traceback of an error",
    "--version": "show the version",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; gfs --help lists commands and options")


def read_arguments(argv: Sequence[str]) -> Arguments:
    """Read ``argv`` without the program's name.

    Raises:
        InputError: an unknown option or command, or a word that has no place.
    """
    parser = _Parser(prog="gfs", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    for flags in (("-h", "--help"), ("-m", "--multirun")):
        parser.add_argument(*flags, action="store_true")
    for flag in ("--version", "--dry-run", "--json", "--debug", "--open"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--cfg", choices=["job"])
    parser.add_argument("--config-dir", type=Path)
    found = parser.parse_intermixed_args(argv)
    command, *words = found.words or [None]
    if command is not None and command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"{command!r} is no command, accepted {', '.join(COMMANDS)}{hint}")
    if found.open:
        if command != "report":
            raise InputError("--open: accepted by gfs report only")
        words.append("open=true")
    return Arguments(
        command=command,
        words=tuple(_with_positional(command, words)),
        help=found.help,
        version=found.version,
        cfg=found.cfg is not None,
        multirun=found.multirun,
        config_dir=found.config_dir,
        dry_run=found.dry_run,
        json=found.json,
        debug=found.debug,
    )


def _with_positional(command: str | None, words: Sequence[str]) -> list[str]:
    """``words`` with the one that is no assignment turned into ``key="word"``."""
    plain = [word for word in words if "=" not in word and not word.startswith(("~", "+"))]
    if not plain:
        return list(words)
    if command not in POSITIONAL or len(plain) > 1:
        raise InputError(f"{plain[-1]!r} has no place in gfs {command}, accepted key=value")
    quoted = re.sub(r'(\\*)("|$)', _escape, plain[0])
    return [f'{POSITIONAL[command]}="{quoted}"', *(word for word in words if word != plain[0])]


def _escape(found: re.Match[str]) -> str:
    """Backslashes are doubled before a quote, and nowhere else: so Hydra reads them."""
    return found[1] * 2 + ('\\"' if found[2] else "")
