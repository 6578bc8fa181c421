"""Pruned networks of transformers, loaded by transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gfs_dist.errors import ConfigError
from gfs_dist.files import checkpoint
from gfs_dist.networks.measure.inputs import BatchForm, Inputs, Slot
from gfs_dist.networks.models.builders import builder_of
from gfs_dist.networks.storage.stock import check_stock, stock_form, write_hf_files
from tests.networks.hf_models import batch, tiny

pytest.importorskip("transformers", reason="the extra gfs-dist[hf] is not installed")

HEAD = 8


def inputs(name: str) -> Inputs:
    tensors = batch(name)
    return Inputs(tensors, BatchForm({key: Slot(key) for key in tensors}))


def narrow(layer: Any, outputs: int | None = None, taken: int | None = None) -> None:
    """Keep the first outputs or inputs of a linear layer."""
    layer.weight = nn.Parameter(layer.weight[:outputs, :taken].detach().clone())
    if outputs and layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[:outputs].detach().clone())
    layer.out_features, layer.in_features = layer.weight.shape


def narrow_llama(model: Any, width: int = 10, *, groups: int = 2) -> None:
    for block in model.model.layers:
        narrow(block.mlp.gate_proj, width)
        narrow(block.mlp.up_proj, width)
        narrow(block.mlp.down_proj, None, width)
        own = block.self_attn
        narrow(own.q_proj, groups * 2 * HEAD)
        narrow(own.k_proj, groups * HEAD)
        narrow(own.v_proj, groups * HEAD)
        narrow(own.o_proj, None, groups * 2 * HEAD)


def add_bias(layer: Any) -> None:
    layer.bias = nn.Parameter(torch.randn(layer.out_features))


def stored(folder: Path, model: nn.Module, name: str) -> dict[str, Any]:
    """The configuration that was written, and the difference."""
    builder = builder_of(model)
    assert builder is not None
    stock, small = stock_form(model, builder)
    checkpoint.write_tensors(folder / checkpoint.MODEL, stock.state_dict())
    write_hf_files(folder, stock)
    assert check_stock(folder, model, inputs(name), type(model).__name__) <= 1e-5
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    assert all(config[k] == v for k, v in small.settings["config"].items() if k.endswith("_size"))
    return config


def test_groups_of_keys_and_gated_blocks(tmp_path: Path) -> None:
    model = tiny("llama")
    narrow_llama(model, groups=1)
    config = stored(tmp_path, model, "llama")
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (2, 1)
    assert (config["head_dim"], config["intermediate_size"]) == (HEAD, 10)
    assert not config["attention_bias"]
    assert (tmp_path / "generation_config.json").is_file()


def test_biases_of_a_refit_have_a_place_where_the_configuration_has_one(tmp_path: Path) -> None:
    model = tiny("llama")
    narrow_llama(model)
    for block in model.model.layers:
        add_bias(block.mlp.down_proj)
        add_bias(block.self_attn.o_proj)
    config = stored(tmp_path, model, "llama")
    assert config["attention_bias"] and config["mlp_bias"]
    assert config["num_attention_heads"] == 4


def test_one_half_of_the_biases_takes_one_key(tmp_path: Path) -> None:
    model = tiny("llama")
    for block in model.model.layers:
        add_bias(block.mlp.down_proj)
    config = stored(tmp_path, model, "llama")
    assert config["mlp_bias"] and not config["attention_bias"]


def test_feed_forward_blocks_of_bert(tmp_path: Path) -> None:
    model = tiny("bert")
    for block in model.encoder.layer:
        narrow(block.intermediate.dense, 20)
        narrow(block.output.dense, None, 20)
    assert stored(tmp_path, model, "bert")["intermediate_size"] == 20


def test_gpt2_says_its_width_where_it_had_none(tmp_path: Path) -> None:
    model = tiny("gpt2")
    for block in model.transformer.h:
        up, down = block.mlp.c_fc, block.mlp.c_proj
        up.weight = nn.Parameter(up.weight[:, :30].detach().clone())
        up.bias, up.nf = nn.Parameter(up.bias[:30].detach().clone()), 30
        down.weight = nn.Parameter(down.weight[:30].detach().clone())
    assert stored(tmp_path, model, "gpt2")["n_inner"] == 30


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    (tmp_path / "dense").mkdir()
    (tmp_path / "small").mkdir()
    (tmp_path / "dense" / "tokenizer.json").write_text("{}")
    (tmp_path / "dense" / "pytorch_model.bin").write_text("")
    write_hf_files(tmp_path / "small", tiny("bert"), tmp_path / "dense")
    assert {file.name for file in (tmp_path / "small").iterdir()} == {
        "config.json",
        "tokenizer.json",
    }


def test_widths_that_differ_between_blocks_are_no_stock_network() -> None:
    model = tiny("llama")
    builder = builder_of(model)
    assert builder is not None
    narrow(model.model.layers[1].mlp.gate_proj, 9)
    with pytest.raises(ConfigError, match=r"widths differ between blocks: .*layers\.1\.mlp\.gate"):
        stock_form(model, builder)


def test_heads_of_bert_have_no_key() -> None:
    model = tiny("bert")
    builder = builder_of(model)
    assert builder is not None
    for block in model.encoder.layer:
        for part in ("query", "key", "value"):
            narrow(getattr(block.attention.self, part), 24)
        narrow(block.attention.output.dense, None, 24)
    with pytest.raises(ConfigError, match=r"query.weight': its configuration has no key"):
        stock_form(model, builder)


def test_a_bias_without_a_key_is_told() -> None:
    model = tiny("llama")
    builder = builder_of(model)
    assert builder is not None
    add_bias(model.lm_head)
    with pytest.raises(ConfigError, match=r"'lm_head.bias': its class takes no bias there"):
        stock_form(model, builder)


def test_another_output_is_found(tmp_path: Path) -> None:
    model = tiny("llama")
    checkpoint.write_tensors(tmp_path / checkpoint.MODEL, model.state_dict())
    write_hf_files(tmp_path, model)
    with torch.no_grad():
        model.lm_head.weight[3] += 0.1
    with pytest.raises(ConfigError, match="its output differs by"):
        check_stock(tmp_path, model, inputs("llama"), "LlamaForCausalLM")
