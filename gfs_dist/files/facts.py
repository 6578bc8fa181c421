"""JSON facts beside tensors; what a file says of itself is read without waiting for torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gfs_dist.errors import CheckpointError
from gfs_dist.records import FORMAT

STATE = "state.json"
"""Of a checkpoint folder."""

ARCHITECTURE = "architecture.json"
"""Of the folder of a stored network."""

WEIGHTS = (".safetensors", ".pt", ".pth")
"""Endings of bare files of tensors."""

MAX_JSON_BYTES = 64 * 2**20


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON object whose ``format`` is one this version knows.

    Raises:
        CheckpointError: missing, not JSON, not an object, of another format.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a pipe or device would never end
            raise CheckpointError(f"{path}: found no regular file")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: too large, accepted up to {MAX_JSON_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: found {type(content).__name__}, accepted a JSON object")
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: found format {content.get('format')!r}, accepted {FORMAT}")
    return content
