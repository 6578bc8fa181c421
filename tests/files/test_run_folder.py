from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gfs_dist.errors import RunFolderError, StorageError
from gfs_dist.files import RunFolder, atomic


def test_create_writes_the_configuration_and_locks(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "runs" / "a", "seed: 0\n") as folder:
        assert folder.config.read_text() == "seed: 0\n"
        with pytest.raises(RunFolderError, match=r"in use by process \d+ on"):
            RunFolder.resume(folder.path)
    RunFolder.resume(folder.path).close()
    assert sorted(item.name for item in folder.path.iterdir()) == ["config.yaml"]


def test_an_existing_folder_is_refused_unless_empty(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "").close()
    with pytest.raises(RunFolderError, match=r"exists and is not empty \(config.yaml\).*resume="):
        RunFolder.create(tmp_path, "")
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="exists and is no folder"):
        RunFolder.create(tmp_path / "file", "")


def test_what_a_run_that_died_at_once_left_is_no_content(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / f"{atomic.PREFIX}config.yaml-1-2").touch()
    with RunFolder.create(tmp_path, "steps: 3\n") as folder:
        assert folder.config.read_text() == "steps: 3\n"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/run: cannot be written: Not a directory"):
        RunFolder.create(tmp_path / "file" / "run", "")


def test_resume_wants_a_run_folder_and_tidies_it(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is no run folder"):
        RunFolder.resume(tmp_path)
    with RunFolder.create(tmp_path, "") as folder:
        folder.append_event({"event": "step"})
    (tmp_path / f"{atomic.PREFIX}report.json-1-2").touch()
    with folder.events.open("a") as file:
        file.write('{"event": "st')
    with RunFolder.resume(tmp_path) as folder:
        folder.append_event({"event": "finished"})
    rows = [json.loads(line) for line in folder.events.read_text().splitlines()]
    assert rows == [{"event": "step"}, {"event": "finished"}]
    assert not list(tmp_path.glob(f"{atomic.PREFIX}*"))


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    program = (
        "import os, sys; from gfs_dist.files import RunFolder\n"
        "RunFolder.create(sys.argv[1], ''); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "run")])
    assert done.returncode == -9
    assert (tmp_path / "run" / ".lock").exists()
    RunFolder.resume(tmp_path / "run").close()


def test_paths_are_those_of_the_interface(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "") as folder:
        places = {
            "report.json": folder.report,
            "events.jsonl": folder.events,
            "paths/a.json": folder.path_file("a"),
            "paths/a/layer1.0.conv1.json": folder.path_file("a/layer1.0.conv1"),
            "models/a": folder.model("a"),
            "checkpoints/step_00001000": folder.checkpoint(1000),
            "plots": folder.plots,
            "logs": folder.logs,
        }
    assert {folder.relative(path): path for path in places.values()} == places
    assert all(path.parent.is_dir() for path in places.values())


@pytest.mark.parametrize("name", ["", "..", "a/../../b", "/a", "a\0", "a b", ".hidden", "x" * 300])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    folder = RunFolder(tmp_path)
    for place in (folder.path_file, folder.model):
        with pytest.raises(RunFolderError, match="cannot name a file"):
            place(name)
        assert place(folder.name_of(name)).parent.parent == tmp_path


@pytest.mark.parametrize("name", ["a", "step_00000025", "_x.y=1+2-3", "x" * 200])
def test_a_name_that_a_result_can_have_stays_as_it_is(tmp_path: Path, name: str) -> None:
    assert RunFolder.name_of(name) == name
    assert RunFolder(tmp_path).model(name).name == name


@pytest.mark.parametrize("relative", ["../x", "/etc/passwd", "models/../../x"])
def test_a_report_cannot_point_out_of_the_run_folder(tmp_path: Path, relative: str) -> None:
    with pytest.raises(RunFolderError, match="leads out of the run folder"):
        RunFolder(tmp_path).inside(relative)
    assert RunFolder(tmp_path).inside("models/a") == tmp_path / "models" / "a"


def test_checkpoints_are_listed_in_order(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "") as folder:
        for iteration in (2000, 0, 10**9):
            folder.checkpoint(iteration).mkdir()
        (tmp_path / "checkpoints" / f"{atomic.PREFIX}step_00000500-1-2").mkdir()
        assert [iteration for iteration, _ in folder.checkpoints()] == [0, 2000, 10**9]


def test_a_reader_makes_no_folders(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).plots == tmp_path / "plots"
    assert RunFolder(tmp_path).checkpoints() == []
    assert list(tmp_path.iterdir()) == []


def test_names_of_layers_may_begin_with_an_escaped_letter(tmp_path: Path) -> None:
    file = RunFolder(tmp_path).path_file("step_00000000/=C3=A4")
    assert file == tmp_path / "paths" / "step_00000000" / "=C3=A4.json"
