"""What travels with a job: its configuration, the user's code, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfs_dist.errors import InputError
from gfs_dist.service.staging import CONFIG, stage


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    folder = tmp_path / "staged"
    folder.mkdir()
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x = 1\n")


def test_a_job_without_own_code_takes_its_configuration_alone(staged: Path, here: Path) -> None:
    write(here, "mine.py")
    assert stage(staged, "a: 1\n", None) == []
    assert [file.name for file in staged.iterdir()] == [CONFIG]
    assert (staged / CONFIG).read_text() == "a: 1\n"


def test_a_module_takes_the_python_files_beside_it(staged: Path, here: Path) -> None:
    write(here, "mine_a.py", "helper.py", "sub/more.py", "data.bin", "notes.txt")
    write(here, ".git/x.py", "env/pyvenv.cfg", "env/y.py", "runs/1/report.json", "runs/1/z.py")
    assert stage(staged, "", "mine_a:make") == ["helper.py", "mine_a.py", "sub/more.py"]
    assert (staged / "sub" / "more.py").read_text() == "x = 1\n"


def test_a_package_goes_whole_but_for_weights(staged: Path, here: Path) -> None:
    write(here, "nets_b/__init__.py", "nets_b/net.py", "nets_b/sizes.json", "nets_b/w.safetensors")
    write(here, "other.py", "sizes.json", "nets_b/__pycache__/net.pyc")
    assert stage(staged, "", "nets_b.net:make") == [
        "other.py", "nets_b/__init__.py", "nets_b/net.py", "nets_b/sizes.json",
    ]  # fmt: skip


def test_what_is_installed_stays(staged: Path, here: Path) -> None:
    write(here, "mine.py")
    assert stage(staged, "", "torch.nn:Linear") == []
    assert stage(staged, "", "json.decoder:JSONDecoder") == []


def test_a_module_that_is_nowhere_is_refused(staged: Path, here: Path) -> None:
    with pytest.raises(InputError, match="model.factory: found no module 'nowhere'"):
        stage(staged, "", "nowhere.at_all:make")
