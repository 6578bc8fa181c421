"""A file of a finished run is deleted, cut short or changed: every command is right, or says so."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gfs_dist.cli import main
from gfs_dist.files.mirror import kept_files
from gfs_dist.report import plots
from gfs_dist.workflows.prune_deep import DeepPruning
from tests.jobs.deep_runs import ALONE, FACTORY, MADE_BY, OWN, forget_checksums, report

TUNING = ["train.iterations=6", "train.checkpoint_every=5", "train.batch=32", "threads=1"]
DATA = ["data.samples=200"]
SMALL = ["data.samples=60", "model.width=12", "train.iterations=4", "train.checkpoint_every=2"]
RUN = Path("run")
"""Where a copy of a run is damaged."""


def delete(file: Path) -> None:
    file.unlink()


def truncate(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@dataclass(frozen=True)
class Kind:
    """A kind of run: the words that make it, and commands that use it, by name."""

    made: list[list[str]]
    uses: dict[str, list[str]] = field(default_factory=dict)


MODEL = "run/models/step_00000025"
KINDS = {
    "deep": Kind(
        [["prune", "out=run", *ALONE], ["cut", "run", MADE_BY, "budget.macs=35%", "name=small"]],
        {
            "resume": ["prune", "resume=run", FACTORY],
            "cut": ["cut", "run", MADE_BY, "budget.macs=30%", "name=another"],
            "report": ["report", "run"],
            "evaluate": ["evaluate", MODEL, *DATA],
            "finetune": ["finetune", MODEL, *DATA, "out=tuned", *TUNING],
        },
    ),
    "tuned on": Kind(
        [["prune", "out=run", *ALONE, "repair.finetune=true", *TUNING]],
        {
            "resume": ["prune", "resume=run", FACTORY],
            "evaluate": ["evaluate", MODEL, *DATA],
        },
    ),
    "two layers": Kind(
        [["prune", "out=run", *SMALL, "steps=5", "runtime=none"]],
        {
            "resume": ["prune", "resume=run"],
            "report": ["report", "run"],
            "evaluate": ["evaluate", "run/models/step_00000004", "data.samples=60"],
        },
    ),
    "trained": Kind(
        [["pretrain", "out=run", *SMALL]],
        {
            "resume": ["pretrain", "resume=run"],
            "report": ["report", "run"],
            "evaluate": ["evaluate", "run/checkpoints/step_00000002", "data.samples=60"],
            "prune": ["prune", "checkpoint=run", *SMALL[:1], "steps=3", "runtime=none", "out=cut"],
        },
    ),
    "finetune": Kind(
        [["finetune", "dense/checkpoints/step_00000025", *OWN, "out=run", *DATA, *TUNING]],
        {
            "resume": ["finetune", "resume=run", FACTORY],
            "report": ["report", "run"],
            "evaluate": ["evaluate", MODEL, *DATA],
        },
    ),
}


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(home)
    monkeypatch.setattr(plots, "draw", lambda *_: {})  # a second each
    yield
    shutil.rmtree(RUN, ignore_errors=True)


def copy_of(name: str) -> None:
    """A run of a kind, which is made once."""
    for folder in (RUN, "tuned", "cut"):
        shutil.rmtree(folder, ignore_errors=True)
    if not Path(name).exists():
        for words in KINDS[name].made:
            assert main(words) == 0
        RUN.rename(name)
    shutil.copytree(name, RUN)


def found_by(words: list[str], capsys: Any) -> tuple[int, Any]:
    """Exit code, and what the command found; or the line it said."""
    capsys.readouterr()
    code = main([*words, "--json"])
    told = capsys.readouterr()
    if code:
        return code, told.err.splitlines()[-1]
    results = [without_times(row) for row in json.loads(told.out.splitlines()[-1])["results"]]
    bits = {
        file: hashlib.sha256((RUN / file).read_bytes()).hexdigest()
        for file in kept_files(RUN)
        if file.endswith(".safetensors") and "resume=run" in words
    }
    page = (RUN / "report.md").read_text() if words[0] == "report" else ""
    return code, (results, bits, page)


def without_times(row: Any) -> Any:
    if isinstance(row, dict):
        return {key: without_times(value) for key, value in row.items() if key != "latency"}
    if isinstance(row, list):
        return [without_times(item) for item in row]
    return row


def check(name: str, damages: Sequence[Callable[[Path], None]], capsys: Any) -> None:
    """Each command on each damaged file: what it finds undamaged, or one line that names it."""
    wrong = []
    for words in KINDS[name].uses.values():
        copy_of(name)
        code, expected = found_by(words, capsys)
        assert code == 0, expected
        for file, damage in zip(kept_files(Path(name)), itertools.cycle(damages), strict=False):
            copy_of(name)
            damage(RUN / file)
            code, found = found_by(words, capsys)
            if code == 2 and Path(file).name in found:
                continue
            right = expected
            if code == 0 and file == "report.json":  # only it knows what was cut besides
                names = [row["name"] for row in found[0]]
                right = ([row for row in expected[0] if row["name"] in names], *expected[1:])
            if found != right:
                wrong.append((words[0], file, code, found))
    assert wrong == []


@pytest.mark.parametrize("name", ["deep", "two layers"])
def test_a_damaged_file_is_named_or_made_again(name: str, capsys: Any) -> None:
    check(name, [delete, truncate, flip], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("damage", [delete, truncate, flip])
def test_every_file_and_every_damage(
    name: str, damage: Callable[[Path], None], capsys: Any
) -> None:
    check(name, [damage], capsys)


@pytest.mark.parametrize("name", ["tuned on", "two layers", "trained"])
def test_the_report_knows_all_that_is_computed_from(name: str) -> None:
    copy_of(name)
    kept = {"paths", "sizing", "models", "checkpoints", "finetune", "config.yaml"}
    expected = {
        file: hashlib.sha256((RUN / file).read_bytes()).hexdigest()
        for file in kept_files(RUN)
        if file.partition("/")[0] in kept
    }
    assert report(RUN)["files"] == expected
    kinds = {"trained": 2, "two layers": 4, "tuned on": 5}
    assert len({file.partition("/")[0] for file in expected}) == kinds[name]


def test_a_report_that_says_something_else_is_refused(capsys: Any) -> None:
    copy_of("deep")
    found = report(RUN)
    found["results"][0]["accuracy"] = 1.0
    (RUN / "report.json").write_text(json.dumps(found))
    for words in KINDS["deep"].uses.values():
        code, said = found_by(words, capsys)
        assert code == 2
        assert "run/report.json: it is not what it was" in said
    (RUN / "report.json").unlink()
    assert main(["prune", "resume=run", FACTORY]) == 0
    assert report(RUN)["results"][0]["accuracy"] == report("deep")["results"][0]["accuracy"]


def test_a_file_list_leads_nowhere_else(capsys: Any) -> None:
    copy_of("two layers")
    found = report(RUN)
    del found["sha256"]
    for files, words in (
        ({"../secret": "0"}, "'../secret' leads out of the run folder"),
        ({"models/\0": "0"}, "leads out of the run folder"),
        ({f"models/{'x' * 300}": "0"}, "cannot be read: File name too long"),
        ({"models": "0"}, "run/models: found a folder, accepted a regular file"),
        (["models"], "run/report.json: files: found no SHA-256 by name"),
    ):
        (RUN / "report.json").write_text(json.dumps({**found, "files": files}))
        assert main(["report", "run"]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["deep", "two layers"])
def test_a_run_of_an_earlier_version_goes_on(name: str, capsys: Any) -> None:
    copy_of(name)
    forget_checksums(RUN)
    for words in KINDS[name].uses.values():
        assert found_by(words, capsys)[0] == 0
    assert report(RUN)["files"] == report(name)["files"] | {
        file: digest for file, digest in report(RUN)["files"].items() if "another" in file
    }


@pytest.mark.parametrize("name", ["deep", "two layers"])
def test_a_path_that_is_another_is_searched_again_once_it_is_removed(
    name: str, capsys: Any
) -> None:
    copy_of(name)
    [file] = sorted((RUN / "paths").rglob("*.json"))[-1:]
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "picks": content["picks"][::-1]}))
    resume = KINDS[name].uses["resume"]
    code, said = found_by(resume, capsys)
    assert code == 2
    assert f"{file} is not what it was" in said
    for words in (resume, KINDS[name].uses["report"]):
        again = "remove it and have it searched again: gfs prune resume=run"
        assert found_by(words, capsys)[1].endswith(f"bring it back, or {again}")
    file.unlink()
    assert main(resume) == 0
    assert f"{file} is gone: it is made again" in capsys.readouterr().out
    assert json.loads(file.read_text()) == content


def test_checkpoints_that_a_user_has_removed_are_not_pruned(capsys: Any) -> None:
    copy_of("trained")
    shutil.rmtree(RUN / "checkpoints/step_00000002")
    code, found = found_by(KINDS["trained"].uses["prune"], capsys)
    assert code == 0
    assert [row["iteration"] for row in found[0]] == [0, 4]
    code, said = found_by(["pretrain", "resume=run"], capsys)
    assert code == 2
    assert "run/checkpoints/step_00000002/model.safetensors is gone; bring it back" in said


def test_what_was_cut_is_cut_again_by_its_name(capsys: Any) -> None:
    copy_of("deep")
    (RUN / "models/small/model.safetensors").unlink()
    again = "gfs cut run name=small with its budget, 35% of the multiply-adds"
    for words in (["prune", "resume=run", FACTORY], ["report", "run"]):
        code, said = found_by(words, capsys)
        assert code == 2
        assert said.endswith(f"bring it back, or make it again: {again}")
    assert main(["cut", "run", MADE_BY, "name=small", "budget.macs=35%"]) == 0
    assert without_times(report(RUN)["results"]) == without_times(report("deep")["results"])
    assert main(["prune", "resume=run", FACTORY]) == 0


def test_a_run_that_mends_and_is_broken_off_mends_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_of("deep")
    shutil.rmtree(RUN / "models/step_00000025")
    with monkeypatch.context() as patch:
        patch.setattr(DeepPruning, "cut", interrupted)
        assert main(["prune", "resume=run", FACTORY]) == 130
    assert [row["name"] for row in report(RUN)["results"]] == ["small"]
    assert main(["prune", "resume=run", FACTORY]) == 0
    found = {row["name"]: without_times(row) for row in report(RUN)["results"]}
    assert found == {row["name"]: without_times(row) for row in report("deep")["results"]}


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt
