"""What a layer's consumers read of its candidates, made of a pass's sums by all ranks together.

    A = sum (x - mean x)(x - mean x)' / m,    B = A V0

(about zero where the consumer has no intercept that the mean could go into). First pieces of the
sums are added up over the parts of the samples, then blocks of rows of ``A`` and ``B`` are made of
them: with nine kernel positions and 512 channels ``A`` has 21 million
entries, which a single process would go through for longer than a rank searches. How the pieces
are cut does not depend on the number of ranks.
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
from gfs_dist.pruning.calibration.dense_pass import Patches, Reading
from gfs_dist.pruning.calibration.determinism import one_thread
from gfs_dist.pruning.calibration.moments import Sums, add, spread
from gfs_dist.pruning.repair.least_squares import damping
from gfs_dist.pruning.structure.structure import Slice
from gfs_dist.runtime import Runtime
from gfs_dist.selection.objectives.block_least_squares import BlockMoments

ROWS_OF_A_BLOCK, MAX_BLOCKS = 256, 16


@dataclass(frozen=True)
class LinearMap:
    """One consumer's part that reads the candidates, per sample.

    Attributes:
        inputs: ``A``, blocks in order of candidates; for a rank, the rows of its own ones.
        target: ``B = A V0``, all of it.
        weights: ``V0``.
        energy: ``tr V0' A V0``.
        damping: what a fit adds to the diagonal of ``A``.
    """

    inputs: Tensor
    target: Tensor
    weights: Tensor
    energy: float
    damping: float

    def of_own(self, num_candidates: int, own: Tensor) -> BlockMoments:
        """What a search with refitted weights needs of own candidates."""
        target = self.target.view(num_candidates, -1, self.target.shape[1])
        own_target = target[own.to(target.device)].flatten(0, 1)
        return BlockMoments(self.inputs, own_target, self.energy, self.damping)

    def on(self, device: torch.device) -> LinearMap:
        """The same on a device."""
        inputs, target, weights = (t.to(device) for t in (self.inputs, self.target, self.weights))
        return LinearMap(inputs, target, weights, self.energy, self.damping)


@dataclass(frozen=True)
class StoredMap:
    """A map in files, a block of rows each.

    Attributes:
        weights: file of ``V0``.
        blocks: files of rows of ``A`` and ``B``.
        energy, damping: see :class:`LinearMap`.
    """

    weights: str
    blocks: tuple[str, ...]
    energy: float
    damping: float

    def read(self, num_candidates: int, own: Tensor) -> LinearMap:
        """With no more of ``A`` than the rows of ``own`` candidates, sorted."""
        weights = load_file(self.weights)["weights"]
        block = len(weights) // num_candidates
        rows = (own[:, None] * block + torch.arange(block)).flatten()
        inputs, target, first = [], [], 0
        for file in self.blocks:
            with safe_open(file, "pt") as tensors:
                target.append(tensors.get_tensor("target"))
                last = first + len(target[-1])
                mine = rows[(rows >= first) & (rows < last)] - first
                inputs.append(_rows(tensors.get_slice("inputs"), mine))
                first = last
        return LinearMap(torch.cat(inputs), torch.cat(target), weights, self.energy, self.damping)

    def remove(self) -> None:
        """Its files."""
        for file in (self.weights, *self.blocks):
            Path(file).unlink()


class Piece(NamedTuple):
    """Products from ``start`` on along the first axis, summed over all samples, in a file."""

    start: int
    file: str


@dataclass(frozen=True)
class SumTask:
    """Sums of a piece of the products over all parts of the samples, in their order.

    Attributes:
        files: of the parts.
        folder: for the pieces.
    """

    files: tuple[str, ...]
    folder: str

    def run(self, item: Any, device: torch.device, tick: Callable[[], None]) -> str:
        """Those from ``item[0]`` to ``item[1]`` along the first axis."""
        start, stop = item
        total: Sums | None = None
        for file in self.files:
            with safe_open(file, "pt") as tensors:
                part = {name: tensors.get_tensor(name) for name in ("count", "input_mean")}
                part["products"] = tensors.get_slice("products")[start:stop]
                total = add(total, part, slice(start, stop))
            tick()
        assert total is not None
        path = Path(self.folder, f"piece_{start:06d}.safetensors")
        checkpoint.write_tensors(path, {"products": total["products"]}, durable=False)
        return str(path)


class Block(NamedTuple):
    """Some rows of a map, and what they add to the sums over all of them.

    Attributes:
        file: where they are.
        variance: of the inputs, see :func:`.moments.spread`, summed.
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
    """Rows of ``A`` and ``B`` of some candidates.

    Attributes:
        pieces: of the products.
        patches: what else the pass saw.
        centred: whether an intercept takes part.
        weights: file of ``V0``, of the candidates' rows alone.
        channels: of each candidate.
        samples: ``m``.
        folder: for the blocks.
    """

    pieces: tuple[Piece, ...]
    patches: Patches
    centred: bool
    weights: str
    channels: tuple[tuple[int, ...], ...]
    samples: int
    folder: str

    def run(self, item: Any, device: torch.device, tick: Callable[[], None]) -> Block:
        """Those of candidates ``item[0]`` to ``item[1]``."""
        first, last = item
        with one_thread():
            own = _joined(self.channels[first:last])
            inputs = self.patches.inputs(self._read(own), own)
            rows, columns = self.patches.rows(own), self.patches.rows(_joined(self.channels))
            start = len(self.patches.rows(_joined(self.channels[:first])))
            if not torch.equal(columns, torch.arange(inputs.shape[1])):
                inputs = inputs[:, columns]
            mean, inside, count = self.patches.mean, self.patches.inside, self.patches.positions
            variances = spread(inputs.diagonal(start), mean[rows], inside[rows], count)
            if not self.centred:
                inputs.addr_(mean[rows], mean[columns], alpha=count)
            inputs /= self.samples
            variances /= self.samples
            weights = load_file(self.weights)["weights"]
            target = (inputs.to(device) @ weights.to(device)).cpu()
        tick()
        path = Path(self.folder, f"rows_{first:06d}.safetensors")
        checkpoint.write_tensors(path, {"inputs": inputs, "target": target}, durable=False)
        energy = float((weights[start : start + len(rows)] * target).sum())
        trace = float(inputs.diagonal(start).sum())
        return Block(str(path), float(variances.sum()), float(variances.max()), trace, energy)

    def _read(self, own: Sequence[int]) -> list[Tensor]:
        """Of each piece what the rows of own channels are made of."""
        stops = [*(piece.start for piece in self.pieces[1:]), len(self.patches.mean)]
        found = []
        for piece, stop in zip(self.pieces, stops, strict=True):
            with safe_open(piece.file, "pt") as tensors:
                products = tensors.get_slice("products")
                if self.patches.geometry.window:  # pieces are terms, for all channels
                    found.extend(products[:])
                    continue
                rows = self.patches.rows(own).sort().values
                rows = rows[(rows >= piece.start) & (rows < stop)] - piece.start
                found.append(_rows(products, rows))
        return found


@contextmanager
def stored_products(runtime: Runtime, files: Sequence[Path]) -> Iterator[tuple[Piece, ...]]:
    """The products of a pass's parts, added up, in files that last as long as the block."""
    with safe_open(files[0], "pt") as tensors:
        shape = tensors.get_slice("products").get_shape()
    count = shape[0] if len(shape) == 3 else _num_blocks(shape[0])
    edges = [round(i * shape[0] / count) for i in range(count + 1)]
    task = SumTask(tuple(map(str, files)), str(files[0].parent))
    pieces = tuple(map(Piece, edges, runtime.map(task, list(itertools.pairwise(edges))).values))
    yield pieces
    for piece in pieces:
        Path(piece.file).unlink()


def make_map(
    runtime: Runtime,
    pieces: tuple[Piece, ...],
    reading: Reading,
    consumer: Slice,
    samples: int,
    folder: Path,
) -> StoredMap:
    """What a consumer reads of a layer's candidates, candidate by candidate.

    Other inputs (of another branch of a concatenation) are left out of both sides.

    Args:
        pieces: of the products that the consumer's input gave.
        reading: of the consumer.
        samples: that they are sums over.
        folder: for the files, of this map alone.

    Raises:
        NonFiniteError: what is read is too large to be squared; names the layer.
    """
    rows = reading.patches.rows(_joined(consumer.channels))
    weights = reading.weights[rows]
    file = folder / "weights.safetensors"
    checkpoint.write_tensors(file, {"weights": weights}, durable=False)
    task = RowsTask(
        pieces,
        reading.patches,
        reading.centred,
        str(file),
        consumer.channels,
        samples,
        str(folder),
    )
    candidates = len(consumer.channels)
    count = min(_num_blocks(len(rows)), candidates)
    edges = [round(i * candidates / count) for i in range(count + 1)]
    blocks: list[Block] = runtime.map(task, list(itertools.pairwise(edges))).values
    variance = sum(block.variance for block in blocks) / len(rows)
    largest = max(block.largest for block in blocks)
    added = damping(variance, largest, sum(block.trace for block in blocks))
    energy = sum(block.energy for block in blocks)
    if not math.isfinite(added) or not math.isfinite(energy):
        raise NonFiniteError(
            f"layer {consumer.module!r}: the squares of what it reads, or of its output, overflow "
            "float64"
        )
    return StoredMap(str(file), tuple(block.file for block in blocks), energy, added)


def _joined(channels: Sequence[Sequence[int]]) -> list[int]:
    """Channels of several candidates, candidate by candidate."""
    return [channel for own in channels for channel in own]


def _num_blocks(rows: int) -> int:
    """A power of two, so that 2, 4, ... ranks have as many each."""
    return min(MAX_BLOCKS, 2 ** int(math.log2(max(1, rows // ROWS_OF_A_BLOCK))))


def _rows(stored: Any, wanted: Tensor) -> Tensor:
    """Sorted rows of a stored matrix; no others are read."""
    starts = (wanted.diff(prepend=wanted[:1] - 2) != 1).nonzero().flatten().tolist()
    stops = [*starts[1:], len(wanted)]
    runs = zip(starts, stops, strict=False)
    parts = [stored[int(wanted[a]) : int(wanted[b - 1]) + 1] for a, b in runs] or [stored[0:0]]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
