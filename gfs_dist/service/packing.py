"""A run folder as text, for clusters whose storage this machine cannot see.

Ray's Jobs API brings back nothing but what a job prints. So a job prints the folder:
``python -m gfs_dist.service.packing FOLDER``; :func:`unpack` reads that.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import sys
import tarfile
from pathlib import Path

from gfs_dist.errors import RunError
from gfs_dist.files.mirror import kept_files

LIMIT_BYTES = 256 * 2**20
BEGIN, END = "-----BEGIN GFS RUN FOLDER-----", "-----END GFS RUN FOLDER-----"
MISSING, LARGE = "gfs: no such folder", "gfs: larger than"
_LINE = 3 * 2**14


def plain_files(folder: Path) -> list[str]:
    """The files of a run folder; what links point to is none of it, and pipes may never end."""
    places = {name: folder / name for name in kept_files(folder)}
    return [name for name, path in places.items() if path.is_file() and not path.is_symlink()]


def pack(folder: Path) -> str:
    """``folder`` as lines of base64 of a compressed archive, and its hash; or why not."""
    if not folder.is_dir():
        return f"{MISSING}: {folder}"
    size = sum((folder / name).stat().st_size for name in plain_files(folder))
    if size > LIMIT_BYTES:
        return f"{LARGE} {LIMIT_BYTES // 2**20} MiB: {folder} has {size / 2**20:.0f}"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in plain_files(folder):
            archive.add(folder / name, name)
    content = buffer.getvalue()
    parts = [content[at : at + _LINE] for at in range(0, len(content), _LINE)]
    lines = [base64.b64encode(part).decode() for part in parts]
    return "\n".join([BEGIN, *lines, END, hashlib.sha256(content).hexdigest()])


def unpack(text: str, into: Path) -> None:
    """Write the files that ``text``, all that :func:`pack` printed, holds; none outside ``into``.

    Raises:
        RunError: nothing was packed, it arrived damaged, or it holds what is no plain file or more
            than is ever packed.
    """
    lines = [line.strip() for line in text.splitlines()]
    if BEGIN not in lines or END not in lines[:-1]:
        said = [line for line in lines if line.startswith("gfs: ")] or lines[-1:]
        raise RunError(f"the run folder did not arrive: {' '.join(said).removeprefix('gfs: ')}")
    begin, end = lines.index(BEGIN), lines.index(END)
    try:
        content = b"".join(base64.b64decode(line, validate=True) for line in lines[begin + 1 : end])
        if hashlib.sha256(content).hexdigest() != lines[end + 1]:
            raise ValueError("another hash")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            sizes = itertools.accumulate(member.size for member in archive)
            if any(size > LIMIT_BYTES for size in sizes):  # asked before all is unpacked
                raise ValueError(f"more than {LIMIT_BYTES // 2**20} MiB once unpacked")
            archive.extractall(into, filter="data")  # no links out, no devices, no paths upwards
    except (ValueError, tarfile.TarError, EOFError) as error:
        raise RunError(f"the run folder arrived damaged ({error}); fetch it again") from error


if __name__ == "__main__":
    print(pack(Path(sys.argv[1])))  # noqa: T201 - a job prints it
