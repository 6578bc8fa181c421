"""What a run folder or a configuration says is data: nothing in it is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfs_dist.cli import main
from gfs_dist.errors import ConfigError
from gfs_dist.jobs.compose import compose, compose_stored, to_yaml

CUSTOM = ["model=custom", "data=digits", "checkpoint=net.pt", "out=never"]


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder whose network would be made by a shell command; ``ran`` is what that leaves."""
    monkeypatch.chdir(tmp_path)
    words = ["model.factory=os:system", f"model.kwargs={{command: 'touch {tmp_path}/ran'}}"]
    config = compose("prune", [*CUSTOM, *words])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(config))
    return tmp_path / "run"


@pytest.mark.parametrize(
    "words",
    [
        ["prune", "resume=run"],
        ["prune", "resume=run", "--cfg=job"],
        ["cut", "run", "budget.macs=50%"],
    ],
)
def test_a_run_folder_of_somebody_else_runs_nothing(
    hostile: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "os:system is named by a file and not your own code" in said
    assert f"(here as {'' if words[0] == 'cut' else 'model.'}factory=os:system)" in said
    assert not (hostile.parent / "ran").exists()


def test_arguments_of_a_factory_are_kept_when_a_run_is_resumed(hostile: Path) -> None:
    again = compose("prune", ["resume=run", "model.factory=os:system"])
    assert again.model.kwargs == {"command": f"touch {hostile.parent}/ran"}


def test_what_a_user_names_again_may_be_called(hostile: Path) -> None:
    again = compose("prune", ["resume=run", "model.factory=os:system"])
    assert again.model.factory == "os:system"
    assert compose_stored("prune", "run", "os:system").model == again.model
    with pytest.raises(ConfigError, match=r"path: model.factory: os:system is named by a file"):
        compose_stored("prune", "run", "os:popen")


def test_a_function_that_own_code_only_borrows_is_not_called(hostile: Path) -> None:
    (hostile.parent / "lending.py").write_text("from os import system\n")
    file = hostile / "config.yaml"
    file.write_text(file.read_text().replace("os:system", "lending:system"))
    with pytest.raises(ConfigError, match=r"resume: model.factory: lending:system is named by"):
        compose("prune", ["resume=run"])


def test_a_target_is_a_word_like_any_other(tmp_path: Path) -> None:
    inner = f"{{_target_: os.system, command: 'touch {tmp_path}/ran'}}"
    words = ["model.factory=builtins:dict", f"model.kwargs={{net: {inner}}}"]
    config = compose("prune", [*CUSTOM, *words])
    assert config.model.kwargs["net"]["_target_"] == "os.system"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("word", ["+_target_=os.system", "+model._target_=os.system"])
def test_a_target_is_no_key(word: str) -> None:
    with pytest.raises(ConfigError, match=r"_target_: unknown key of gfs prune"):
        compose("prune", [word])


def test_a_target_in_a_file_of_the_users_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("name: digits\n_target_: os.system\n")
    with pytest.raises(ConfigError, match=r"data._target_: Key '_target_' not in"):
        compose("prune", ["data=mine"], tmp_path)


def test_a_configuration_that_unfolds_without_end_is_refused_at_once(hostile: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(9)]
    for text in ("\n".join(lines), "a: " + "[" * 2**19):
        (hostile / "config.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"config.yaml cannot be read: .*it has aliases, or"):
            compose("prune", ["resume=run"])
    (hostile / "config.yaml").write_text("#" * 2**21)
    with pytest.raises(ConfigError, match=r"accepted is a file of at most 1,048,576 bytes"):
        compose("prune", ["resume=run"])
