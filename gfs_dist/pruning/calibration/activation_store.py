"""Where the results of stages wait for the next one: in memory, or in files, chunk by chunk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from gfs_dist.files import scratch
from gfs_dist.pruning.calibration.staged_run import Results


class Environments(Protocol):
    """Results before each stage of a track (``dense``, ``small``), for each chunk of samples.

    A stage reads those before it and writes those before the next, so that it can be done again.
    """

    def load(self, track: str, stage: int, chunk: int) -> Results: ...

    def save(self, track: str, stage: int, chunk: int, results: Results) -> None: ...

    def drop(self, track: str, stage: int) -> None:
        """Forget what only earlier stages read."""
        ...


class InMemory:
    """For few samples."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int, int], Results] = {}

    def load(self, track: str, stage: int, chunk: int) -> Results:
        return dict(self._held[track, stage, chunk])

    def save(self, track: str, stage: int, chunk: int, results: Results) -> None:
        self._held[track, stage, chunk] = dict(results)

    def drop(self, track: str, stage: int) -> None:
        self._held = {key: value for key, value in self._held.items() if key[:2] != (track, stage)}


class InFiles:
    """For any number of samples: memory holds the chunks in work. Several processes may share it.

    Args:
        folder: scratch space, there already.
        device: where results are read to.
    """

    def __init__(self, folder: Path | str, device: torch.device | str = "cpu") -> None:
        self.folder, self.device = Path(folder), device

    def load(self, track: str, stage: int, chunk: int) -> Results:
        with safe_open(self._file(track, stage, chunk), "pt", str(self.device)) as file:
            layout = json.loads(file.metadata()["layout"])
            return {name: _unpack(part, file) for name, part in layout.items()}

    def save(self, track: str, stage: int, chunk: int, results: Results) -> None:
        tensors: dict[str, Tensor] = {}
        layout = {name: _pack(value, tensors) for name, value in results.items()}
        path = self._file(track, stage, chunk)
        scratch.write_tensors(path, tensors, {"layout": json.dumps(layout)})

    def drop(self, track: str, stage: int) -> None:
        for file in self.folder.glob(f"{track}_{stage:04d}_*.safetensors"):
            file.unlink(missing_ok=True)

    def _file(self, track: str, stage: int, chunk: int) -> Path:
        return self.folder / f"{track}_{stage:04d}_{chunk:05d}.safetensors"


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Plain JSON with numbers of tensors in their places."""
    if isinstance(value, Tensor):
        # A view of a part of another result has to be a tensor of its own to be written.
        tensors[str(len(tensors))] = value.detach().cpu().contiguous().clone()
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, list | tuple):  # a torch.Size, or what chunk() gives
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(part, tensors) for part in value]}
    assert value is None or isinstance(value, bool | int | float | str), type(value)
    return {"plain": value}


def _unpack(packed: Any, file: Any) -> Any:
    ((kind, inner),) = packed.items()
    if kind == "tensor":
        # A copy, which is aligned: where in a file a tensor lies can decide last bits.
        return file.get_tensor(inner).clone()
    if kind == "plain":
        return inner
    parts = [_unpack(part, file) for part in inner]
    return parts if kind == "list" else tuple(parts)


def make_chunks(num_samples: int, bytes_per_sample: int) -> list[slice]:
    """Fixed ranges of samples, the same for any number of ranks.

    As many samples as take 64 MiB in the widest layer, 1 to 64 of them.
    """
    size = max(1, min(64, 2**26 // max(bytes_per_sample, 1)))
    return [slice(at, min(at + size, num_samples)) for at in range(0, num_samples, size)]
