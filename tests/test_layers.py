"""What import-linter cannot say: submodules of other packages, and all that is allowed."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "gfs_dist").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")])


@cache
def import_nodes(file: Path) -> list[ast.Import | ast.ImportFrom]:
    """Also those inside functions, and for types alone."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imports(file: Path) -> Iterator[str]:
    for node in import_nodes(file):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            assert node.level == 0, f"{file}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def users_of(module: str) -> set[str]:
    """Floors that import ``module`` or something in it."""
    return {
        file.relative_to(ROOT).parts[1] if file.is_relative_to(ROOT / "gfs_dist") else "jobs"
        for file in FILES
        if any(name == module or name.startswith(f"{module}.") for name in imports(file))
    }


@pytest.mark.parametrize(
    ("module", "floors"),
    [
        ("torch.distributed", {"runtime", "bench"}),
        ("torch.multiprocessing", {"runtime"}),
        ("ray", {"runtime", "service"}),
        ("hydra", {"config"}),
        ("omegaconf", {"config"}),
        ("argparse", {"cli"}),
        ("rich", {"cli"}),
        ("jinja2", {"report"}),
        ("markupsafe", {"report"}),
    ],
)
def test_a_library_is_used_on_its_floors_only(module: str, floors: set[str]) -> None:
    assert users_of(module) <= floors


def test_selection_knows_torch_alone() -> None:
    allowed = {*sys.stdlib_module_names, "torch"} - {"logging", "pathlib", "os", "subprocess"}
    for file in (ROOT / "gfs_dist" / "selection").rglob("*.py"):
        for name in imports(file):
            own = name == "gfs_dist" or name.startswith(("gfs_dist.selection", "gfs_dist.errors"))
            assert own or name.split(".")[0] in allowed, f"{file.name} imports {name}"
            functional = name == "torch.nn" or name.startswith("torch.nn.functional")
            assert functional or not name.startswith("torch.nn"), f"{file.name} imports {name}"


def test_no_configuration_is_instantiated() -> None:
    for file in FILES:
        assert not any(name.startswith("hydra.utils") for name in imports(file)), file
        assert "instantiate(" not in file.read_text(encoding="utf-8"), file


def module_of(file: Path) -> str:
    """The name that a file is imported under; jobs/ lies in the package."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts if parts[0] == "gfs_dist" else ("gfs_dist", *parts))
    return name.removesuffix(".__init__")


def imported_modules(file: Path, known: set[str]) -> set[str]:
    """Modules of ours that a file imports."""
    found: set[str] = set()
    for node in import_nodes(file):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            places = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {place if place in known else str(node.module) for place in places}
    return found & known


def test_no_imports_run_in_a_circle() -> None:
    files = {module_of(file): file for file in FILES}
    imported = {
        module: imported_modules(file, {*files}) - {module} for module, file in files.items()
    }
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        pytest.fail("imports in a circle: " + ", ".join(error.args[1]))
