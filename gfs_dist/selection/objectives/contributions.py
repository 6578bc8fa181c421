"""Contributions ``phi_i`` of candidates to the output, read or computed tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from gfs_dist.errors import NonFiniteError, ShapeError

TILE_NUMBERS = 2**22
FEW = 256
"""Candidates that are copied one by one."""


class Contributions(Protocol):
    """The matrix of contributions, candidates in rows; need not be in memory as a whole.

    Attributes:
        num_candidates: rows.
        num_samples: samples the loss averages over.
        num_outputs: outputs a sample has; a row holds ``num_samples * num_outputs`` numbers,
            sample by sample.
        dtype, device: of tiles; float32 or float64.
        remake_cost: multiply-adds to compute one number of a tile again (1 if it is read).
    """

    num_candidates: int
    num_samples: int
    num_outputs: int
    dtype: torch.dtype
    device: torch.device
    remake_cost: int

    def tile(self, candidates: Tensor | None, start: int, stop: int) -> Tensor:
        """Rows ``candidates`` (None: all) over samples start..stop-1; may be a view."""
        ...


class ArrayContributions:
    """Contributions given as a tensor (samples, candidates[, outputs]), never copied."""

    remake_cost = 1

    def __init__(self, tensor: Tensor) -> None:
        if tensor.ndim not in (2, 3) or 0 in tensor.shape:
            raise ShapeError(
                f"contributions: found shape {tuple(tensor.shape)}, accepted (samples, neurons) "
                "or (samples, neurons, outputs), none of them empty"
            )
        self.tensor = tensor
        self.num_samples, self.num_candidates = tensor.shape[:2]
        self.num_outputs = tensor.shape[2] if tensor.ndim == 3 else 1
        self.dtype, self.device = tensor.dtype, tensor.device

    def tile(self, candidates: Tensor | None, start: int, stop: int) -> Tensor:
        part = self.tensor[start:stop]
        if candidates is not None and (run := _as_slice(candidates)):
            part = part[:, run]  # neighbours are a view
        elif candidates is not None and part.ndim == 2 and len(candidates) <= FEW:
            return part.T[candidates.to(self.device)]  # a quarter of the time of the next line
        elif candidates is not None:
            part = part.index_select(1, candidates.to(self.device))
        return part.T if part.ndim == 2 else part.transpose(1, 2).flatten(0, 1).T


Shift = Callable[[Tensor, int], Tensor]
"""From rows of contributions (float64, from an output number on) to rows that a loss uses."""


class Deviations:
    """Contributions less what the loss subtracts from its output: ``psi_i``, float64.

    Coefficients of a search sum to 1, so that a loss may subtract from every contribution what it
    subtracts from the output (squared: the target). A common offset is gone before anything is
    multiplied or added up, where it would cost digits: ``fl(phi - y) = (phi - y) (1 + 2**-53)``.
    """

    dtype = torch.float64

    def __init__(self, source: Contributions, shift: Shift) -> None:
        self._source, self._shift = source, shift
        self.num_candidates, self.num_samples = source.num_candidates, source.num_samples
        self.num_outputs, self.device = source.num_outputs, source.device
        self.remake_cost = source.remake_cost

    def tile(self, candidates: Tensor | None, start: int, stop: int) -> Tensor:
        rows = self._source.tile(candidates, start, stop).to(torch.float64)
        return self._shift(rows, start * self.num_outputs)

    def hold(self, own: Tensor, tick: Callable[[], None]) -> Contributions:
        """Own candidates alone, each in contiguous memory, in the dtype of the source; they count
        from 0.
        """
        if self._source.dtype == torch.float64:
            return HeldContributions(self, own, tick)
        return Deviations(HeldContributions(self._source, own, tick), self._shift)


class HeldContributions:
    """Rows of some candidates of a source, held in memory; they count from 0."""

    remake_cost = 1

    def __init__(self, source: Contributions, own: Tensor, tick: Callable[[], None]) -> None:
        self.num_candidates, self.num_samples = len(own), source.num_samples
        self.num_outputs, self.dtype, self.device = source.num_outputs, source.dtype, source.device
        length = source.num_samples * source.num_outputs
        self._rows = torch.empty(len(own), length, dtype=source.dtype, device=source.device)
        for start, stop in chunks(source):
            numbers = slice(start * self.num_outputs, stop * self.num_outputs)
            self._rows[:, numbers] = source.tile(own, start, stop)
            tick()

    def tile(self, candidates: Tensor | None, start: int, stop: int) -> Tensor:
        rows = self._rows[:, start * self.num_outputs : stop * self.num_outputs]
        return rows if candidates is None else rows[candidates.to(self.device)]


def _as_slice(candidates: Tensor) -> slice | None:
    """The slice of candidates that are neighbours in order; None for others."""
    if len(candidates) == 0:
        return None
    run = slice(int(candidates[0]), int(candidates[-1]) + 1)
    if run.stop - run.start != len(candidates):
        return None
    neighbours = torch.arange(run.start, run.stop, device=candidates.device)
    return run if torch.equal(candidates, neighbours) else None


def chunks(source: Contributions) -> Iterator[tuple[int, int]]:
    """Runs of samples that do not depend on the partition: (start, stop) in order.

    A tile of all candidates over one run holds about ``TILE_NUMBERS`` numbers.
    """
    width = source.num_candidates * source.num_outputs
    size = max(64, min(4096, TILE_NUMBERS // width))
    for start in range(0, source.num_samples, size):
        yield start, min(start + size, source.num_samples)


def check_finite(
    tile: Tensor, square_sums: Tensor, candidates: Tensor | None, start: int, num_outputs: int
) -> None:
    """Refuse NaN and infinity, naming neuron and sample, once sums of squares show them."""
    bad = ~torch.isfinite(square_sums)
    if not bad.any():
        return
    row = int(bad.to(torch.uint8).argmax())
    neuron = row if candidates is None else int(candidates[row])
    places = (~torch.isfinite(tile[row])).nonzero()
    if len(places) == 0:
        raise NonFiniteError(
            f"contributions: neuron {neuron} holds {float(tile[row].abs().max()):.3g}, whose "
            "square overflows; accepted are magnitudes below 1e150"
        )
    sample = start + int(places[0]) // num_outputs
    value = float(tile[row].reshape(-1)[int(places[0])])
    raise NonFiniteError(
        f"contributions: neuron {neuron}, sample {sample} holds {value}, accepted finite numbers"
    )


def check_target(target: Tensor, source: Contributions) -> Tensor:
    """The target as float64 (samples * outputs,) on the device of the contributions."""
    accepted = (source.num_samples, source.num_outputs)
    shapes = [accepted, accepted[:1]] if source.num_outputs == 1 else [accepted]
    if tuple(target.shape) not in shapes:
        raise ShapeError(
            f"target: found shape {tuple(target.shape)}, accepted {shapes[-1]} to fit the "
            f"contributions of {source.num_samples} samples"
        )
    flat = target.reshape(-1).to(torch.float64)
    bad = (~torch.isfinite(flat)).nonzero()
    if len(bad):
        place = int(bad[0])
        raise NonFiniteError(
            f"target: sample {place // source.num_outputs} holds {float(flat[place])}, "
            "accepted finite numbers"
        )
    if not torch.isfinite(flat.square().sum()):
        place = int(flat.abs().argmax())
        raise NonFiniteError(
            f"target: sample {place // source.num_outputs} holds {float(flat[place]):.3g}, whose "
            "square overflows; accepted are magnitudes below 1e150"
        )
    return flat.to(source.device)
