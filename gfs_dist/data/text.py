"""Text as numbers of tokens: one stream in rows of equal length, or a line a row."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from gfs_dist.data.balanced import balanced_splits, divided
from gfs_dist.data.reading import needed_path, refuse_larger, refusing_damage
from gfs_dist.data.spec import DataSpec, Splits
from gfs_dist.errors import DataError
from gfs_dist.files import fingerprint
from gfs_dist.files.hf_folder import has_tokenizer, positions_of

NO_TOKEN = -1
MULTIPLE = 8
"""Rows are padded to multiples of this."""

TEST_EVERY, BLOCK = 5, 8
FEWEST_ROWS = 4
PIECE = 2**20
"""Characters that are split into tokens at once, up to the end of a line."""

LOOKED_AT = 100
"""Lines of which columns are judged."""


@dataclass(frozen=True)
class Texts(Splits):
    """Numbers of tokens of both splits, int64 (m, tokens), -1 behind the last one of a row.

    Labels are all 0: there are none.

    Attributes:
        pad: number of the token that stands for none.
        unit: what a row is, in words.
    """

    pad: int = 0
    unit: str = "tokens"

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all rows; changes whenever text or tokenizer do."""
        return fingerprint(*self.tensors, torch.tensor([self.pad]))

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` (0 at padding), int64, as long as the longest row
        needs, in multiples of 8.
        """
        real = x != NO_TOKEN
        longest = int(real.sum(1).max()) if len(x) else 1
        width = min(x.shape[1], -(-longest // MULTIPLE) * MULTIPLE)
        x, real = x[:, :width], real[:, :width]
        return {"input_ids": x.masked_fill(~real, self.pad), "attention_mask": real.long()}

    @property
    def shape(self) -> str:
        return f"{self.x_train.shape[1]} {self.unit}"

    @property
    def input_words(self) -> str:
        return f"input_ids and attention_mask, int64 (N, at most {self.x_train.shape[1]})"


def load_texts(spec: DataSpec) -> Texts:
    """The rows of ``data.path``, UTF-8, in tokens of ``data.tokenizer``.

    ``packed``: the tokens of the whole text one after another, in rows of ``data.sequence``; what
    is left at the end is left out. ``lines``: a row for every line, or, with tabs, for every cell
    of ``data.columns``, with the special tokens of the model, cut off at ``data.sequence``.

    Of every five blocks of 8 rows (of fewer, where there are fewer than 80 rows) the first is for
    tests: rows near each other are of one article.

    Raises:
        DataError: no file, no tokenizer, no text in columns, longer rows than the model has
            positions, too few rows; names the key.
    """
    path = needed_path(spec, "path", "the file of text")
    if not path.is_file():
        raise DataError(f"data.path: found no file {path}")
    folder = needed_path(spec, "tokenizer", "the folder of a model with its tokenizer")
    positions = positions_of(folder)
    if positions is not None and spec.sequence > positions:
        raise DataError(
            f"data.sequence: found {spec.sequence}, accepted 2 to {positions}, the positions of "
            f"the model in {folder}"
        )
    refuse_larger(path, 40 * path.stat().st_size)
    with refusing_damage(path):
        text = path.read_text(encoding="utf-8")
    tokenizer = read_tokenizer(folder)
    x = _packed(text, tokenizer, spec) if spec.rows == "packed" else _lines(text, tokenizer, spec)
    block = max(1, min(BLOCK, len(x) // (2 * TEST_EVERY)))
    is_test = torch.arange(len(x)) // block % TEST_EVERY == 0
    pad = getattr(tokenizer, "pad_token_id", None)
    labels = torch.zeros(len(x), dtype=torch.int64)
    found = Texts(
        x[~is_test],
        labels[~is_test],
        x[is_test],
        labels[is_test],
        1,
        pad=0 if pad is None else int(pad),
        unit="tokens" if spec.rows == "packed" else "tokens at most",
    )
    return divided(cast(Texts, balanced_splits(found, spec)), spec)


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of the model in a folder; nothing is asked of the network, no code is run.

    Raises:
        DataError: there is none, or ``transformers`` is not installed.
    """
    if not has_tokenizer(folder):
        raise DataError(
            f"data.tokenizer: found no tokenizer in {folder}, accepted the folder of a model with "
            "tokenizer.json, tokenizer.model or vocab.txt"
        )
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError(
            "data=text: needs the package transformers: pip install 'gfs-dist[hf]'"
        ) from error
    with refusing_damage(f"data.tokenizer: {folder}"):
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def _packed(text: str, tokenizer: Any, spec: DataSpec) -> Tensor:
    ids = [
        torch.tensor(tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"])
        for piece in _pieces(text)
    ]
    stream = torch.cat([part.long() for part in ids]) if ids else torch.zeros(0, dtype=torch.int64)
    count = len(stream) // spec.sequence
    _refuse_few(count, spec, f"{len(stream):,} tokens, {count} rows of {spec.sequence}")
    return stream[: count * spec.sequence].reshape(count, spec.sequence)


def _pieces(text: str) -> Iterator[str]:
    """Parts of about :data:`PIECE` characters that end with a line."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + PIECE) + 1 or len(text)
        yield text[start:end]
        start = end


def _lines(text: str, tokenizer: Any, spec: DataSpec) -> Tensor:
    cells = list(_cells([line for line in text.splitlines() if line.strip()], spec))
    _refuse_few(len(cells), spec, f"{len(cells)} rows")
    found = tokenizer(cells, truncation=True, max_length=spec.sequence, padding=False)["input_ids"]
    longest = max(map(len, found))
    width = min(spec.sequence, -(-longest // MULTIPLE) * MULTIPLE)
    x = torch.full((len(found), width), NO_TOKEN)
    for row, ids in enumerate(found):
        x[row, : len(ids)] = torch.tensor(ids)
    return x


def _cells(lines: list[str], spec: DataSpec) -> Iterator[str]:
    """The texts of all lines, in order."""
    split = [line.split("\t") for line in lines]
    columns = spec.columns
    if columns is None:
        columns = _sentences(split[:LOOKED_AT], spec)
    for number, cells in enumerate(split, start=1):
        for column in columns:
            if not 1 <= column <= len(cells):
                raise DataError(
                    f"data.columns: found {column}, accepted 1 to {len(cells)} in line {number} "
                    f"(of those that are not empty) of {spec.path}"
                )
            if cells[column - 1].strip():
                yield cells[column - 1].strip()


def _sentences(split: list[list[str]], spec: DataSpec) -> tuple[int, ...]:
    """The columns of which most cells have several words; all of a file without tabs."""
    fewest = min(map(len, split), default=1)
    if all(len(cells) == 1 for cells in split):
        return (1,)
    found = tuple(
        column + 1
        for column in range(fewest)
        if 2 * sum(" " in cells[column].strip() for cells in split) > len(split)
    )
    if not found:
        raise DataError(
            f"data.columns: found no column of {spec.path} with sentences, accepted numbers of "
            "columns, from 1, as in data.columns=[2,3]"
        )
    return found


def _refuse_few(count: int, spec: DataSpec, found: str) -> None:
    if count < FEWEST_ROWS:
        raise DataError(
            f"data.path: {spec.path} is too short: found {found}, accepted {FEWEST_ROWS} rows or "
            "more" + (" (a smaller data.sequence gives more)" if spec.rows == "packed" else "")
        )
