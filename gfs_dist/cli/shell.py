"""``gfs``: read the command line, compose, run the job, turn its end into an exit code.

The exit code of an error is that of its class in :mod:`gfs_dist.errors`.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

import gfs_dist
from gfs_dist._allocator import keep_freed_memory
from gfs_dist._environment import refuse_unsafe_environment
from gfs_dist.cli.arguments import JOBS, SERVICES, Arguments, read_arguments
from gfs_dist.cli.display import PlainReporter
from gfs_dist.cli.output import keep_utf8, ready_streams
from gfs_dist.config.cluster import unsent
from gfs_dist.errors import GfsError
from gfs_dist.urls import below
from gfs_dist.workflows.reporter import PlannedOnly

if TYPE_CHECKING:
    from gfs_dist.workflows.sweep import Sweep

FAILED, INTERRUPTED = 1, 130
MAX_ERROR_LINES = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; ``argv`` is without the program's name, None for the process's own.

    Returns:
        0 done; 1 the job failed; 2 wrong usage, configuration or input; 3 the budget cannot be
        met; 130 interrupted.
    """
    ready_streams()
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    try:
        with _sigterm_interrupts():
            return _run(read_arguments(argv))
    except GfsError as error:
        return _fail(error, str(error), error.exit_code, debug)
    except KeyboardInterrupt as error:
        return _fail(error, "; ".join(["interrupted", *map(str, error.args)]), INTERRUPTED, debug)
    except Exception as error:  # noqa: BLE001 - the outermost frame: any other error is exit 1
        message = f"{type(error).__name__}: {error}\n--debug shows where"
        return _fail(error, message, FAILED, debug)


def _run(arguments: Arguments) -> int:
    if arguments.version:
        _print(f"gfs-dist {gfs_dist.__version__}")
    elif arguments.help or arguments.command is None:
        from gfs_dist.cli.help import command_help, overview

        _print(command_help(arguments.command) if arguments.command else overview())
    else:
        return _run_command(arguments, arguments.command)
    return 0


def _run_command(arguments: Arguments, command: str) -> int:
    """Run a command for each configuration it asks for; returns the exit code."""
    sweeps = command in JOBS and arguments.multirun and not arguments.dry_run
    if command in (*JOBS, "submit"):
        refuse_unsafe_environment()
        keep_freed_memory()
    with unsent() if command == "submit" else nullcontext():
        configs = _compose(arguments, command)
        if arguments.cfg:
            _print_configs(command, configs)
            return 0
        if command in JOBS:
            from gfs_dist.config.paths import check_inputs, check_job, check_sweep

            check = check_inputs if arguments.dry_run else check_job
            if sweeps:
                check_sweep(configs)
            for config in configs:  # refused before torch and Ray are loaded
                check(command, config)
        _announce(command, configs[0], _stream(arguments))
        run = importlib.import_module(f"gfs_dist.jobs.{command}").run
    sweep = _sweep(run, configs, arguments) if sweeps else None
    answers = [_run_job(sweep or run, config, arguments) for config in configs]
    page = {}
    if sweep is not None:
        reporter = _reporter(arguments)
        page = sweep.end(reporter)
        reporter.close()
    if arguments.json:
        _print(json.dumps(answers[0] if len(answers) == 1 else {"runs": answers, **page}))
    # gfs doctor alone finds faults without failing; the answer of gfs submit has its job's code.
    return max(answer.get("exit_code") or 0 for answer in answers) if command == "doctor" else 0


def _sweep(run: Callable[..., Any], configs: list[Any], arguments: Arguments) -> Sweep:
    """What runs the points of a sweep instead of ``run``."""
    from gfs_dist.config.command_line import sweep_words
    from gfs_dist.config.overrides import swept
    from gfs_dist.config.paths import sweep_folder
    from gfs_dist.workflows.sweep import Sweep

    folder = sweep_folder(configs)
    again = None if folder is None else sweep_words(arguments.words, folder)
    return Sweep(str(arguments.command), run, folder, swept(arguments.words), again)


def _print_configs(command: str, configs: list[Any]) -> None:
    """What ``--cfg job`` shows."""
    from gfs_dist.config.compose import to_yaml

    if command == "submit":
        configs = configs[0].configs
    keep_utf8()
    _print("---\n".join(map(to_yaml, configs)).rstrip())


def _compose(arguments: Arguments, command: str) -> list[Any]:
    """The configurations of a command line; of ``gfs submit`` its batch."""
    from gfs_dist.config import compose

    words, folder = arguments.words, arguments.config_dir
    if command == "submit":
        from gfs_dist.workflows.submission import read_batch

        return [read_batch(words, folder, multirun=arguments.multirun)]
    if arguments.config is not None:
        return [compose.compose_file(command, arguments.config, words)]
    if arguments.multirun:
        return compose.sweep(command, words, folder)
    return [compose.compose(command, words, folder)]


def _run_job(run: Callable[..., Any], config: Any, arguments: Arguments) -> Any:
    """Run one job; returns what ``--json`` prints of it."""
    reporter = _reporter(arguments)
    try:
        report = run(config, reporter)
    except PlannedOnly:
        return {"plan": reporter.planned}
    except (KeyboardInterrupt, SystemExit) as error:  # SIGTERM exits while ray.init runs
        folder = reporter.folder
        how: Sequence[object] = error.args
        if folder is not None and hasattr(config, "resume"):
            from gfs_dist.config.command_line import resume_word

            again = getattr(run, "again", None) or resume_word(folder, config)
            how = [f"go on with: gfs {arguments.command} {again}"]
        interrupted = KeyboardInterrupt(*how)
        interrupted.__notes__ = getattr(error, "__notes__", [])
        raise interrupted from error
    finally:
        reporter.close()
    if arguments.command in SERVICES:
        return report
    folder = reporter.folder
    return {
        "run_folder": folder,
        "report": folder and below(folder, "report.json"),
        **{key: report[key] for key in ("job", "status", "dense", "results") if key in report},
        **report.get("advice", {}),
    }


def _announce(command: str, config: Any, stream: TextIO) -> None:
    """Print one line before a job is loaded, which takes seconds.

    Commands that only show something (``gfs logs``) print it on a terminal alone.
    """
    job = config.keys.job if command == "submit" else command
    wanted = command in (*JOBS, "submit") or stream.isatty()
    if wanted and not any(map(sys.modules.get, (f"gfs_dist.jobs.{job}", "torch"))):
        line = f"gfs {command}: starting; loading torch and Ray takes a few seconds"
        print(line, file=stream, flush=True)


def _stream(arguments: Arguments) -> TextIO:
    return sys.stderr if arguments.json else sys.stdout


def _reporter(arguments: Arguments) -> PlainReporter:
    stream = _stream(arguments)
    if stream.isatty():
        from gfs_dist.cli.live import LiveReporter

        live = LiveReporter(stream, dry_run=arguments.dry_run)
        if live.has_room:
            return live
    return PlainReporter(stream, dry_run=arguments.dry_run)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end a job the way Ctrl-C does, so that it is cleaned up and can be resumed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(error: BaseException, message: str, code: int, debug: bool) -> int:
    """Print ``message`` and the notes of ``error``, a few lines; returns ``code``."""
    if debug:
        traceback.print_exc()
    message = "\n".join([message, *getattr(error, "__notes__", [])])
    # Names in files of others, and answers of servers, must not steer a terminal.
    shown = "".join(c if c.isprintable() or c in "\n\t" else "?" for c in message)
    lines = [line for line in shown.splitlines() if line.strip()][:MAX_ERROR_LINES]
    print("gfs: " + "\n".join(lines), file=sys.stderr)  # noqa: T201 - this is the command line
    return code


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is the command line
