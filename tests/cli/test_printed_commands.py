"""Commands that are printed can be typed: a shell and our own parser read them as meant."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gfs_dist.cli import main
from gfs_dist.cli.arguments import read_arguments
from gfs_dist.cli.display import PlainReporter
from gfs_dist.command_words import typed, typed_place
from gfs_dist.config.command_line import data_words
from gfs_dist.config.compose import compose, compose_file, to_yaml
from gfs_dist.config.overrides import parse, text
from gfs_dist.errors import RunFolderError
from gfs_dist.files import RunFolder
from gfs_dist.jobs import fetch
from gfs_dist.service.cluster import words_for
from gfs_dist.workflows.follow_job import next_commands
from tests.jobs.deep_runs import OWN, RUN, make_home
from tests.jobs.test_submit import job

NASTY = [
    "lr=0.1", "a b", "it's", 'say "hi"', "a,b", "a{b}", "$HOME", "-x", "--help", "~x", "+x=1",
    "käse", "a:", "null", "true", "1e3", "001", "[a", "(a", "a#b", "a;b|c&d", "a@b", "back\\slash",
    "end\\", 'both\\"', "line\nbreak", "*?", "tab\t", " ", "%", "\U0001f600", "\udcff",
    "${out}", "a\\${b}", "$${x}{y}",
]  # fmt: skip
TINY = ["data.samples=200", "train.iterations=20", "train.checkpoint_every=20", "runtime=none"]


def read(command: str) -> Any:
    """The configuration that a printed command asks for."""
    _, *words = shlex.split(command)
    arguments = read_arguments(words)
    assert arguments.command is not None
    return compose(arguments.command, arguments.words)


def printed(text: str) -> list[str]:
    return [line.removeprefix("next: ") for line in text.splitlines() if line.startswith("next: ")]


@pytest.mark.parametrize("place", [*NASTY, *(f"/some where/{name}" for name in NASTY[::4])])
def test_any_name_of_a_folder_is_read_back(place: str) -> None:
    assert read(f"gfs report {typed_place('path', place)}").path == place
    assert read(f"gfs prune {typed('out', place)}").out == place


@pytest.mark.parametrize("name", NASTY)
def test_a_run_in_a_folder_of_any_name_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = read(f"gfs prune {typed('out', name)} steps=7")
    Path(name).mkdir()
    (Path(name) / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    again = read(f"gfs prune {typed('resume', name)} steps=7")
    assert (again.out, again.resume, again.steps) == (name, name, 7)
    file = compose_file("prune", Path(name) / "config.yaml")
    assert (file.out, file.resume) == (name, name)


@pytest.mark.parametrize("name", NASTY[::3])
def test_any_root_of_data_is_read_back(name: str) -> None:
    data = read(f"gfs evaluate x data=cifar10 {typed('data.root', name)}").data
    assert read(f"gfs evaluate x {data_words(data, 0)}").data.root == name


def test_ordinary_names_are_printed_as_they_are() -> None:
    assert typed("out", "runs/2026-11-30_a.b") == "out=runs/2026-11-30_a.b"
    assert typed_place("path", "/data/runs/x_1") == "/data/runs/x_1"
    assert typed("runtime.address", "http://a:8265") == "runtime.address=http://a:8265"


def test_the_next_commands_of_a_two_layer_run_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = """-lr=0.1, {it's} $HOME "é\""""
    monkeypatch.chdir(tmp_path)
    small = [*TINY, "model.width=20"]
    assert main(["pretrain", *small, *shlex.split(typed("out", name))]) == 0
    prune, evaluate = printed(capsys.readouterr().out)
    assert read(prune).checkpoint == name
    assert (Path(read(evaluate).path) / "state.json").is_file()
    words = shlex.split(prune)[1:]
    assert main([*words, "runtime=none", "steps=5", *shlex.split(typed("out", f"{name}2"))]) == 0
    evaluate, report = printed(capsys.readouterr().out)
    for command in (evaluate, report):
        assert main(shlex.split(command)[1:]) == 0


def test_the_next_commands_of_a_deep_run_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_home(tmp_path)
    for command in printed(capsys.readouterr().out):
        assert read(command)
    Path("dense").rename("-d=1, {x}")
    moved = typed("checkpoint", "-d=1, {x}/checkpoints/step_00000025")
    out = typed("out", '-o=1 "é"')
    words = shlex.split(f"{moved} {out}")
    assert main(["prune", *words, *OWN, *RUN, "runtime=none"]) == 0
    said = printed(capsys.readouterr().out)
    assert [shlex.split(command)[1] for command in said] == [
        "evaluate", "finetune", "cut", "report",
    ]  # fmt: skip
    for command in said:
        assert Path(read(command).path).is_dir(), command
    _, tune, *_ = said
    more = ["train.iterations=2", "train.batch=32", *shlex.split(typed("out", "t=1"))]
    assert main([*shlex.split(tune)[1:], *more]) == 0
    (evaluate,) = printed(capsys.readouterr().out)
    assert Path(read(evaluate).path).is_dir()


@pytest.mark.parametrize("name", ["lr=0.1 {x}", "-x", "s3://bucket/a,b"])
def test_an_interrupted_run_says_how_to_go_on_in_a_folder_of_any_name(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_config: Any, reporter: Any) -> None:
        reporter.run_folder(RunFolder("copy", url=name))
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "gfs_dist.jobs.prune", SimpleNamespace(run=run))
    assert main(["prune"]) == 130
    _, command = capsys.readouterr().err.rstrip("\n").split("go on with: ")
    (word,) = shlex.split(command)[2:]
    (override,) = parse([word])
    assert (override.key_or_group, text(override)) == ("resume", name)


def test_a_run_folder_that_is_full_is_named_as_it_can_be_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "a=b c"
    folder.mkdir()
    (folder / "x").touch()
    with pytest.raises(RunFolderError, match=r"or continue it with ") as caught:
        RunFolder.create(folder, "")
    (word,) = shlex.split(str(caught.value).partition("continue it with ")[2])
    assert word == f'resume="{folder}"'


def test_commands_on_a_cluster_and_of_what_was_fetched_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = job("SUCCEEDED")
    words = words_for("http://a/x,y=1", insecure=True)
    jobs: Any = SimpleNamespace(cluster=SimpleNamespace(words=words))
    found = next_commands(jobs, ended)
    assert read(found[0]).runtime.address == "http://a/x,y=1"
    monkeypatch.setattr(fetch, "find_job", lambda config: (None, ended))
    monkeypatch.setattr(fetch, "fetch", lambda *_: 3)
    fetch.run(compose("fetch", ["id=a-1", 'into="-x=1"']), PlainReporter(sys.stdout))
    (command,) = printed(capsys.readouterr().out)
    assert read(command).path == "-x=1"
