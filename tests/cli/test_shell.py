"""Exit codes, what is printed where, and what a job is given; the job itself is a stand-in."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gfs_dist.cli import main
from gfs_dist.config.commands import Prune
from gfs_dist.errors import BudgetError, InputError, RunError
from gfs_dist.files import RunFolder

ROOT = Path(__file__).parent.parent.parent
Run = Callable[[Any, Any], dict[str, Any]]


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Takes the place of the job behind ``gfs prune``."""

    def install(run: Run) -> None:
        module = types.ModuleType("gfs_dist.jobs.prune")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "gfs_dist.jobs.prune", module)

    return install


def failing(error: BaseException) -> Run:
    def run(config: Any, reporter: Any) -> dict[str, Any]:
        raise error

    return run


def well(config: Any, reporter: Any) -> dict[str, Any]:
    reporter.plan([f"{config.steps} steps"])
    reporter.run_folder(RunFolder(config.out))
    reporter.table("result", ["loss"], [[0.5]])
    reporter.next(["gfs evaluate PATH"])
    return {"job": "prune", "status": "finished", "results": [{"loss": 0.5}], "timing": {}}


def test_job_gets_a_typed_configuration(job: Callable[[Run], None]) -> None:
    seen = []
    job(lambda config, reporter: seen.append(config) or {})
    assert main(["prune", "steps=3"]) == 0
    assert isinstance(seen[0], Prune)
    assert seen[0].steps == 3


@pytest.mark.parametrize("words", [["prune"], ["evaluate", "somewhere"], ["prune", "--cfg=job"]])
def test_nothing_starts_where_checkpoints_could_run_code(
    words: list[str],
    job: Callable[[Run], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job(failing(AssertionError("it started")))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "yes")
    assert main(words) == 2
    assert capsys.readouterr() == (
        "",
        "gfs: environment: TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, which lets pickles run code; "
        "unset it\n",
    )
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0")
    assert main(["prune", "--help"]) == 0


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("wrong"), 2, "gfs: wrong\n"),
        (BudgetError("too small"), 3, "gfs: too small\n"),
        (RunError("failed"), 1, "gfs: failed\n"),
        (KeyboardInterrupt(), 130, "gfs: interrupted\n"),
        (ZeroDivisionError("oh"), 1, "gfs: ZeroDivisionError: oh\n--debug shows where\n"),
        (RunError("1\n2\n\n3\n4"), 1, "gfs: 1\n2\n3\n"),
    ],
)
def test_errors_are_short_and_have_their_exit_code(
    job: Callable[[Run], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    job(failing(error))
    assert main(["prune"]) == code
    assert capsys.readouterr() == ("", said)
    assert main(["prune", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_interrupted_run_says_how_to_go_on(
    job: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(config: Any, reporter: Any) -> dict[str, Any]:
        reporter.run_folder(RunFolder("runs/x"))
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
        raise AssertionError("SIGTERM did not interrupt")

    job(run)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["prune"]) == 130
    assert capsys.readouterr().err == "gfs: interrupted; go on with: gfs prune resume=runs/x\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_bad_words_never_reach_the_job(
    job: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    job(failing(AssertionError("the job was run")))
    assert main(["prune", "stesp=3"]) == 2
    assert main(["prune", "-m", "steps=1,0"]) == 2
    assert main(["prun"]) == 2
    assert "did you mean steps?" in capsys.readouterr().err


def test_json_is_the_only_line_of_standard_output(
    job: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    job(well)
    assert main(["prune", "out=there", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "run_folder": "there",
        "report": "there/report.json",
        "job": "prune",
        "status": "finished",
        "results": [{"loss": 0.5}],
    }
    assert "200 steps" in err
    assert "next: gfs evaluate PATH" in err


def test_dry_run_prints_the_plan_alone(
    job: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    job(well)
    assert main(["prune", "--dry-run"]) == 0
    assert capsys.readouterr() == ("200 steps\n", "")
    assert main(["prune", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"plan": ["200 steps"]}


def test_multirun_runs_every_point(
    job: Callable[[Run], None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job(well)
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "-m", "steps=1,2", "out=there", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["run_folder"] for run in runs] == ["there/0", "there/1"]


def test_cfg_prints_what_would_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--cfg", "job", "steps=7", "seed=3"]) == 0
    out = capsys.readouterr().out
    assert "\nsteps: 7\n" in out
    assert "  seed: 3\n" in out
    assert "${" not in out


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--help"], ["-h"]):
        assert main(argv) == 0
        assert capsys.readouterr().out.startswith("usage: gfs COMMAND")
    assert main(["prune", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: gfs prune")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("gfs-dist 0.")


def test_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m gfs_dist prune --help | true"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, check=False)
    assert done.stderr == b""


@pytest.mark.parametrize("columns", ["0", "80"])
def test_a_terminal_gets_bars_if_it_has_room(
    columns: str, job: Callable[[Run], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    job(lambda config, reporter: seen.append(type(reporter).__name__) or {})
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["prune"]) == 0
    assert seen == ["LiveReporter" if columns == "80" else "PlainReporter"]


def test_a_composed_configuration_can_be_run(
    job: Callable[[Run], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seen = []
    job(lambda config, reporter: seen.append(config) or {})
    out = tmp_path / "run"
    assert main(["prune", "--cfg", "job", "steps=7", f"out={out}"]) == 0
    file = tmp_path / "x.yaml"
    file.write_text(capsys.readouterr().out)
    assert main(["prune", "--config", str(file)]) == 0
    assert (seen[0].steps, seen[0].resume) == (7, None)


def test_the_doctor_exits_with_what_it_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gfs_dist.service import doctor

    found = [doctor.Check("a", "ok", "x"), doctor.Check("b", "fail", "y", "mend it")]
    monkeypatch.setattr("gfs_dist.jobs.doctor.examine", lambda *_, **__: found)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out == "ok    a  x\nfail  b  y -> mend it\n1 of 2 checks failed\n"
    assert main(["doctor", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert [check["state"] for check in answer["checks"]] == ["ok", "fail"]
    monkeypatch.setattr("gfs_dist.jobs.doctor.examine", lambda *_, **__: found[:1])
    assert main(["doctor"]) == 0
