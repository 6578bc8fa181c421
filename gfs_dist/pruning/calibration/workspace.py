"""The folder that all ranks share while one network is pruned.

dense/             the dense network, as it is stored anywhere
samples/           calibration samples and labels, chunk by chunk
NAME/              results of stages, sums of moments, fitted weights of a pass
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from gfs_dist import networks
from gfs_dist.errors import ConfigError, DataError, InputError, NonFiniteError, ShapeError
from gfs_dist.files import checkpoint
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.json_values import UnstorableError
from gfs_dist.networks.graph.record import record
from gfs_dist.networks.measure.threads import Item, in_threads
from gfs_dist.pruning.calibration.batches import (
    CLASS_NUMBERS,
    STACK,
    WRAP,
    Labels,
    Row,
    read_batches,
)
from gfs_dist.pruning.calibration.moments import Sums, add, add_halves

CPU = torch.device("cpu")
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
    """

    folder: str
    num_samples: int
    num_chunks: int
    labelled: bool = field(compare=False)
    instead: str = field(default="", compare=False)

    @classmethod
    def create(cls, folder: Path | str, model: nn.Module, batches: Iterable[Any]) -> Workspace:
        """Write the network and the samples.

        Args:
            folder: new.
            model: the dense network.
            batches: tensors or arrays, or pairs of these and class numbers (m,); other second
                parts are ignored. Read once, never in memory together.

        Raises:
            DataError: no samples.
            ShapeError, TypeError: not a batch, or of another shape than the first, or refused by
                the network.
            ConfigError: the network cannot be recorded; says what to do.
            NonFiniteError: a sample holds NaN or infinity, or the network's output NaN.
        """
        root = Path(folder)
        (root / "samples").mkdir(parents=True)
        labels = Labels()
        rows = read_batches(batches, labels)
        count, chunks = 0, 0
        first = next(rows, None)
        if first is None:
            raise DataError("batches: found no samples, accepted one or more")
        per_chunk = chunk_size(first[0])
        rows = itertools.chain([first], rows)
        while part := list(itertools.islice(rows, per_chunk)):
            _write_chunk(root, chunks, part, first[0], count)
            count, chunks = count + len(part), chunks + 1
        workspace = cls(str(root), count, chunks, False)
        _write_dense(root / "dense", model, workspace.x(0)[:2])
        outputs, num_samples = workspace._try_rows()
        instead = labels.unusable(outputs, num_samples)
        return replace(workspace, labelled=not instead, instead=instead if labels.given else "")

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

    def x(self, chunk: int) -> Tensor:
        return self._chunk(chunk)["x"]

    def labels(self, chunk: int) -> Tensor:
        """Labels of one chunk, int64."""
        return self._chunk(chunk)["labels"]

    def rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of sorted rows; other chunks than theirs are not read."""
        size = len(self.labels(0))
        x, labels = [], []
        for chunk in torch.unique(rows // size).tolist():
            own = rows[rows // size == chunk] - chunk * size
            x.append(self.x(chunk)[own])
            labels.append(self.labels(chunk)[own])
        return torch.cat(x), torch.cat(labels)

    def samples(self, rows: Tensor) -> Tensor:
        """Inputs of rows in any order; nothing else is read."""
        found: dict[int, Tensor] = {}
        with safe_open(self._file(0), "pt") as file:
            size = file.get_slice("x").get_shape()[0]
        for chunk in torch.unique(rows // size).tolist():
            with safe_open(self._file(chunk), "pt") as file:
                x = file.get_slice("x")
                for row in rows[rows // size == chunk].tolist():
                    found[row] = x[row - chunk * size]
        return torch.stack([found[row] for row in rows.tolist()])

    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
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
        """The dense network in recorded steps; read once a process and device."""
        return _dense(self, device)

    def subfolder(self, *names: str) -> Path:
        """A folder in the workspace, created if it is missing."""
        found = Path(self.folder, *names)
        found.mkdir(parents=True, exist_ok=True)
        return found

    @torch.no_grad()
    def _try_rows(self) -> tuple[Tensor, int]:
        """Outputs of the network for a few samples, and how many.

        Raises:
            ShapeError: it does not take one sample more.
        """
        dense, x = self.dense(), self.x(0)[:2]
        try:
            dense(torch.cat([x, x[:1]]))
        except Exception as error:  # the user's code may raise anything
            raise ShapeError(
                f"batches: the network takes {len(x)} samples of shape {tuple(x.shape[1:])} at "
                f"once, but not {len(x) + 1}; accepted is any number along the first axis ({STACK})"
            ) from error
        return dense(x), len(x)

    def _chunk(self, chunk: int) -> dict[str, Tensor]:
        return load_file(self._file(chunk))

    def _file(self, chunk: int) -> Path:
        return Path(self.folder, "samples", f"{chunk:05d}.safetensors")


@functools.lru_cache(maxsize=2)
def _dense(workspace: Workspace, device: torch.device) -> GraphNetwork:
    if device != CPU:
        return copy.deepcopy(workspace.dense()).to(device)
    network = networks.load(Path(workspace.folder, "dense"))
    try:
        return record(network, workspace.x(0)[:2])
    except UnstorableError as error:
        raise ConfigError(f"model: it cannot be pruned: {error}") from error


def chunk_size(sample: Tensor) -> int:
    """Samples of a chunk: the first layers' results then take some tens of MiB."""
    widest = 64 * sample.numel() * 4 // max(1, sample.shape[0] if sample.ndim else 1)
    return max(1, min(MAX_CHUNK, CHUNK_BYTES // max(1, widest)))


def _write_dense(folder: Path, model: nn.Module, example: Tensor) -> None:
    """Store the network; errors are those of :meth:`Workspace.create`."""
    try:
        networks.save(folder, model, example=example)
    except ShapeError as error:
        wanted, cure = networks.dtype_of(model), WRAP
        if not isinstance(error.__cause__, TypeError):
            cure = f"accepted are samples along the first axis; {STACK}"
            if example.dtype != wanted and "type" in str(error.__cause__):
                cure = f"samples are {example.dtype}, weights {wanted}: convert one to the other"
        raise ShapeError(f"batches: {error}; {cure}") from error
    except ConfigError as error:
        if not isinstance(error.__cause__, UnstorableError):
            raise
        reason = error.__cause__.args[0]  # of its graph: no pruning without one
        raise ConfigError(f"model: it cannot be pruned: {reason}") from error


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


def _write_chunk(root: Path, chunk: int, part: list[Row], first: Tensor, before: int) -> None:
    for place, (x, _) in enumerate(part, start=before):
        if (x.shape, x.dtype) != (first.shape, first.dtype):
            raise ShapeError(
                f"batches: sample {place} has shape {tuple(x.shape)}, {x.dtype}, the first "
                f"{tuple(first.shape)}, {first.dtype}; all need the same (a pair alone: [(x, y)])"
            )
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise NonFiniteError(f"batches: sample {place} holds NaN or infinity")
    tensors = {"x": torch.stack([x for x, _ in part])}
    labels = [label for _, label in part if label is not None]
    if len(labels) == len(part):
        tensors["labels"] = torch.stack(labels)
    checkpoint.write_tensors(root / "samples" / f"{chunk:05d}.safetensors", tensors, durable=False)
