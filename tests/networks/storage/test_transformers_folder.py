"""Where a configuration can say the widths, stock transformers loads what was stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gfs_dist
from gfs_dist import networks
from gfs_dist.networks.measure.inputs import BatchForm, Inputs, Slot
from tests.networks.hf_models import batch, cut, tiny

transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")


def save(folder: Path, name: str, small: Any, model: Any) -> dict[str, str]:
    given = batch(name, 2)
    example = Inputs(given, BatchForm({key: Slot(key) for key in given}))
    return networks.save(folder, small, example=example, builder=networks.builder_of(model))


@pytest.mark.parametrize(
    ("name", "ffn", "heads"),
    [
        ("bert", (20, 20), (4, 4)),
        ("llama", (20, 20), (1, 1)),
        ("gpt2", (20, 20), (4, 4)),
        ("vit", (20, 20), (3, 3)),
    ],
)
def test_layers_of_the_same_widths_load_in_stock_transformers(tmp_path, name, ffn, heads) -> None:
    model = tiny(name)
    small = cut(name, model, ffn, heads)
    assert save(tmp_path / "x", name, small, model) == {"loads": "transformers"}
    stock = type(model).from_pretrained(tmp_path / "x", local_files_only=True)
    ours = gfs_dist.load(tmp_path / "x")
    given = batch(name, 3, seed=1)
    wanted = small(**given)[0]
    assert torch.equal(stock(**given)[0], wanted) and torch.equal(ours(**given)[0], wanted)
    auto = transformers.AutoConfig.from_pretrained(tmp_path / "x")
    assert auto.architectures == [type(model).__name__] and str(auto.dtype) == "torch.float32"
    if name == "llama":
        assert (auto.num_attention_heads, auto.num_key_value_heads, auto.head_dim) == (2, 1, 8)
        assert stock.lm_head.weight is stock.get_input_embeddings().weight
        made = stock.generate(given["input_ids"], max_new_tokens=4, do_sample=False)
        assert stock.config.use_cache and made.shape == (3, 16)


@pytest.mark.parametrize(
    ("name", "ffn", "heads", "reason"),
    [
        ("bert", (20, 20), (3, 3), "gives 'encoder.layer.0.attention.self.query.weight' the sha"),
        ("bert", (20, 7), (4, 4), "intermediate_size would be 7 in 'encoder.layer.1.output"),
        ("llama", (20, 20), (1, 2), "num_attention_heads would be 2 in 'model.layers.0.self_attn"),
        ("gpt2", (20, 20), (3, 3), "gives 'transformer.h.0.attn.c_attn.weight' the shape .32, 72"),
    ],
)
def test_other_widths_need_gfs_dist_and_say_why(tmp_path, name, ffn, heads, reason) -> None:
    model = tiny(name)
    told = save(tmp_path / "x", name, cut(name, model, ffn, heads), model)
    assert told["loads"] == "gfs_dist.load"
    assert reason.replace(".32", "(32") in told["reason"]
    names = {path.name for path in (tmp_path / "x").iterdir()}
    assert names == {"architecture.json", "model.safetensors"}


def test_a_bias_that_the_configuration_lacks_is_told(tmp_path) -> None:
    model = tiny("llama")
    small = cut("llama", model, (20, 20), (2, 2))
    small.model.layers[0].mlp.down_proj.bias = nn.Parameter(torch.ones(32))
    told = save(tmp_path / "x", "llama", small, model)
    reason = "its configuration says nothing of 'model.layers.0.mlp.down_proj.bias'"
    assert told == {"loads": "gfs_dist.load", "reason": reason}
    given = batch("llama")
    assert torch.equal(gfs_dist.load(tmp_path / "x")(**given)[0], small(**given)[0])


def test_the_tokenizer_comes_along_from_folder_to_folder(tmp_path) -> None:
    tiny("bert").save_pretrained(tmp_path / "a")
    for name in ("vocab.txt", "tokenizer_config.json", "notes.txt", "model.bin"):
        (tmp_path / "a" / name).write_text("{}")
    model, _ = networks.make_built("hf", path=tmp_path / "a")
    save(tmp_path / "b", "bert", cut("bert", model, (20, 20)), model)
    again = gfs_dist.load(tmp_path / "b")
    save(tmp_path / "c", "bert", again, again)
    names = {path.name for path in (tmp_path / "c").iterdir()}
    assert names == {path.name for path in (tmp_path / "b").iterdir()}
    assert {"vocab.txt", "tokenizer_config.json"} < names and not {"notes.txt", "model.bin"} & names
    assert save(tmp_path / "d", "bert", cut("bert", model, (20, 7)), model)["reason"]
    assert (tmp_path / "d" / "vocab.txt").is_file() and not (
        tmp_path / "d" / "config.json"
    ).exists()
    for folder in ("b", "c"):
        content = (tmp_path / folder / "architecture.json").read_text()
        assert str(tmp_path) not in content
        assert json.loads(content)["builder"]["settings"]["config"]["intermediate_size"] == 48
