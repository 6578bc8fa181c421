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
from tests.jobs.deep_runs import ALONE, make_home
from tests.jobs.tiny import forget_checksums

TUNING = ["train.iterations=6", "train.checkpoint_every=5", "train.batch=32", "threads=1"]
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
        [["prune", "out=run", *ALONE], ["cut", "run", "budget.macs=35%", "name=small"]],
        {
            "resume": ["prune", "resume=run"],
            "cut": ["cut", "run", "budget.macs=30%", "name=another"],
            "report": ["report", "run"],
            "evaluate": ["evaluate", MODEL, "data.samples=200"],
            "finetune": ["finetune", MODEL, "data.samples=200", "out=tuned", *TUNING],
        },
    ),
    "tuned on": Kind(
        [["prune", "out=run", *ALONE, "repair.finetune=true", *TUNING]],
        {"resume": ["prune", "resume=run"], "evaluate": ["evaluate", MODEL, "data.samples=200"]},
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
        [["finetune", "dense/checkpoints/step_00000025", "out=run", "data.samples=200", *TUNING]],
        {
            "resume": ["finetune", "resume=run"],
            "report": ["report", "run"],
            "evaluate": ["evaluate", MODEL, "data.samples=200"],
        },
    ),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder."""
    folder = tmp_path_factory.mktemp("home")
    make_home(folder)
    return folder


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
            refused = code == 2 and Path(file).name in found
            if not refused and found != expected:
                wrong.append((words[0], file, code, found))
    assert wrong == []


@pytest.mark.parametrize("name", ["deep", "two layers"])
def test_a_damaged_file_is_named_or_made_again(name: str, capsys: Any) -> None:
    check(name, [delete, truncate, flip], capsys)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("damage", [delete, truncate, flip])
def test_every_file_and_every_damage(
    name: str, damage: Callable[[Path], None], capsys: Any
) -> None:
    check(name, [damage], capsys)
