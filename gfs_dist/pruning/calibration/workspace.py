"""The folder that all ranks share while one network is pruned.

dense/             the dense network, recorded or followed
samples/           calibration samples and labels, chunk by chunk
NAME/              results of stages, sums of moments, fitted weights of a pass
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from gfs_dist import networks
from gfs_dist.errors import (
    DataError,
    InputError,
    NonFiniteError,
    ShapeError,
)
from gfs_dist.files import checkpoint
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.tensors import copied
from gfs_dist.networks.measure.evaluation import largest_result
from gfs_dist.networks.measure.inputs import (
    MASK,
    Batch,
    BatchForm,
    Call,
    Inputs,
    Slot,
    described,
    joined,
)
from gfs_dist.networks.measure.threads import Item, in_threads
from gfs_dist.pruning.calibration.batches import (
    CLASS_NUMBERS,
    STACK,
    BatchReader,
    Row,
    X,
)
from gfs_dist.pruning.calibration.dense_network import (
    CPU,
    Select,
    read_dense,
    write_followed,
    write_recorded,
)
from gfs_dist.pruning.calibration.moments import Sums, add, add_halves

DENSE = "dense"
CLASSES = "labels?"
"""Name of the class numbers beside a chunk's tensors, which may be called labels too."""

CHUNK_BYTES = 2**25
MAX_CHUNK = 64
MIN_POSITIONS = 2048
"""Of the chunks whose products are formed at once: to add up those of fewer takes too long."""

MAX_PARTS = 16
"""Parts of the samples in a pass, for any number of ranks: sums are added within a part, then over
halves of the parts, so that any number of ranks gets the same bits."""


@dataclass(frozen=True)
class Workspace:
    """A folder with a dense network and calibration samples.

    Attributes:
        folder: on storage that all ranks reach.
        labelled: whether every sample has its class number.
        instead: description of labels that are no class numbers; empty without labels.
        ends: samples before each chunk, and all.
        chosen: files of the chunks, in a subset of a workspace; else all, in order.
        follows: whether the network takes :class:`Inputs`, and is followed; else it is recorded.
    """

    folder: str
    num_samples: int
    num_chunks: int
    labelled: bool = field(compare=False)
    instead: str = field(default="", compare=False)
    ends: tuple[int, ...] = field(default=(), compare=False)
    follows: bool = False
    chosen: tuple[int, ...] = ()

    @classmethod
    def create(
        cls,
        folder: Path | str,
        model: nn.Module,
        batches: Iterable[Any],
        call: Call | None = None,
        select: Select | None = None,
    ) -> Workspace:
        """Write the network and the samples.

        Args:
            folder: new.
            model: the dense network.
            batches: tensors or arrays, or pairs of these and class numbers (m,); other second
                parts are ignored. Or tuples, dicts, lists of images, see :class:`BatchReader`.
                Read once, never in memory together.
            call: how a batch goes through the model.
            select: the part of the outputs that counts; None for all.

        Raises:
            DataError: no samples.
            ShapeError, TypeError: not a batch, or of another shape than the first, or refused by
                the network.
            ConfigError: the network can be neither recorded nor followed; says what to do.
            NonFiniteError: a sample holds NaN or infinity, or the network's output NaN.
        """
        root = Path(folder)
        (root / "samples").mkdir(parents=True)
        reader = BatchReader(model, call)
        rows = reader.rows(batches)
        first = next(rows, None)
        if first is None:
            raise DataError("batches: found no samples, accepted one or more")
        example = reader.inputs({name: tensor[None] for name, tensor in first[0].items()})
        per_chunk = chunk_size(first[0], None if reader.is_plain else _widest(model, example))
        if reader.takes_lists:  # the steps of a pass are then those of so many samples
            per_chunk = 1
        ends = [0]
        rows = itertools.chain([first], rows)
        for part in _alike(_same(rows) if reader.is_plain else rows, per_chunk):
            _write_chunk(root, len(ends) - 1, part, ends[-1])
            ends.append(ends[-1] + len(part))
        workspace = cls(str(root), ends[-1], len(ends) - 1, False, ends=tuple(ends))
        example = reader.inputs(workspace.tensors(0))[:2]
        plain = reader.is_plain and select is None
        if not (plain and write_recorded(workspace.subfolder(DENSE), model, example.tensors[X])):
            workspace = workspace._followed(model, example, select)
        outputs, num_samples = workspace.try_rows()
        instead = reader.labels.unusable(outputs, num_samples)
        given = reader.labels.given
        return replace(workspace, labelled=not instead, instead=instead if given else "")

    def require_labels(self, asker: str) -> None:
        """Do nothing where every sample has its class number.

        Raises:
            InputError: names ``asker``, which needs them, and what was found instead.
        """
        if not self.labelled:
            raise InputError(
                f"batches: {asker} needs a label for every sample, found "
                f"{self.instead or 'none'}, accepted are pairs (x, y), y {CLASS_NUMBERS}"
            )

    def x(self, chunk: int) -> Batch:
        tensors = self.tensors(chunk)
        return Inputs(tensors, None) if self.follows else tensors[X]

    def tensors(self, chunk: int) -> dict[str, Tensor]:
        """What the network is called with, by name."""
        found = self._chunk(chunk)
        found.pop(CLASSES, None)
        return found

    def real_share(self, chunk: int) -> float:
        """The share of a chunk's tokens that are no padding."""
        mask = self.tensors(chunk).get(MASK) if self.follows else None
        return 1.0 if mask is None else float((mask != 0).double().mean())

    def labels(self, chunk: int) -> Tensor:
        """Labels of one chunk, int64."""
        return self._chunk(chunk)[CLASSES]

    def rows(self, rows: Tensor) -> tuple[Batch, Tensor]:
        """Inputs and labels of sorted rows; other chunks than theirs are not read."""
        x, labels = [], []
        for chunk, own in self._by_chunk(rows):
            x.append(self.x(chunk)[own])
            labels.append(self.labels(chunk)[own])
        return joined(x), torch.cat(labels)

    def samples(self, rows: Tensor) -> Batch:
        """Inputs of rows in any order; nothing else is read."""
        found: dict[str, list[Tensor]] = {}
        order = rows.argsort()
        for chunk, own in self._by_chunk(rows[order]):
            with safe_open(self.file(chunk), "pt") as file:
                for name in sorted(set(file.keys()) - {CLASSES}):
                    part = file.get_slice(name)
                    found.setdefault(name, []).extend(part[row] for row in own.tolist())
        back = order.argsort().tolist()
        tensors = {name: torch.stack([own[i] for i in back]) for name, own in found.items()}
        return Inputs(tensors, None) if self.follows else tensors[X]

    def _by_chunk(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Chunks of sorted rows, and their places in it."""
        ends = torch.tensor(self.ends)
        chunks = torch.searchsorted(ends, rows, right=True) - 1
        for chunk in torch.unique(chunks).tolist():
            yield chunk, rows[chunks == chunk] - self.ends[chunk]

    def followed(self, model: nn.Module) -> Workspace:
        """The same samples, and the network followed, not recorded.

        Errors: see :meth:`create`.
        """
        return self._followed(model, Inputs(self.tensors(0), BatchForm(Slot(X)))[:2], None)

    def _followed(self, model: nn.Module, example: Inputs, select: Select | None) -> Workspace:
        samples = [partial(self._inputs, chunk, example.form) for chunk in range(self.num_chunks)]
        write_followed(self.subfolder(DENSE), model, example, samples, select)
        return replace(self, follows=True)

    def _inputs(self, chunk: int, form: BatchForm | None) -> Inputs:
        return Inputs(self.tensors(chunk), form)

    def subset(self, chunks: Sequence[int]) -> Workspace:
        """The same network, and no more than some chunks of samples."""
        sizes = [self.ends[chunk + 1] - self.ends[chunk] for chunk in chunks]
        ends = (0, *itertools.accumulate(sizes))
        return replace(
            self, num_chunks=len(chunks), num_samples=ends[-1], ends=ends, chosen=tuple(chunks)
        )

    def batches(self) -> Iterable[tuple[Batch, Tensor]]:
        for chunk in range(self.num_chunks):
            yield self.x(chunk), self.labels(chunk)

    def parts(self) -> list[tuple[int, ...]]:
        """Chunk numbers of the parts of a pass, in order."""
        count = min(MAX_PARTS, self.num_chunks)
        edges = [round(i * self.num_chunks / count) for i in range(count + 1)]
        return [tuple(range(a, b)) for a, b in itertools.pairwise(edges)]

    def batches_of(
        self, parts: Sequence[Sequence[int]], positions: int
    ) -> list[list[Sequence[int]]]:
        """The chunks of each part, so many together that they have :data:`MIN_POSITIONS`.

        ``positions``: of a sample.
        """
        samples = -(-self.num_samples // self.num_chunks)
        count = -(-MIN_POSITIONS // (samples * positions))
        return [[part[at : at + count] for at in range(0, len(part), count)] for part in parts]

    def shares(self, ranks: int) -> list[tuple[tuple[int, ...], ...]]:
        """The parts as halves of halves: one share for each rank, or a few (a power of two)."""
        shares = [tuple(self.parts())]
        wanted = ranks if ranks.bit_count() == 1 else 4 * ranks
        while len(shares) < wanted and 2 * len(shares) <= len(self.parts()):
            halves = [(s[: len(s) // 2], s[len(s) // 2 :]) for s in shares]
            shares = [half for both in halves for half in both]
        return shares

    def dense(self, device: torch.device = CPU) -> GraphNetwork:
        """The dense network in steps; read once a process and device."""
        example = Path(self.folder, "samples", "00000.safetensors")
        return read_dense(self.folder, DENSE, None if self.follows else str(example), device)

    def subfolder(self, *names: str) -> Path:
        """A folder in the workspace, created if it is missing."""
        found = Path(self.folder, *names)
        found.mkdir(parents=True, exist_ok=True)
        return found

    @torch.no_grad()
    def try_rows(self) -> tuple[Any, int]:
        """Outputs of the network for a few samples, and how many.

        Raises:
            ShapeError: it does not take one sample more.
        """
        dense, x = self.dense(), self.x(0)[:2]
        try:
            dense(joined([x, x[:1]]))
        except Exception as error:  # the user's code may raise anything
            found = described(x[0] if isinstance(x, Tensor) else x[:1])
            raise ShapeError(
                f"batches: the network takes {len(x)} samples of {found} at once, but not "
                f"{len(x) + 1}; accepted is any number along the first axis ({STACK})"
            ) from error
        return dense(x), len(x)

    def _chunk(self, chunk: int) -> dict[str, Tensor]:
        return load_file(self.file(chunk))

    def file(self, chunk: int) -> Path:
        chunk = self.chosen[chunk] if self.chosen else chunk
        return Path(self.folder, "samples", f"{chunk:05d}.safetensors")


def _widest(model: nn.Module, example: Inputs) -> int:
    """Bytes of the largest result of one sample."""
    try:
        return largest_result(copied(model), example.to(networks.device_of(model)))
    except Exception:  # noqa: BLE001 - the error shows when the network is followed
        return example.nbytes


def _alike(rows: Iterator[Row], most: int) -> Iterator[list[Row]]:
    """Runs of at most so many samples of the same shapes."""
    for _, run_of in itertools.groupby(rows, lambda row: [*_kinds(row[0]).items()]):
        while part := list(itertools.islice(run_of, most)):
            yield part


def _same(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, all of them of the first one's shape."""
    first: Any = None
    for place, (tensors, label) in enumerate(rows):
        found = _kinds(tensors)[X]
        first = first or found
        if found != first:
            raise ShapeError(
                f"batches: sample {place} has shape {tuple(found[0])}, {found[1]}, the first "
                f"{tuple(first[0])}, {first[1]}; all need the same (a pair alone: [(x, y)])"
            )
        yield tensors, label


def _kinds(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def chunk_size(sample: dict[str, Tensor], widest: int | None = None) -> int:
    """Samples of a chunk: the first layers' results then take some tens of MiB.

    ``widest``: bytes of the largest result of one sample; None: by the first axis of the sample.
    """
    if widest is None:
        x = sample[X]
        widest = 64 * x.numel() * 4 // max(1, x.shape[0] if x.ndim else 1)
    return max(1, min(MAX_CHUNK, CHUNK_BYTES // max(1, widest)))


def sum_parts(
    work: Callable[[Item], Sums],
    parts: Sequence[Sequence[Item]],
    tick: Callable[[], None] = lambda: None,
) -> Sums:
    """``work`` of each chunk: chunks of a part added in their order, parts by halves."""
    sums = in_threads(work, itertools.chain.from_iterable(parts))

    def part(number: int) -> Sums:
        total: Sums | None = None
        for one in itertools.islice(sums, len(parts[number])):
            total = add(total, one)
            tick()
        assert total is not None
        return total

    return add_halves(len(parts), part)


def read_sums(paths: Sequence[Path], names: Sequence[str] | None = None) -> Sums:
    """Sums in the files of all shares, added by halves: those named, or all."""

    def share(number: int) -> Sums:
        with safe_open(paths[number], "pt") as file:
            return {name: file.get_tensor(name) for name in names or file.keys()}

    return add_halves(len(paths), share)


def _write_chunk(root: Path, chunk: int, part: list[Row], before: int) -> None:
    for place, (tensors, _) in enumerate(part, start=before):
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                where = "" if name == X else f" in {name!r}"
                raise NonFiniteError(f"batches: sample {place} holds NaN or infinity{where}")
    stacked = {name: torch.stack([row[name] for row, _ in part]) for name in part[0][0]}
    labels = [label for _, label in part if label is not None]
    if len(labels) == len(part):
        stacked[CLASSES] = torch.stack(labels)
    checkpoint.write_tensors(root / "samples" / f"{chunk:05d}.safetensors", stacked, durable=False)
