"""``track=``: numbers go to TensorBoard or MLflow; stand-ins take the places of both."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from gfs_dist.cli import main
from gfs_dist.config.compose import compose, to_yaml

TINY = [
    "prune", "model.width=20", "data.samples=100", "steps=5", "train.iterations=5",
    "train.checkpoint_every=5", "runtime=none", "out=run",
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


class Told:
    """What a writer was told."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.values: list[tuple[str, float, int]] = []
        self.closed: list[Any] = []

    @property
    def last(self) -> dict[str, tuple[float, int]]:
        return {name: (value, step) for name, value, step in self.values}


@pytest.fixture
def tensorboard(here: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            told.made.append(folder)

        def add_text(self, name: str, text: str) -> None:
            told.made.append(text)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.values.append((name, value, step))

        def close(self) -> None:
            told.closed.append(True)

    (here / "tensorboard.py").touch()
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return told


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    module: Any = types.ModuleType("mlflow")
    module.__spec__ = types.SimpleNamespace()
    module.set_tracking_uri = module.set_experiment = told.made.append
    module.start_run = lambda run_name: told.made.append(run_name)
    module.log_params = told.made.append
    module.log_metrics = lambda values, step: told.values.extend(
        (name, value, step) for name, value in values.items()
    )
    module.end_run = told.closed.append
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return told


def test_losses_and_results_go_to_tensorboard(tensorboard: Told) -> None:
    assert main([*TINY, "track=tensorboard"]) == 0
    folder, text = tensorboard.made
    assert folder == "run/tensorboard"
    assert "model.width: 20" in text
    assert tensorboard.last["train/loss"][1] == 5
    loss, step = tensorboard.last["prune step_00000005/loss"]
    assert step == 5
    assert tensorboard.last["pruned/loss"] == (pytest.approx(loss), 1)  # the table's second row
    assert tensorboard.closed == [True]


def test_losses_and_results_go_to_mlflow(mlflow: Told, here: Path) -> None:
    assert main([*TINY, "track=mlflow"]) == 0
    uri, experiment, name, values = mlflow.made
    assert (experiment, name) == ("gfs-dist", "run")
    assert uri == f"sqlite:///{here / 'run' / 'mlflow.db'}"
    assert values["model.width"] == "20"
    assert mlflow.last["prune step_00000005/kept"][1] == 5
    assert mlflow.closed == ["FINISHED"]


def test_a_server_that_the_user_names_is_used(
    mlflow: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert main([*TINY, "track=mlflow"]) == 0
    assert mlflow.made[0] == "gfs-dist"


def test_a_job_that_fails_is_told_so(mlflow: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gfs_dist.workflows.prune_two_layer.measure_two_layer", lambda *_: 1 / 0)
    assert main([*TINY, "track=mlflow"]) == 1
    assert mlflow.closed == ["FAILED"]


def test_a_writer_that_fails_ends_no_work(
    mlflow: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(values: dict[str, float], step: int) -> None:
        raise ConnectionError("no server\nat all")

    monkeypatch.setattr(sys.modules["mlflow"], "log_metrics", refuse)
    assert main([*TINY, "track=mlflow"]) == 0
    said = capsys.readouterr().out
    assert said.count("track: mlflow takes no more numbers: no server\n") == 1


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_without_the_package_nothing_is_begun(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gfs_dist.workflows.tracking.util.find_spec", lambda _: None)
    assert main([*TINY, f"track={name}"]) == 2
    assert f"track: found {name}, not installed here; pip install {name}" in capsys.readouterr().err
    assert not (here / "run").exists()
    assert main([*TINY, f"track={name}", "--dry-run"]) == 0  # another machine may do the work
    assert main([*TINY, "track=wandb"]) == 2
    assert "accepted tensorboard, mlflow" in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_told_before_work_begins(
    mlflow: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["mlflow"], "set_experiment", lambda _: [].pop())
    assert main([*TINY, "track=mlflow"]) == 1
    said = capsys.readouterr()
    assert "gfs: track: mlflow cannot be used: pop from empty list" in said.err
    assert "train: step" not in said.out


def test_nothing_is_imported_unless_asked(tensorboard: Told, mlflow: Told) -> None:
    assert main(TINY) == 0
    assert (tensorboard.made, mlflow.made) == ([], [])


def test_at_a_url_what_a_writer_writes_last_arrives_too(
    here: Path, tensorboard: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "state"))
    close = sys.modules["torch.utils.tensorboard"].SummaryWriter.close

    def close_late(self: Any) -> None:
        close(self)
        Path(tensorboard.made[0]).mkdir()
        Path(tensorboard.made[0], "last").touch()

    monkeypatch.setattr(sys.modules["torch.utils.tensorboard"].SummaryWriter, "close", close_late)
    assert main([*TINY[:-1], f"out=file://{here}/there", "track=tensorboard"]) == 0
    assert (here / "there" / "tensorboard" / "last").exists()
    assert tensorboard.closed == [True]
    assert any(name.startswith("pruned/") for name in tensorboard.last)


def test_a_run_folder_from_before_there_was_track_goes_on(here: Path) -> None:
    text = to_yaml(compose("prune", ["out=old"]))
    (here / "old").mkdir()
    (here / "old" / "config.yaml").write_text(text.replace("track: null\n", ""))
    assert "track" not in (here / "old" / "config.yaml").read_text()
    assert compose("prune", ["resume=old"]).track is None
