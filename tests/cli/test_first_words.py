"""What is wrong is told, and a line is printed, before torch and Ray are loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gfs_dist.config.compose import compose, to_yaml

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import contextlib, io, json, sys
sys.modules.update(torch=None, ray=None)  # importing either raises
from gfs_dist.cli import main
if len(sys.argv) > 1:
    sys.exit(main())
for words in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            code = main(words.split(" "))
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run folder, one without a report, and a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(compose("prune")))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    (tmp_path / "net.pt").touch()
    return tmp_path


def gfs(*words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command line where neither torch nor Ray can be loaded, and no cluster is known."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env = {**kept, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(Path("state").absolute())}
    command = [sys.executable, "-c", SCRIPT, *words]
    return subprocess.run(command, env=env, input=given, capture_output=True, text=True)


WRONG = {
    "prune stesp=3": "stesp: unknown key of gfs prune; did you mean steps?",
    "prune model=resnt20": "did you mean resnet20_cifar?",
    "prune model.activation=tahn": "did you mean tanh?",
    "prune partition=contigous": "did you mean contiguous?",
    "prune graph=rng": "did you mean ring?",
    "prune budget.macs=2 checkpoint=net.pt model=resnet18": "budget.macs: found 2, accepted",
    "prune checkpoint=nope": "checkpoint: found none in nope; accepted are",
    "prune checkpoint=nope model=two_layer": "checkpoint: found none in nope; accepted are",
    "prune checkpoint=empty": "checkpoint: found none in empty; accepted are",
    "prune checkpoint=file.txt": "checkpoint: found none in file.txt; accepted are",
    "prune checkpoint=net.pt out=/proc/x": "out: /proc/x cannot be written",
    "prune out=/proc/x/y": "out: /proc/x/y cannot be written",
    "prune out=file.txt/run": "out: file.txt exists and is no folder",
    "prune out=run": "out: run exists and is not empty (config.yaml)",
    "prune -m seed=0,1 out=/proc/x": "out: /proc/x cannot be written",
    "prune out=memory://x/y checkpoint=nope": "checkpoint: found none in nope",
    "prune resume=empty": "resume: found empty, accepted a run folder",
    "prune runtime.address=x": "runtime.address: found 'x', accepted HOST:PORT or auto",
    "prune runtime.address=http://x:1 out=r": "address of a dashboard is for gfs submit",
    "prune runtime.address=127.0.0.1:9 out=r": "no Ray cluster at 127.0.0.1:9 (",
    "prune partition=x.json": "partition: x.json does not exist",
    "prune data=mnist data.root=nope": "data.root: nope does not exist",
    "prune data=npz data.path=nope": "data.path: nope does not exist",
    "pretrain out=/proc/x": "out: /proc/x cannot be written",
    "pretrain model=resnet20_cifar out=/proc/x": "out: /proc/x cannot be written",
    "evaluate nope": "path: found none in nope; accepted are",
    "finetune nope": "path: found none in nope; accepted are",
    "finetune net.pt out=/proc/x": "out: /proc/x cannot be written",
    "cut nope budget.macs=50%": "path: found nope, accepted a run folder",
    "report nope": "path: found nope, accepted a run folder with report.json",
    "report run": "path: found run, accepted a run folder with report.json",
    "benchmark suite=guard record=nope": "record: nope does not exist",
    "benchmark out=/proc/x": "out: /proc/x cannot be written",
    "submit prune stesp=3": "stesp: unknown key of gfs prune",
    "list": "no Ray cluster: ",
    "status x": "no Ray cluster: ",
    "logs x": "no Ray cluster: ",
    "stop x": "no Ray cluster: ",
    "fetch x": "no Ray cluster: ",
    "up workers=0": "workers: found 0, accepted a whole number, 1 or more",
    "prnue": "did you mean prune?",
}
"""Command lines, and what is said of each."""


def test_what_is_wrong_is_told_before_torch_and_ray_load(here: Path) -> None:
    before = sorted(here.rglob("*"))
    done = gfs(given=json.dumps([*WRONG]))
    assert sorted(here.rglob("*")) == before
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (words, message), (code, out, err) in zip(WRONG.items(), answers, strict=True):
        assert message in err, words
        assert err.startswith("gfs: "), words
        assert (code, out, err.count("\n")) == (2, "", 1), words


def test_submit_looks_for_its_cluster_before_torch_loads(here: Path) -> None:
    done = gfs("submit", "prune")
    assert done.returncode == 2
    assert done.stdout == "gfs submit: starting; loading torch and Ray takes a few seconds\n"
    assert done.stderr.startswith("gfs: no Ray cluster: ")


@pytest.mark.parametrize("command", ["prune", "pretrain", "benchmark", "evaluate net.pt"])
def test_one_line_comes_before_torch_and_ray(here: Path, command: str) -> None:
    words = command.split(" ")
    done = gfs(*words)
    line = f"gfs {words[0]}: starting; loading torch and Ray takes a few seconds\n"
    assert done.stdout == line
    assert "import of torch halted" in done.stderr


def test_with_json_that_line_is_on_standard_error(here: Path) -> None:
    done = gfs("prune", "--json")
    assert (done.stdout, done.stderr.partition(";")[0]) == ("", "gfs prune: starting")


def test_a_dry_run_needs_no_place_to_write(here: Path) -> None:
    assert "torch" in gfs("prune", "out=/proc/x", "--dry-run").stderr
    assert "found none in nope" in gfs("prune", "checkpoint=nope", "--dry-run").stderr
