from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gfs_dist import data
from gfs_dist.data import DataSpec
from gfs_dist.errors import DataError

tokenizers = pytest.importorskip("tokenizers", reason="needs transformers and its tokenizers")
pytest.importorskip("transformers", reason="needs transformers")

WORDS = [f"w{number}" for number in range(20)]
CLS, SEP, PAD = 21, 22, 23


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of twenty words, and a model's configuration."""
    folder = tmp_path_factory.mktemp("model")
    names = [*WORDS, "?", "[CLS]", "[SEP]", "[PAD]"]
    vocabulary = {word: number for number, word in enumerate(names)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    made.save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
    config = {"model_type": "bert", "architectures": ["BertModel"], "max_position_embeddings": 16}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def load(text: str, model: Path, place: Path, **keys: Any) -> data.Texts:
    file = place / "text.txt"
    file.write_text(text)
    found = data.load_samples(DataSpec("text", path=str(file), tokenizer=str(model), **keys))
    assert isinstance(found, data.Texts)
    return found


def rows_of(found: data.Texts) -> list[list[int]]:
    return [[t for t in row if t >= 0] for row in found.x_train.tolist() + found.x_test.tolist()]


def test_a_stream_is_packed_in_rows_and_every_fifth_block_tested(
    model: Path, tmp_path: Path
) -> None:
    text = "\n".join(" ".join(WORDS[:10]) for _ in range(41))
    found = load(text, model, tmp_path, sequence=5)
    whole = torch.arange(10).repeat(41).reshape(-1, 5)
    is_test = torch.arange(82) // 8 % 5 == 0
    assert torch.equal(found.x_test, whole[is_test])
    assert torch.equal(found.x_train, whole[~is_test])
    inputs = found.inputs(found.x_test[:3])
    assert torch.equal(inputs["input_ids"], found.x_test[:3])
    assert bool(inputs["attention_mask"].all())


def test_a_line_is_a_row_with_special_tokens_and_padding(model: Path, tmp_path: Path) -> None:
    lines = ["w1 w2", "", "w3", "w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 w16 w17 w18", "?"]
    found = load("\n".join(lines), model, tmp_path, sequence=16, rows="lines")
    assert found.x_test.tolist() == [[CLS, 1, 2, SEP, *[-1] * 12]]
    assert found.x_train[1].tolist() == [CLS, *range(4, 18), SEP]  # cut off
    inputs = found.inputs(found.x_test)
    assert inputs["input_ids"].tolist() == [[CLS, 1, 2, SEP, *[PAD] * 4]]
    assert inputs["attention_mask"].tolist() == [[1] * 4 + [0] * 4]


@pytest.mark.parametrize("columns", [None, (2, 4)])
def test_columns_with_sentences_are_rows(
    columns: tuple[int, ...] | None, model: Path, tmp_path: Path
) -> None:
    lines = [f"id\tw{n} w1\t0.5\tw{n} w2" for n in range(4)]
    found = load("\n".join(lines), model, tmp_path, sequence=8, rows="lines", columns=columns)
    whole = [[CLS, n, other, SEP] for n in range(4) for other in (1, 2)]
    assert sorted(rows_of(found)) == sorted(whole)


def test_parts_are_taken_as_of_images(model: Path, tmp_path: Path) -> None:
    text = " ".join(WORDS) * 100
    keys = {"samples": 30, "test_samples": 7, "prune_samples": 9, "sequence": 4}
    found = load(text, model, tmp_path, **keys)
    again = load(text, model, tmp_path, **keys)
    assert (len(found.x_train), len(found.x_test)) == (30, 7)
    assert found.prune_rows is not None and len(found.prune_rows) == 9
    assert found.fingerprint == again.fingerprint
    assert found.fingerprint != load(text, model, tmp_path, **{**keys, "seed": 1}).fingerprint


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("w1 w2 w3", {"sequence": 2}, "too short: found 3 tokens, 1 rows of 2, accepted 4 rows"),
        ("", {"sequence": 2}, "found 0 tokens"),
        ("w1\nw2\n", {"rows": "lines"}, "too short: found 2 rows"),
        ("w1", {"sequence": 17}, "data.sequence: found 17, accepted 2 to 16"),
        ("a\tb\nc\td\n", {"rows": "lines"}, "data.columns: found no column"),
        ("a b\tc\n" * 4, {"rows": "lines", "columns": (3,)}, "found 3, accepted 1 to 2 in line 1"),
        ("w1", {"tokenizer": "/nowhere"}, "data.tokenizer: found no tokenizer in /nowhere"),
        ("w1", {"path": "/nowhere.txt"}, "data.path: found no file /nowhere.txt"),
    ],
)
def test_what_cannot_be_used_is_refused(
    text: str, keys: dict[str, Any], message: str, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "text.txt"
    file.write_text(text)
    spec = {"path": str(file), "tokenizer": str(model), "sequence": 8}
    with pytest.raises(DataError, match=message):
        data.load_samples(DataSpec("text", **{**spec, **keys}))


def test_bytes_that_are_no_text_are_refused(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xff\xfe\x00")
    spec = DataSpec("text", path=str(file), tokenizer=str(model), sequence=8)
    with pytest.raises(DataError, match="text.txt: cannot be read"):
        data.load_samples(spec)
