"""What a run folder, a stored network or a configuration says is data: nothing in it is imported or
called, and no machine is asked, unless the command line names it too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gfs_dist
from gfs_dist import networks
from gfs_dist.cli import main
from gfs_dist.config.compose import compose, compose_file, compose_stored, to_yaml
from gfs_dist.errors import CheckpointError, ConfigError
from gfs_dist.files import checkpoint

CUSTOM = ["model=custom", "data=digits", "checkpoint=net.pt", "out=never"]
FACTORY = {"model": "custom", "factory": "helper:make", "kwargs": {"width": 8}}
HELPER = """
from pathlib import Path
from torch import nn

Path(__file__).with_name("ran").touch()


def make(width):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)
    )
"""
NAMED = ["model=custom", "model.factory=helper:make"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, somebody else's: ``helper.py`` leaves ``ran`` when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    (tmp_path / "helper.py").write_text(HELPER)
    layers = nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)
    tensors = nn.Sequential(*layers).state_dict()
    (tmp_path / "architecture.json").write_text(json.dumps({"format": 1, **FACTORY}))
    checkpoint.write_tensors(tmp_path / "model.safetensors", tensors)
    checkpoint.save(tmp_path / "step", tensors, {"iteration": 7, "architecture": FACTORY})
    checkpoint.write_tensors(tmp_path / "net.safetensors", tensors)
    return tmp_path


@pytest.fixture
def run(home: Path) -> Path:
    """A run folder whose network is made by ``helper.py``."""
    words = ["checkpoint=net.safetensors", *NAMED, "model.kwargs={width: 8}", "runtime=none"]
    (home / "run").mkdir()
    (home / "run" / "config.yaml").write_text(to_yaml(compose("prune", words)))
    return home / "run"


@pytest.mark.parametrize("place", [".", "step"])
@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "{}"],
        ["prune", "checkpoint={}", "runtime=none"],
        ["finetune", "{}", "train.iterations=1"],
    ],
)
def test_code_that_a_stored_network_names_is_imported_once_the_command_line_names_it_too(
    home: Path, words: list[str], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*(word.format(place) for word in words), "--dry-run"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said == (
        f"gfs: model: {place} is made by helper:make, which is imported only if the command line "
        "names it too: model=custom model.factory=helper:make\n"
    )
    assert "helper" not in sys.modules
    assert not (home / "ran").exists()
    assert main([*words, *NAMED]) == 0
    assert (home / "ran").exists()


def test_load_imports_code_that_its_caller_names(home: Path) -> None:
    said = r"its file names 'helper:make', .* only if you name it too: factory='helper:make'$"
    for other in (None, "helper:other", "helper"):
        with pytest.raises(CheckpointError, match=said):
            gfs_dist.load(home, factory=other)
    with pytest.raises(ConfigError, match=said):
        networks.load_tensors(FACTORY, checkpoint.read_tensors("net.safetensors"), "here")
    assert not (home / "ran").exists()
    assert gfs_dist.load(home, factory="helper:make")(torch.ones(1, 64)).shape == (1, 10)


@pytest.mark.parametrize(
    "words",
    [
        ["prune", "resume=run"],
        ["prune", "resume=run", "--cfg=job"],
        ["prune", "--config", "run/config.yaml"],
        ["cut", "run", "budget.macs=50%"],
    ],
)
def test_code_that_a_run_folder_names_is_imported_once_the_command_line_names_it_too(
    run: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    key = "factory" if words[0] == "cut" else "model.factory"
    place = "run/config.yaml" if "--config" in words else "run"
    assert main([*words, "--dry-run"]) == 2
    assert capsys.readouterr().err == (
        f"gfs: {key}: {place} names helper:make, which is imported only if the command line names "
        f"it too: gfs {' '.join(words[: 3 - ('--config' not in words)])} {key}=helper:make\n"
    )
    assert not (run.parent / "ran").exists()
    assert main([*words, "--dry-run", f"{key}=helper:other"]) == 2
    assert main([*words, "--dry-run", f"{key}=helper:make"]) == 0
    assert (run.parent / "ran").exists() == ("--cfg=job" not in words)


@pytest.mark.parametrize("command", ["pretrain", "prune", "evaluate"])
def test_a_dry_run_calls_no_function_of_pythons_own(
    home: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = {
        "pretrain": [],
        "prune": ["checkpoint=net.safetensors"],
        "evaluate": ["net.safetensors"],
    }
    words = ["model=custom", "model.factory=os:system", "model.kwargs={command: 'touch ran'}"]
    assert main([command, *place.get(command, []), *words, "--dry-run"]) == 2
    assert "os:system is built in or of Python's own library" in capsys.readouterr().err
    assert not (home / "ran").exists()


def test_arguments_of_a_factory_are_kept_when_a_run_is_resumed(run: Path) -> None:
    again = compose("prune", [f"resume={run}", "model.factory=helper:make"])
    assert again.model.kwargs == {"width": 8}
    assert compose_stored("prune", str(run), "helper:make").model == again.model
    assert compose_file("prune", run / "config.yaml", NAMED[1:]).model == again.model


@pytest.mark.parametrize("words", [["runtime=local"], ["runtime=ray"]])
def test_modules_of_the_current_folder_take_the_place_of_no_others(
    home: Path, words: list[str]
) -> None:
    (home / "safetensors.py").write_text(HELPER)
    small = ["model.width=20", "steps=2", "train.iterations=2", "workers=1", "out=run"]
    command = [sys.executable, "-m", "gfs_dist", "prune", *small, *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not (home / "ran").exists()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("out", "out: http://127.0.0.1:9/${oc.env:GFS_SECRET}"),
        ("out", 'out: "\\x24{oc.env:GFS_SECRET}"'),
        ("out", "out: ${oc.decode:${oc.env:GFS_SECRET}}"),
        ("out", r"out: \\${oc.env:GFS_SECRET}"),
        ("out", "out: ${oc.${model.name}:GFS_SECRET}"),
        ("seed", "seed: ${steps}"),
        ("model.kwargs.net.0.name", "model.kwargs.net.0.name: ${oc.env:GFS_SECRET}"),
    ],
)
@pytest.mark.parametrize(
    "words",
    [["prune", "resume=run"], ["prune", "--config=run/config.yaml"], ["cut", "run"]],
)
def test_nothing_is_looked_up_for_a_file(
    run: Path,
    words: list[str],
    key: str,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GFS_SECRET", "5ecr3t")
    asked: list[str] = []
    monkeypatch.setattr("gfs_dist.config.stored.Remote", lambda url, key: asked.append(url))
    config = (run / "config.yaml").read_text()
    if key.startswith("model"):
        changed = config.replace("width: 8", f"net: [{{name: '{text.partition(': ')[2]}'}}]")
    else:
        changed = re.sub(f"^{key}: .*$", lambda _: text, config, flags=re.MULTILINE)
    assert changed != config
    (run / "config.yaml").write_text(changed)
    assert main([*words, *(["budget.macs=50%"] if words[0] == "cut" else []), "--dry-run"]) == 2
    said = capsys.readouterr().err
    place = {"prune": words[1].partition("=")[0], "cut": "path"}[words[0]]
    assert said.startswith(f"gfs: {place}: run/config.yaml: {key}: found ")
    assert said.endswith("nothing is looked up for a file, least of all in the environment\n")
    assert said.count("\n") == 1
    assert "5ecr3t" not in said
    assert asked == []


@pytest.mark.parametrize("slashes", [1, 3])
def test_what_only_looks_like_an_interpolation_stays_a_text(
    slashes: int, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As gfs writes names of folders that hold it, however often it is read and written."""
    monkeypatch.setenv("GFS_SECRET", "5ecr3t")
    file = run / "config.yaml"
    written = "\\" * slashes + "${oc.env:GFS_SECRET}"
    file.write_text(
        re.sub("^out: .*$", lambda _: f"out: '{written}'", file.read_text(), flags=re.M)
    )
    for _ in range(2):
        config = compose("prune", ["resume=run", "model.factory=helper:make"])
        assert config.out == "\\" * (slashes // 2) + "${oc.env:GFS_SECRET}"
        file.write_text(to_yaml(config))


def test_a_file_chooses_among_our_options(run: Path, tmp_path: Path) -> None:
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("name: digits", f"name: {tmp_path}/options"))
    with pytest.raises(ConfigError, match="is not a configuration of gfs prune"):
        compose("prune", ["resume=run"])


def test_a_cluster_that_a_file_names_is_asked_once_the_command_line_names_it_too(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["model.width=20", "steps=2", "train.iterations=2", "workers=1"]
    (home / "run").mkdir()
    config = compose("prune", [*small, "runtime.address=127.0.0.1:9"])
    (home / "run" / "config.yaml").write_text(to_yaml(config))
    asked: list[str] = []

    def join(address: str) -> None:
        asked.append(address)
        raise ConfigError("asked")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("gfs_dist.config.paths.check_ray_address", join)
    monkeypatch.setattr("gfs_dist.runtime.backends.ray.join_cluster", join)
    monkeypatch.setattr("gfs_dist.service.http.get_json", join)
    for command, words in (
        ("gfs prune resume=run", ["prune", "resume=run"]),
        ("gfs prune resume=run", ["submit", "prune", "resume=run"]),
        ("gfs prune --config run/config.yaml", ["prune", "--config", "run/config.yaml"]),
    ):
        assert main(words) == 2
        place = "run/config.yaml" if "--config" in words else "run"
        assert capsys.readouterr().err == (
            f"gfs: runtime.address: {place} names 127.0.0.1:9, which is contacted only if the "
            f"command line names it too: {command} runtime.address=127.0.0.1:9\n"
        )
        assert asked == []
    assert main(["prune", "resume=run", "runtime.address=127.0.0.1:9"]) == 2
    assert asked == ["127.0.0.1:9"]
    assert compose("prune", ["resume=run", "runtime.address=null"]).runtime.address is None
    assert compose("prune", ["resume=run", "runtime=none"]).runtime.kind == "none"


def test_a_url_that_a_run_folder_was_written_to_is_not_asked(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url: asked.append(url))
    file = run / "config.yaml"
    file.write_text(re.sub("(?m)^out: .*$", "out: http://127.0.0.1:9/x", file.read_text()))
    assert main(["prune", "resume=run", NAMED[1], "--dry-run"]) == 0
    assert main(["cut", "run", "factory=helper:make", "budget.macs=50%", "--dry-run"]) == 0
    assert asked == []


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("budget.widths", ["model=resnet20_cifar", "checkpoint=net.safetensors"]),
        *(("partition", ["runtime=none"]), ("graph", ["runtime=none"])),
    ],
)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(
    home: Path, key: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(home / "pipe.json")
    assert main(["prune", *words, f"{key}=pipe.json", "--dry-run"]) == 2
    assert re.match(f"gfs: {key}: found '?pipe.json'?, accepted ", capsys.readouterr().err)


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
    with pytest.raises(ConfigError, match=r"data._target_: unknown key of gfs"):
        compose("prune", ["data=mine"], tmp_path)


def test_a_configuration_that_unfolds_without_end_is_refused_at_once(run: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(9)]
    for text in ("\n".join(lines), "a: " + "[" * 2**19):
        (run / "config.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"config.yaml cannot be read: .*it has aliases, or"):
            compose("prune", ["resume=run"])
    (run / "config.yaml").write_text("#" * 2**21)
    with pytest.raises(ConfigError, match=r"accepted is a file of at most 1,048,576 bytes"):
        compose("prune", ["resume=run"])
