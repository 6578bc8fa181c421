"""A run folder travels as text, whole or not at all, and writes nowhere else."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from gfs_dist.errors import RunError
from gfs_dist.service import packing
from gfs_dist.service.packing import BEGIN, END, pack, unpack

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "run folder"
    (made / "models" / "a").mkdir(parents=True)
    (made / "models" / "a" / "w.bin").write_bytes(bytes(range(256)) * 1000)
    (made / "report.json").write_text("{}")
    (made / ".lock").touch()
    (made / ".writing-x").touch()
    return made


def files(folder: Path) -> dict[str, bytes]:
    found = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in found}


def test_what_is_printed_is_read(folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gfs_dist.service.packing", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    unpack(f"Ray says something first\n{done.stdout}", tmp_path / "there")
    kept = {name: content for name, content in files(folder).items() if not name.startswith(".")}
    assert files(tmp_path / "there") == kept


def test_more_than_is_ever_packed_is_not_unpacked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = pack(folder)
    monkeypatch.setattr(packing, "LIMIT_BYTES", 2**17)
    with pytest.raises(RunError, match="arrived damaged .more than 0 MiB once unpacked"):
        unpack(text, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_what_cannot_be_packed_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match="did not arrive: no such folder: /nowhere"):
        unpack(pack(Path("/nowhere")), tmp_path / "there")
    monkeypatch.setattr(packing, "LIMIT_BYTES", 2**10)
    with pytest.raises(RunError, match="did not arrive: larger than"):
        unpack(pack(folder), tmp_path / "there")
    with pytest.raises(RunError, match="did not arrive: No module named gfs_dist"):
        unpack("No module named gfs_dist\n", tmp_path / "there")


@pytest.mark.parametrize("change", ["cut", "other", "noise"])
def test_damage_is_noticed(folder: Path, tmp_path: Path, change: str) -> None:
    lines = pack(folder).splitlines()
    at = lines.index(BEGIN) + 1
    lines[at] = {"cut": lines[at][:-4], "other": "A" * len(lines[at]), "noise": "?!"}[change]
    with pytest.raises(RunError, match="arrived damaged"):
        unpack("\n".join(lines), tmp_path / "there")


@pytest.mark.parametrize("name", ["../out", "link"])
def test_an_archive_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        if name == "link":
            info.type, info.linkname = tarfile.SYMTYPE, "../../etc/passwd"
        archive.addfile(info)
    content = buffer.getvalue()
    text = [BEGIN, base64.b64encode(content).decode(), END, hashlib.sha256(content).hexdigest()]
    (tmp_path / "there").mkdir()
    with pytest.raises(RunError, match="arrived damaged"):
        unpack("\n".join(text), tmp_path / "there")
    assert not (tmp_path / "out").exists()
