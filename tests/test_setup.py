"""`make setup` from nothing, with a stand-in for Python that only notes what pip is asked to do."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STUB = """#!/bin/sh
case "$*" in
    *"import torch"*) exit 1 ;;
    *"version_info"*) exit "${STUB_TOO_OLD:-0}" ;;
    *--version*) echo "Python 3.99" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *--dry-run*) echo "$STUB_REPORT" ;;
    *) echo "$*" >>pip.log ;;
esac
"""
CUDA = '{"install": [{"metadata": {"name": "nvidia-cublas"}}]}'
HINT = "to avoid that, stop and run make again with TORCH_INDEX="


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    (tmp_path / "stub").write_text(STUB, encoding="utf-8")
    (tmp_path / "stub").chmod(0o755)
    return tmp_path


def make(checkout: Path, target: str = "setup", **environment: str) -> tuple[int, str, list[str]]:
    """Exit status, all output, and what pip was asked for."""
    done = subprocess.run(
        ["make", target],
        cwd=checkout,
        env={"PATH": os.environ["PATH"], "PYTHON": str(checkout / "stub"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    log = checkout / "pip.log"
    asked = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return done.returncode, done.stdout, [line for line in asked if " install " in line]


def test_second_call_installs_nothing(checkout: Path) -> None:
    code, _, asked = make(checkout)
    assert code == 0
    assert len(asked) == 1
    assert asked[0].endswith("-c constraints.txt -e .")
    assert make(checkout)[0::2] == (0, [])


def test_changed_requirements_are_installed(checkout: Path) -> None:
    make(checkout)
    later = (checkout / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(checkout / "pyproject.toml", (later, later))
    assert len(make(checkout)[2]) == 1


def test_torch_comes_from_the_index_that_is_named(checkout: Path) -> None:
    _, output, asked = make(checkout, TORCH_INDEX="https://example.org/cpu", STUB_REPORT=CUDA)
    assert "--index-url https://example.org/cpu -c constraints.txt torch" in asked[0]
    assert asked[1].endswith("-e .")
    assert HINT not in output


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
def test_large_download_without_a_gpu_is_announced(checkout: Path) -> None:
    code, output, asked = make(checkout, STUB_REPORT=CUDA)
    assert code == 0
    assert sum(HINT in line for line in output.splitlines()) == 1
    assert len(asked) == 1, "it goes on"


def test_small_download_is_not_announced(checkout: Path) -> None:
    assert HINT not in make(checkout, STUB_REPORT='{"install": []}')[1]


def test_old_python_is_refused_with_what_to_do(checkout: Path) -> None:
    code, output, asked = make(checkout, STUB_TOO_OLD="1")
    assert code != 0
    assert "no Python 3.11 or newer with venv was found" in output
    assert "apt-get install python3 python3-venv" in output
    assert asked == []
    assert not (checkout / ".venv").exists()


def test_half_made_environment_is_made_again(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    code, _, asked = make(checkout)
    assert code == 0
    assert len(asked) == 1


def test_ci_calls_lint_and_test_only() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("make ")] == ["make lint", "make test"]
