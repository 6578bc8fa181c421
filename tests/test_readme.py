"""What README.md shows can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from gfs_dist.cli.arguments import COMMANDS, read_arguments
from gfs_dist.config.compose import compose, sweep
from gfs_dist.files import RunFolder, checkpoint
from gfs_dist.workflows.submission import read_batch

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SHELL = [
    line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()
]
GFS = [line.split("#")[0].strip() for line in SHELL if line.startswith("gfs ")]
CODE = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("line", GFS)
def test_command_lines_compose(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = read_arguments(shlex.split(line)[1:])
    for word in found.words:
        if word.startswith("checkpoint="):  # it says which network it holds, so it has to be there
            folder = RunFolder(word.removeprefix("checkpoint=")).checkpoint(800)
            folder.parent.mkdir(parents=True)
            checkpoint.save(folder, {"output.weight": torch.zeros(1)}, {"iteration": 800})
    assert found.command is not None
    if not found.help and not any(word.startswith("resume=") for word in found.words):
        if found.command == "submit":
            read_batch(found.words, multirun=found.multirun)
        else:
            (sweep if found.multirun else compose)(found.command, found.words)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    shown = {line.split()[1] for line in SHELL if line.startswith("make ")}
    assert {"demo", "test"} <= shown <= targets


def test_every_command_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `gfs (\w+)", README, re.M)) == set(COMMANDS)


def test_ten_lines_of_python_run() -> None:
    assert CODE
    for block in CODE:
        assert len(block.splitlines()) <= 12
        exec(compile(block, "README.md", "exec"), {})


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_contributing_names_what_exists() -> None:
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]*)`", CONTRIBUTING))
    for place in sorted(name for name in named if not re.search("[A-Z]{3}", name)):
        assert (
            (ROOT / place).exists()
            or (ROOT / "gfs_dist" / place).is_dir()
            or any((ROOT / "gfs_dist").glob(f"*/{place}"))
        ), place
    for names, place in re.findall(
        r"`([A-Z_]+|make_objective|open_runtime)` (?:of|in|\() ?`([\w./]+\.py)`", CONTRIBUTING
    ):
        assert names in (ROOT / place).read_text(encoding="utf-8"), (names, place)


def test_the_vocabulary_is_short() -> None:
    table = CONTRIBUTING.partition("| term | meaning |")[2].partition("\n\n")[0]
    assert 20 <= len(table.strip().splitlines()) - 1 <= 40
