"""Commands and options of ``gfs``, and a command line read into one object. Keys are of jobs."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from gfs_dist.command_words import quoted
from gfs_dist.config.groups import NAMED
from gfs_dist.errors import InputError

POSITIONAL: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("cut", "finetune", "evaluate", "advise", "report"), ("path",)),
    **dict.fromkeys(("status", "logs", "stop"), ("id",)),
    "submit": ("job",),
    "fetch": ("id", "into"),
}
"""Commands that take words without ``=``, and the keys that these set."""

MORE = {"report": "others"}
"""Commands that take any number of them, and the key that the rest sets."""

JOBS = {
    "pretrain": "train a network, keeping checkpoints",
    "prune": "prune one or many checkpoints",
    "cut": "another size from the stored paths of a deep network: gfs cut RUN_DIR budget.macs=35%",
    "finetune": "train a stored deep network on: gfs finetune PATH",
    "evaluate": "measure a stored network: gfs evaluate PATH",
    "benchmark": "measure methods, what more workers buy, and whether something got worse",
    "reproduce": "compute a figure or table of the paper again, beside what it says",
    "advise": "judge whether a run of gfs pretrain trained enough: gfs advise RUN_DIR",
    "report": "write the pages of a run folder again, or compare several: gfs report RUN_DIR...",
}
"""Commands that compute."""

SERVICES = {
    "up": "start a real Ray cluster on this machine: gfs up workers=2",
    "down": "end the cluster that gfs up started",
    "submit": "send a job to a Ray cluster: gfs submit JOB [key=value ...]",
    "list": "the jobs of a cluster",
    "status": "how a job is doing: gfs status ID",
    "logs": "what a job has printed: gfs logs ID [-f]",
    "stop": "end a job: gfs stop ID",
    "fetch": "bring back the run folder of a job: gfs fetch ID [DIR]",
    "doctor": "find what is wrong with this machine, and with a cluster",
}
"""Commands about clusters and the jobs on them; the cluster: runtime.address=..., else Ray's
variables, else what gfs up started."""

COMMANDS = {**JOBS, **SERVICES}

INFORMATION = {
    "help": "this page, or the keys of a command: gfs help [COMMAND], gfs COMMAND --help",
    "version": "show the version",
}
"""What is written as an option elsewhere."""

FLAGS = {
    "--open": ("open=true", ("report",)),
    "--no-wait": ("wait=false", ("submit",)),
    "--follow": ("follow=true", ("logs",)),
    "--insecure": (
        "insecure=true",
        ("submit", "list", "status", "logs", "stop", "fetch", "doctor"),
    ),
}
"""Options that are another way to write a key, and the commands that have it."""


OPTIONS = {
    "-h, --help": "show the keys of a command",
    "--cfg job": "print the composed configuration and stop",
    "-m, --multirun": "run every combination of values: steps=100,200",
    "--config-dir DIR": "add your own configurations, laid out as conf/ is",
    "--config FILE": "run what --cfg job has printed; goes on if its run folder has begun",
    "--dry-run": "print the plan and stop",
    "--json": "one JSON object on standard output, the rest on standard error",
    "--open": "show the page of gfs report in a browser",
    "--no-wait": "submit and leave; --json does that too",
    "-f, --follow": "gfs logs: until the job ends",
    "--insecure": "use a cluster that asks for no token",
    "--debug": "show the traceback of an error",
    "--version": "show the version",
}
"""As they are typed, with what an option takes after a blank."""

_TAKES: dict[str, dict[str, Any]] = {
    "job": {"choices": ["job"]},
    "DIR": {"type": Path},
    "FILE": {"type": Path},
    "": {"action": "store_true"},
}


class Arguments(argparse.Namespace):
    """One command line; ``words`` are assignments ``key=value``."""

    command: str | None
    words: Sequence[str]
    help: bool
    version: bool
    cfg: str | None
    multirun: bool
    config_dir: Path | None
    config: Path | None
    dry_run: bool
    json: bool
    debug: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        hint = ""
        if unknown := re.match(r"unrecognized arguments: -+([^\s=]+)", message):
            options = self._option_string_actions
            close = difflib.get_close_matches(f"--{unknown[1]}", options, n=1, cutoff=0.75)
            hint = f"; did you mean {close[0]}?" if close else "; keys are written key=value"
        raise InputError(f"{message}; gfs --help lists commands and options{hint}")


def read_arguments(argv: Sequence[str]) -> Arguments:
    """Read ``argv`` without the program's name.

    Raises:
        InputError: an unknown option or command, or a word that has no place.
    """
    parser = _Parser(prog="gfs", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    for usage in OPTIONS:
        flags, _, value = usage.replace(", ", ",").partition(" ")
        parser.add_argument(*flags.split(","), **_TAKES[value])
    found = parser.parse_intermixed_args(argv, Arguments())
    words = list(found.words)
    if words[:1] == ["help"]:
        found.help, words = True, [word for word in words if word not in INFORMATION]
    command = words.pop(0) if words else None
    if command == "version":
        found.version, command = True, None
    if command is not None and command not in COMMANDS:
        accepted = (*COMMANDS, *INFORMATION)
        close = difflib.get_close_matches(command, accepted, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"{command!r} is no command, accepted {', '.join(accepted)}{hint}")
    found.command = command
    found.words = (*_with_positional(command, words), *_flag_words(found))
    _check_config(found)
    return found


def _flag_words(found: Arguments) -> list[str]:
    """The assignments that options stand for."""
    words = []
    for flag, (word, commands) in FLAGS.items():
        if getattr(found, flag.removeprefix("--").replace("-", "_")):
            if found.command not in commands:
                raise InputError(f"{flag}: accepted by gfs {', '.join(commands)} only")
            words.append(word)
    return [*words, "wait=false"] if found.command == "submit" and found.json else words


def _check_config(found: Arguments) -> None:
    """Refuse other keys and options beside ``--config``, which is the whole configuration."""
    others = [word for word in found.words if word.partition("=")[0] not in NAMED]
    if found.config is not None and (others or found.multirun or found.command not in JOBS):
        raise InputError(
            "--config: accepted alone, as in gfs prune --config FILE, but for "
            f"{', '.join(f'{key}=...' for key in NAMED)} that the file names too"
        )


def _with_positional(command: str | None, words: Sequence[str]) -> list[str]:
    """``words`` with those that are no assignments turned into ``key="word"``."""
    plain = [word for word in words if _is_plain(word)]
    rest = [word for word in words if word not in plain]
    keys = POSITIONAL.get(command or "", ())
    if command == "submit" and plain:
        keys = (*keys, *POSITIONAL.get(plain[0], ()))
    more = plain[len(keys) :]
    if more and command in MORE:
        rest.insert(0, f"{MORE[command]}=[{','.join(map(quoted, more))}]")
    elif more:
        raise InputError(
            f"{plain[-1]!r} has no place in gfs {command or 'version'}, accepted key=value"
        )
    return [*(f"{key}={quoted(word)}" for key, word in zip(keys, plain, strict=False)), *rest]


def _is_plain(word: str) -> bool:
    """Whether a word assigns nothing: no key holds a slash, as a path with ``=`` in it may."""
    key, equals, _ = word.partition("=")
    return not word.startswith(("~", "+")) and (not equals or "/" in key)
