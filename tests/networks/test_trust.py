from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path

import pytest
import torch

from gfs_dist import networks
from gfs_dist.errors import CheckpointError, ConfigError
from gfs_dist.files import checkpoint
from gfs_dist.networks.trust import refuse_borrowed, refuse_foreign
from tests.networks import nets


@pytest.mark.parametrize(
    "factory",
    [
        *("os:system", "subprocess:run", "builtins:exec", "posix:system"),
        *("yaml:unsafe_load", "torch.hub:load", "pip:main", "gfs_dist.files.atomic:write_text"),
    ],
)
def test_what_is_installed_is_not_called(factory: str) -> None:
    with pytest.raises(ConfigError, match=f"{factory} is named by a file and not your own code"):
        refuse_foreign(factory)


def test_own_code_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_foreign("tests.networks.nets:mlp")
    refuse_foreign("no_such_module_anywhere:make")
    (tmp_path / "beside.py").write_text("")
    monkeypatch.chdir(tmp_path)
    refuse_foreign("beside:make")
    assert "beside" not in sys.modules


def test_a_function_that_own_code_only_imports_is_not_called() -> None:
    refuse_borrowed("nets:mlp", nets.mlp)
    refuse_borrowed("nets:OneWay", functools.partial(nets.OneWay, hidden=3))
    for function in (os.system, torch.tensor, functools.partial(os.system, "true")):
        with pytest.raises(ConfigError, match="nets:mlp.*not your own code"):
            refuse_borrowed("nets:mlp", function)


@pytest.mark.parametrize(
    ("factory", "kwargs"),
    [
        ("os:system", {"command": "touch {place}"}),
        ("pathlib:Path.touch", {"self": "{place}"}),
        ("yaml:unsafe_load", {"stream": "!!python/object/apply:os.system ['touch {place}']"}),
        ("borrowing:system", {"command": "touch {place}"}),
    ],
)
def test_a_hostile_factory_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str, kwargs: dict[str, str]
) -> None:
    (tmp_path / "borrowing.py").write_text("from os import system\n")
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "it-ran"
    kwargs = {key: value.format(place=place) for key, value in kwargs.items()}
    facts = {"format": 1, "model": "custom", "factory": factory, "kwargs": kwargs}
    (tmp_path / "architecture.json").write_text(json.dumps(facts))
    checkpoint.write_tensors(tmp_path / "model.safetensors", {"x": torch.ones(1)})
    with pytest.raises(CheckpointError, match="not your own code .* say so: factory='"):
        networks.load(tmp_path)
    assert not place.exists()


def test_a_factory_that_the_caller_names_is_called(tmp_path: Path) -> None:
    facts = {"format": 1, "model": "custom", "factory": "torch.nn:Linear"}
    facts["kwargs"] = {"in_features": 2, "out_features": 3}
    (tmp_path / "architecture.json").write_text(json.dumps(facts))
    weights = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    checkpoint.write_tensors(tmp_path / "model.safetensors", weights)
    with pytest.raises(CheckpointError, match="torch is installed"):
        networks.load(tmp_path)
    assert networks.load(tmp_path, factory="torch.nn:Linear")(torch.ones(2)).tolist() == [2, 2, 2]
