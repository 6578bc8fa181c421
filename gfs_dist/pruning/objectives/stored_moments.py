"""Moments of the candidates of a layer, made from a dense pass's sums by all ranks, in files.

With ``x`` what a consumer reads of the candidates and ``V0`` its dense weights, per sample:

    A = sum (x - mean x)(x - mean x)' / m,    B = A V0

(about zero where the consumer has no intercept for the mean). First pieces of the products are
added up over the parts of the samples, then blocks of rows of ``A`` and ``B`` are made of them:
with nine kernel positions and 512 channels ``A`` has 21 million entries, and one process would take
longer to form them than a rank takes to search. Sizes of pieces and blocks do not depend on the
number of ranks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from gfs_dist.errors import NonFiniteError
from gfs_dist.files import checkpoint
from gfs_dist.networks.measure.threads import one_thread
from gfs_dist.pruning.calibration.dense_pass import Patches, Reading
from gfs_dist.pruning.calibration.moments import Sums, add_halves
from gfs_dist.pruning.repair.least_squares import damping
from gfs_dist.pruning.structure.structure import Slice
from gfs_dist.runtime import Runtime

ROWS_OF_A_BLOCK, MAX_BLOCKS = 256, 16


@dataclass(frozen=True)
class StoredMap:
    """One consumer's ``A`` and ``B`` in files, candidate by candidate.

    Attributes:
        weights: file of ``V0``.
        blocks: files of rows of ``A`` and ``B``, in order.
        energy: ``tr V0' A V0``.
        damping: what a fit adds to the diagonal of ``A``.
    """

    weights: str
    blocks: tuple[str, ...]
    energy: float
    damping: float

    def read(self, num_candidates: int, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The rows of ``A`` of ``own`` candidates, sorted; all of ``B``; ``V0``."""
        weights = load_file(self.weights)["weights"]
        inputs_each = len(weights) // num_candidates
        rows = (own[:, None] * inputs_each + torch.arange(inputs_each)).flatten()
        inputs, target, first = [], [], 0
        for file in self.blocks:
            with safe_open(file, "pt") as tensors:
                target.append(tensors.get_tensor("target"))
                last = first + len(target[-1])
                mine = rows[(rows >= first) & (rows < last)] - first
                inputs.append(_read_rows(tensors.get_slice("inputs"), mine))
                first = last
        return torch.cat(inputs), torch.cat(target), weights

    def remove(self) -> None:
        for file in (self.weights, *self.blocks):
            Path(file).unlink()


class Piece(NamedTuple):
    """Products from ``start`` on along the first axis, summed over all samples, in a file."""

    start: int
    file: str


@contextmanager
def stored_products(runtime: Runtime, files: Sequence[Path]) -> Iterator[tuple[Piece, ...]]:
    """The products in the files of all shares, added up; pieces are deleted after the block."""
    with safe_open(files[0], "pt") as tensors:
        shape = tensors.get_slice("products").get_shape()
    count = shape[0] if len(shape) == 3 else _num_blocks(shape[0])
    ranges = _ranges(shape[0], count)
    task = SumTask(tuple(map(str, files)), str(files[0].parent))
    found = runtime.map(task, ranges).values
    pieces = tuple(Piece(start, file) for (start, _), file in zip(ranges, found, strict=True))
    yield pieces
    for piece in pieces:
        Path(piece.file).unlink()


@dataclass(frozen=True)
class SumTask:
    """Adds a piece of the products over the files of all shares, by halves."""

    files: tuple[str, ...]
    folder: str

    def run(self, item: Any, device: torch.device, tick: Callable[[], None]) -> str:
        """The file of products from ``item[0]`` to ``item[1]`` along the first axis."""
        start, stop = item

        def share(number: int) -> Sums:
            with safe_open(self.files[number], "pt") as tensors:
                found = {name: tensors.get_tensor(name) for name in ("count", "input_mean")}
                found["products"] = tensors.get_slice("products")[start:stop]
            tick()
            return found

        total = add_halves(len(self.files), share, slice(start, stop))
        path = Path(self.folder, f"piece_{start:06d}.safetensors")
        checkpoint.write_tensors(path, {"products": total["products"]}, durable=False)
        return str(path)


def make_map(
    runtime: Runtime,
    pieces: tuple[Piece, ...],
    reading: Reading,
    consumer: Slice,
    samples: int,
    folder: Path,
) -> StoredMap:
    """``A`` and ``B`` of a layer's candidates in one consumer.

    Other inputs (of another branch of a concatenation) are left out of both.

    Args:
        pieces: of the products of the consumer's input.
        reading: of the consumer.
        samples: ``m``.
        folder: for the files of this map alone.

    Raises:
        NonFiniteError: squares of inputs or outputs overflow; names the layer.
    """
    weights = reading.weights[reading.patches.rows(_joined(consumer.channels))]
    file = folder / "weights.safetensors"
    checkpoint.write_tensors(file, {"weights": weights}, durable=False)
    task = RowsTask(
        pieces, reading.patches, reading.centred, str(file), consumer.channels, samples, str(folder)
    )
    candidates = len(consumer.channels)
    ranges = _ranges(candidates, min(_num_blocks(len(weights)), candidates))
    blocks: list[MapRows] = runtime.map(task, ranges).values
    variance = sum(block.variance for block in blocks) / len(weights)
    largest = max(block.largest for block in blocks)
    added = damping(variance, largest, sum(block.trace for block in blocks))
    energy = sum(block.energy for block in blocks)
    if not math.isfinite(added) or not math.isfinite(energy):
        raise NonFiniteError(
            f"layer {consumer.module!r}: the squares of what it reads, or of its output, overflow "
            "float64"
        )
    return StoredMap(str(file), tuple(block.file for block in blocks), energy, added)


class MapRows(NamedTuple):
    """Some rows of a map in a file, and their part of sums over all rows.

    Attributes:
        variance: of the inputs, see :func:`gfs_dist.pruning.calibration.moments.spread`, summed.
        largest: of these variances.
        trace: of ``A``.
        energy: ``sum(V0 * B)``.
    """

    file: str
    variance: float
    largest: float
    trace: float
    energy: float


@dataclass(frozen=True)
class RowsTask:
    """Makes rows of ``A`` and ``B`` of some candidates.

    Attributes:
        pieces: of the products.
        patches, centred: of the consumer's :class:`Reading`.
        weights: file of ``V0``, of the candidates' rows alone.
        channels: of each candidate.
        samples: ``m``.
        folder: for the rows.
    """

    pieces: tuple[Piece, ...]
    patches: Patches
    centred: bool
    weights: str
    channels: tuple[tuple[int, ...], ...]
    samples: int
    folder: str

    def run(self, item: Any, device: torch.device, tick: Callable[[], None]) -> MapRows:
        """The rows of candidates ``item[0]`` to ``item[1]``."""
        first, last = item
        own, every = _joined(self.channels[first:last]), _joined(self.channels)
        with one_thread():
            sums, deviations = self.patches.moments(self._read(own), own, every, self.centred)
            inputs, variances = sums.div_(self.samples), deviations.div_(self.samples)
            weights = load_file(self.weights)["weights"]
            target = (inputs.to(device) @ weights.to(device)).cpu()
        tick()
        path = Path(self.folder, f"rows_{first:06d}.safetensors")
        checkpoint.write_tensors(path, {"inputs": inputs, "target": target}, durable=False)
        start = len(self.patches.rows(_joined(self.channels[:first])))
        energy = float((weights[start : start + len(target)] * target).sum())
        trace = float(inputs.diagonal(start).sum())
        return MapRows(str(path), float(variances.sum()), float(variances.max()), trace, energy)

    def _read(self, own: Sequence[int]) -> list[Tensor]:
        """The products that rows of own channels are made of."""
        stops = [*(piece.start for piece in self.pieces[1:]), len(self.patches.mean)]
        rows, found = self.patches.rows(own).sort().values, []
        for piece, stop in zip(self.pieces, stops, strict=True):
            with safe_open(piece.file, "pt") as tensors:
                products = tensors.get_slice("products")
                if self.patches.geometry.window:  # each piece is a product, for all channels
                    found.extend(products[:])
                else:
                    mine = rows[(rows >= piece.start) & (rows < stop)] - piece.start
                    found.append(_read_rows(products, mine))
        return found


def _joined(channels: Sequence[Sequence[int]]) -> list[int]:
    """Channels of several candidates, candidate by candidate."""
    return [channel for own in channels for channel in own]


def _num_blocks(rows: int) -> int:
    """A power of two, so that 2, 4, ... ranks have equal numbers."""
    return min(MAX_BLOCKS, 2 ** int(math.log2(max(1, rows // ROWS_OF_A_BLOCK))))


def _ranges(length: int, count: int) -> list[tuple[int, int]]:
    """``count`` runs of about equal length."""
    return list(itertools.pairwise(round(i * length / count) for i in range(count + 1)))


def _read_rows(stored: Any, wanted: Tensor) -> Tensor:
    """Sorted rows of a stored matrix; no others are read."""
    starts = (wanted.diff(prepend=wanted[:1] - 2) != 1).nonzero().flatten().tolist()
    stops = [*starts[1:], len(wanted)]
    runs = zip(starts, stops, strict=False)
    parts = [stored[int(wanted[a]) : int(wanted[b - 1]) + 1] for a, b in runs] or [stored[0:0]]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
