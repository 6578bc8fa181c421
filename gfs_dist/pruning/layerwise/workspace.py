"""What all ranks share of one network being pruned: a folder of plain files.

dense/             the dense network, as it is stored anywhere
samples/           calibration samples and labels, chunk by chunk
NAME/              results of stages, sums of moments, fitted weights of one pass
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from gfs_dist import networks
from gfs_dist.errors import DataError, InputError, NonFiniteError, ShapeError
from gfs_dist.files import scratch
from gfs_dist.networks.graph_network import GraphNetwork
from gfs_dist.networks.recorded import record
from gfs_dist.networks.values import UnstorableError
from gfs_dist.pruning.layerwise.moments import Sums

CPU = torch.device("cpu")
CHUNK_BYTES = 2**25
MAX_CHUNK = 64
MAX_GROUPS = 16
"""Parts into which a pass divides its samples, whatever the number of ranks: sums are added
within a part, then over parts, so that any number of ranks gets the same bits."""


@dataclass(frozen=True)
class Workspace:
    """A folder, and how many chunks of samples lie there.

    Attributes:
        folder: on storage that all ranks reach.
        num_samples, num_chunks: of the calibration samples.
        labelled: whether every sample has its label.
    """

    folder: str
    num_samples: int
    num_chunks: int
    labelled: bool

    @classmethod
    def create(cls, folder: Path | str, model: nn.Module, batches: Iterable[Any]) -> Workspace:
        """Write the network and the samples.

        Args:
            folder: new.
            model: the dense network.
            batches: tensors or arrays, or pairs of these and labels (m,); read once, never held
                together.

        Raises:
            DataError: no samples, or labels for some of them only.
            ShapeError, TypeError: something that is no batch, or of another shape than the first,
                or that the network does not take.
            NonFiniteError: a sample holds NaN or infinity, or the network's output NaN.
        """
        root = Path(folder)
        (root / "samples").mkdir(parents=True)
        rows = itertools.chain.from_iterable(_samples(batches))
        count, chunks, labelled = 0, 0, True
        first = next(rows, None)
        if first is None:
            raise DataError("batches: found no samples, accepted one or more")
        per_chunk = chunk_size(first[0])
        rows = itertools.chain([first], rows)
        while part := list(itertools.islice(rows, per_chunk)):
            _write_chunk(root, chunks, part, first[0].shape, count)
            labelled = labelled and all(label is not None for _, label in part)
            count, chunks = count + len(part), chunks + 1
        workspace = cls(str(root), count, chunks, labelled)
        try:
            networks.save(root / "dense", model, example=workspace.x(0)[:2])
        except ShapeError as error:
            raise ShapeError(f"batches: {error}") from error
        return workspace

    def x(self, chunk: int) -> Tensor:
        """Inputs of one chunk."""
        return self._chunk(chunk)["x"]

    def labels(self, chunk: int) -> Tensor:
        """Labels of one chunk, int64."""
        return self._chunk(chunk)["labels"]

    def batches(self, num_chunks: int | None = None) -> Iterable[tuple[Tensor, Tensor]]:
        """Inputs and labels of the first chunks (default: all)."""
        for chunk in range(num_chunks or self.num_chunks):
            yield self.x(chunk), self.labels(chunk)

    def groups(self) -> list[tuple[int, ...]]:
        """The parts of a pass: chunk numbers, in order."""
        parts = min(MAX_GROUPS, self.num_chunks)
        edges = [round(i * self.num_chunks / parts) for i in range(parts + 1)]
        return [tuple(range(a, b)) for a, b in itertools.pairwise(edges)]

    def dense(self, device: torch.device = CPU) -> GraphNetwork:
        """The dense network in recorded steps; read once a process and device."""
        return _dense(self, device)

    def path(self, *names: str) -> Path:
        """A place in the folder, whose parent is there."""
        found = Path(self.folder, *names)
        found.parent.mkdir(parents=True, exist_ok=True)
        return found

    def _chunk(self, chunk: int) -> dict[str, Tensor]:
        return load_file(Path(self.folder, "samples", f"{chunk:05d}.safetensors"))


@functools.lru_cache(maxsize=2)
def _dense(workspace: Workspace, device: torch.device) -> GraphNetwork:
    if device != CPU:
        return copy.deepcopy(workspace.dense()).to(device)
    network = networks.load(Path(workspace.folder, "dense"))
    try:
        return record(network, workspace.x(0)[:2])
    except UnstorableError as error:
        raise InputError(f"model: {error}") from error


def chunk_size(sample: Tensor) -> int:
    """Samples of a chunk: as many as make the first layers' results some tens of MiB."""
    widest = 64 * sample.numel() * 4 // max(1, sample.shape[0] if sample.ndim else 1)
    return max(1, min(MAX_CHUNK, CHUNK_BYTES // max(1, widest)))


def write_sums(path: Path, sums: Sums) -> None:
    """Sums of one part of a pass, for whoever adds them up."""
    scratch.write_tensors(path, {str(i): part for i, part in enumerate(sums)})


def read_sums(paths: Sequence[Path], names: Sequence[str] | None = None) -> Sums:
    """Sums of all parts together, added in their order: those named, or all."""
    total: list[Tensor] = []
    for path in paths:
        with safe_open(path, "pt") as file:
            chosen = names or [str(i) for i in range(len(file.keys()))]
            parts = [file.get_tensor(name) for name in chosen]
        total = [a + b for a, b in zip(total, parts, strict=True)] if total else parts
    return total


def _samples(batches: Iterable[Any]) -> Iterable[Iterable[tuple[Tensor, Tensor | None]]]:
    if not isinstance(batches, Iterable):
        raise TypeError(f"batches: found {type(batches).__name__}, accepted an iterable of batches")
    for number, batch in enumerate(batches):
        pair = isinstance(batch, list | tuple)
        if pair and len(batch) != 2:
            raise InputError(
                f"batches: batch {number} has {len(batch)} parts, accepted a tensor or (x, y)"
            )
        x, labels = map(_tensor, batch if pair else (batch, None))
        if not isinstance(x, Tensor):
            raise TypeError(
                f"batches: batch {number} is {type(x).__name__}, accepted a tensor or (x, y)"
            )
        if labels is not None and (not isinstance(labels, Tensor) or len(labels) != len(x)):
            raise ShapeError(f"batches: batch {number} has {len(x)} samples and other labels")
        yield [(x[i].detach().cpu(), None if labels is None else labels[i]) for i in range(len(x))]


def _tensor(part: Any) -> Any:
    """An array as a tensor of its own; anything else as it is."""
    return torch.tensor(part) if isinstance(part, np.ndarray) else part


def _write_chunk(
    root: Path, chunk: int, part: list[tuple[Tensor, Tensor | None]], shape: Any, before: int
) -> None:
    for place, (x, _) in enumerate(part, start=before):
        if x.shape != shape:
            raise ShapeError(
                f"batches: sample {place} has shape {tuple(x.shape)}, the first {tuple(shape)}"
            )
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise NonFiniteError(f"batches: sample {place} holds NaN or infinity")
    tensors = {"x": torch.stack([x for x, _ in part])}
    labels = [label for _, label in part if label is not None]
    if len(labels) not in (0, len(part)):
        raise DataError("batches: found labels for some samples only, accepted all or none")
    if labels:
        tensors["labels"] = torch.stack([label.detach().cpu().long() for label in labels])
    scratch.write_tensors(root / "samples" / f"{chunk:05d}.safetensors", tensors)
