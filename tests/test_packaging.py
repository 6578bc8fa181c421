"""conf/ and jobs/ are found in a checkout, an editable install and a wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import gfs_dist

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMPOSE = (
    "from gfs_dist.config import compose; from gfs_dist.jobs import prune; "
    "print(prune.__name__, compose.compose('prune').steps)"
)


def python(*words: str, cwd: Path, **environment: str) -> str:
    """Output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_package_is_listed_for_the_wheel() -> None:
    folders = {
        "gfs_dist"
        + "".join(f".{part}" for part in file.parent.relative_to(ROOT / "gfs_dist").parts)
        for file in (ROOT / "gfs_dist").rglob("*.py")
        if "__pycache__" not in file.parts
    }
    listed = set(SETTINGS["tool"]["setuptools"]["packages"])
    assert listed == folders | {"gfs_dist.jobs", "gfs_dist.conf"}


def test_every_package_has_an_init_file() -> None:
    for name in SETTINGS["tool"]["setuptools"]["packages"]:
        folder = ROOT / name.replace("gfs_dist.jobs", "jobs").replace(".", "/")
        assert name == "gfs_dist.conf" or (folder / "__init__.py").is_file(), name


def test_constraints_pin_every_requirement_within_its_range() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[\w.-]+==[\w.]+", line), f"{line}: an exact pin without a suffix"
            name, _, version = line.partition("==")
            pins[name.lower()] = version
    project = SETTINGS["project"]
    extras = [needed for extra in project["optional-dependencies"].values() for needed in extra]
    for requirement in [*project["dependencies"], *extras]:
        name = re.match(r"[\w-]+", requirement)[0].lower()  # type: ignore[index]
        if name == project["name"]:  # another extra of our own
            continue
        assert name in pins, f"{requirement} has no pin in constraints.txt"


def test_public_names_are_loaded_when_used() -> None:
    for name in gfs_dist.__all__:
        assert getattr(gfs_dist, name) is not None
        assert name in dir(gfs_dist)


def test_unknown_attribute_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'gfs_dist' has no attribute 'nope'"):
        gfs_dist.nope  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import gfs_dist",
        "from gfs_dist.cli import main; assert main(['--help']) == 0",
        "from gfs_dist.cli import main; assert main(['prune', '--help']) == 0",
        "from gfs_dist.cli import main; assert main(['prune', '--cfg', 'job']) == 0",
    ],
)
def test_nothing_slow_is_imported_before_it_is_needed(code: str) -> None:
    slow = {"torch", "ray", "matplotlib", "sklearn"}
    if "cfg" not in code:  # only what composes waits for these
        slow |= {"hydra", "pydantic"}
    code += f"; import sys; assert not {slow} & {{*sys.modules}}"
    python("-c", code, cwd=ROOT)


def test_networks_are_made_without_numbers_and_without_the_compiler_of_torch() -> None:
    code = "from gfs_dist.networks.models.catalog import CATALOG; import sys, torch"
    code += "; torch.set_default_device('meta'); [make(9, 3, width=1) for make in CATALOG.values()]"
    python("-c", f"{code}; assert 'torch._dynamo' not in sys.modules", cwd=ROOT)


def test_checkout_runs_without_an_install() -> None:
    # -S leaves out site-packages' .pth files and so the editable install; libraries stay.
    libraries = os.pathsep.join([str(ROOT), *(p for p in sys.path if p.endswith("-packages"))])
    assert "prune" in python("-S", "-m", "gfs_dist", "--help", cwd=ROOT, PYTHONPATH=libraries)
    found = python("-S", "-c", COMPOSE, cwd=ROOT, PYTHONPATH=libraries)
    assert found.split() == ["gfs_dist.jobs.prune", "200"]


def test_source_distribution_and_wheel_hold_everything(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"  # a copy: setuptools takes what an older build/ still holds
    for name in ("gfs_dist", "jobs", "conf"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    # Without --wheel the source distribution is built first, and the wheel from it.
    python("-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(checkout), cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert (site / "gfs_dist" / "py.typed").is_file()
    templates = "gfs_dist/report/templates"
    for folder, name in (
        ("conf", "gfs_dist/conf"),
        ("jobs", "gfs_dist/jobs"),
        (templates, templates),
    ):
        for file in (ROOT / folder).rglob("*.*"):
            if "__pycache__" not in file.parts:
                assert (site / name / file.relative_to(ROOT / folder)).is_file(), file

    libraries = os.pathsep.join([str(site), *(p for p in sys.path if p.endswith("-packages"))])
    found = python("-S", "-c", COMPOSE, cwd=tmp_path, PYTHONPATH=libraries)
    assert found.split() == ["gfs_dist.jobs.prune", "200"]
    where = python(
        "-S", "-c", "import gfs_dist; print(gfs_dist.__file__)", cwd=tmp_path, PYTHONPATH=libraries
    )
    assert where.startswith(str(site))
    assert "prune" in python("-S", "-m", "gfs_dist", "--help", cwd=tmp_path, PYTHONPATH=libraries)
    entry = next(site.glob("*.dist-info/entry_points.txt")).read_text(encoding="utf-8")
    assert "gfs = gfs_dist.cli:main" in entry
    assert next(site.glob("*.dist-info/licenses/LICENSE")).is_file()
