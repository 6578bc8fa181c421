from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from gfs_dist import networks
from gfs_dist.errors import ConfigError

SOURCE = """
import functools
import os
import sys
from os import system
from shutil import rmtree
from torch import nn
import torch

def make(width=3, bias=True):
    return nn.Linear(2, width, bias)

def fail(**kwargs):
    raise RuntimeError("no weights here\\nsecond line")

def leave():
    sys.exit(2)

def late():
    from nets_helper import WIDTH
    return nn.Linear(2, WIDTH)

def state():
    return {"weight": torch.zeros(2)}

def two():
    return nn.Linear(2, 2), nn.Linear(2, 2)

def lazy():
    return nn.Sequential(nn.LazyLinear(3))

def a_class():
    return nn.Linear

Net = nn.Linear
number = 3
shell = functools.partial(functools.partial(os.system), "touch ran")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder holds the module ``nets`` and the package ``nest.deep``."""
    (tmp_path / "nets.py").write_text(SOURCE)
    (tmp_path / "nets_helper.py").write_text("WIDTH = 9\n")
    (tmp_path / "nest").mkdir()
    (tmp_path / "nest" / "deep.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "invalid.py").write_text("def make(:\n")
    (tmp_path / "script.py").write_text("raise SystemExit(2)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.mark.parametrize("factory", ["nets:make", "nest.deep:make"])
def test_modules_of_the_current_folder_make_networks(factory: str) -> None:
    path = list(sys.path)
    network = networks.make_custom(factory, {"width": 5, "bias": False})
    assert isinstance(network, nn.Linear)
    assert (network.out_features, network.bias) == (5, None)
    assert sys.path == path


def test_the_factory_may_import_while_it_runs() -> None:
    network = networks.make_custom("nets:late", {})
    assert isinstance(network, nn.Linear)
    assert network.out_features == 9


def test_a_class_with_arguments_is_a_factory() -> None:
    network = networks.make_custom("torch.nn:Linear", {"in_features": 2, "out_features": 3})
    assert isinstance(network, nn.Linear)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nets", "found 'nets', accepted package.module:function"),
        ("nets:", "found 'nets:', accepted package.module:function"),
        (":make", "found ':make', accepted package.module:function"),
        ("", "found '', accepted package.module:function"),
        ("gone:make", "importing gone raised ModuleNotFoundError: No module named 'gone'"),
        (".nets:make", r"importing .nets raised TypeError: "),
        ("broken:make", "importing broken raised .*: No module named 'no_such_library'"),
        ("invalid:make", "importing invalid raised SyntaxError: "),
        ("script:make", "importing script raised SystemExit: 2"),
        ("nets:absent", "found no absent in .*nets.py"),
        ("nets:number", "nets:number is int, accepted a function"),
        ("nets:fail", "nets:fail raised RuntimeError: no weights here$"),
        ("nets:leave", "nets:leave raised SystemExit: 2"),
        ("nets:state", "nets:state returned dict, accepted a torch.nn.Module"),
        ("nets:two", "nets:two returned tuple, accepted a torch.nn.Module"),
        ("nets:a_class", "nets:a_class returned the class Linear, accepted a torch.nn.Module"),
        ("nets:lazy", "nets:lazy returned a network whose '0.weight' has no shape yet"),
        ("nets:Net", "nets:Net raised TypeError: .*missing 2 required"),
    ],
)
def test_factories_that_make_no_network_are_refused(factory: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model.factory: {message}"):
        networks.make_custom(factory, {})


@pytest.mark.parametrize(
    "factory",
    [
        *("os:system", "posix:system", "builtins:exec", "subprocess:run", "shutil:rmtree"),
        *("nets:system", "nets:rmtree", "nets:shell", "torch:zeros", "antigravity:geohash"),
    ],
)
def test_functions_of_pythons_own_are_not_called(
    folder: Path, factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webbrowser.open", lambda url: (folder / "ran").touch())
    with pytest.raises(ConfigError, match=f"^model.factory: {factory} is built in or of Python's"):
        networks.make_custom(factory, {"command": "touch ran"})
    assert not (folder / "ran").exists()


def test_arguments_that_it_does_not_take_are_named() -> None:
    with pytest.raises(ConfigError, match=r"nets:make raised TypeError: .*'depth'"):
        networks.make_custom("nets:make", {"depth": 3})
