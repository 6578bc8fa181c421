"""Whatever standard output and standard error are connected to: the run goes on, and says how."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gfs_dist.config.compose import compose_file

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import os, pathlib, sys, types
import gfs_dist
from gfs_dist.errors import BudgetError

def run(config, reporter):
    opened = os.open("first", os.O_CREAT | os.O_WRONLY)
    assert opened > 2, "a file was opened in the place of a standard stream"
    reporter.plan(["plan \\u2192 \\u00fc \\udcff"])
    for number in range(2000):
        reporter.note(f"line {number} of what a run has to say")
    reporter.next(["gfs evaluate \\u2192"])
    pathlib.Path("ended").touch()
    if config.steps == 3:
        raise BudgetError("budget: \\u2192 cannot be met")
    return {}

module = types.ModuleType("gfs_dist.jobs.prune")
module.run = run
sys.modules["gfs_dist.jobs.prune"] = module
from gfs_dist.cli import main
sys.exit(main())
"""


def gfs(
    folder: Path, words: str, streams: str, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """``gfs WORDS STREAMS`` in a shell, with a stand-in for ``gfs prune``; exits as it did."""
    (folder / "gfs.py").write_text(SCRIPT)
    command = f'"$PYTHON" gfs.py {words} {streams}; exit "${{PIPESTATUS[0]}}"'
    env = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True)


FAILS = [
    ">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full",
    ">/dev/full 2>/dev/full", "| head -1", "2>&1 | true", "1</dev/null",
]  # fmt: skip


@pytest.mark.parametrize(
    ("streams", "steps", "code"),
    [*((streams, 3, 3) for streams in FAILS), (">/dev/full", 200, 0), ("2>&1 | true", 200, 0)],
)
def test_a_stream_that_takes_nothing_ends_no_run(
    tmp_path: Path, streams: str, steps: int, code: int
) -> None:
    done = gfs(tmp_path, f"prune steps={steps}", streams)
    assert done.returncode == code
    assert (tmp_path / "ended").exists()
    assert (tmp_path / "first").read_bytes() == b""
    assert b"Traceback" not in done.stdout + done.stderr
    assert b"Exception" not in done.stdout + done.stderr


def test_what_a_full_disk_does_not_take_is_told_once(tmp_path: Path) -> None:
    said = gfs(tmp_path, "prune", ">/dev/full").stderr.decode().splitlines()
    assert said == ["gfs: output cannot be written (No space left on device), the rest is dropped"]
    assert gfs(tmp_path, "prune", "| head -1").stderr == b""


def test_a_full_pipe_that_does_not_block_is_waited_for(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    (tmp_path / "gfs.py").write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "gfs.py", "prune"]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=write) as child:
        os.close(write)
        with os.fdopen(read) as lines:
            said = lines.read().splitlines()
    assert child.returncode == 0
    assert len(said) == 2002  # a plan, what the run says, what is next
    assert said[-1].startswith("next: gfs evaluate ")


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "utf-8:strict"},
    ],
)
def test_characters_that_an_encoding_lacks_are_replaced(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    done = gfs(tmp_path, "prune steps=3", "", **variables)
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"gfs: budget: ")
    first, *_, last = done.stdout.splitlines()
    assert first.startswith(b"plan ")
    assert first.endswith(b" ?")
    assert last.startswith(b"next: gfs evaluate ")


def test_a_configuration_is_in_utf8_whatever_the_terminal_shows(tmp_path: Path) -> None:
    words = "prune --cfg job 'out=\"\u2192 \u00e9\"'"
    done = gfs(tmp_path, words, "> config.yaml", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert compose_file("prune", tmp_path / "config.yaml").out == "\u2192 \u00e9"


@pytest.mark.parametrize(
    ("words", "streams"),
    [
        *(("prune stesp=3", streams) for streams in (">&-", "2>&-", "2>/dev/full")),
        *(("prune --cfg job", streams) for streams in (">&-", ">/dev/full", "| true")),
        ("prune --help", "| true"),
        ("--version", ">/dev/full"),
    ],
)
def test_short_answers_keep_their_exit_code_too(tmp_path: Path, words: str, streams: str) -> None:
    done = gfs(tmp_path, words, streams)
    assert done.returncode == (2 if "stesp" in words else 0)
    assert b"Traceback" not in done.stderr
