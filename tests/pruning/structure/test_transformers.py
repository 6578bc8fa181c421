from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.networks import count_macs, count_params
from gfs_dist.networks.measure.inputs import BatchForm, Inputs, Slot, tensors_of
from gfs_dist.pruning.structure.discover import find_structure
from gfs_dist.pruning.structure.shrink import mask, shrink
from gfs_dist.pruning.structure.structure import Structure
from gfs_dist.pruning.structure.trial_removal import randomised
from gfs_dist.pruning.widths.costs import measure_costs

TEXT = {"vocab_size": 50}
BODY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CAUSAL = TEXT | BODY | {
    "intermediate_size": 48, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
T5 = TEXT | {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
BART = TEXT | {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
}  # fmt: skip
PIXELS = BODY | {"intermediate_size": 48, "image_size": 16, "patch_size": 4}

Kinds = dict[tuple[str, int], int]
"""Layers of a kind with so many candidates."""

FAMILIES: dict[str, tuple[str, dict[str, Any], Kinds]] = {
    "Bert": ("BertModel", TEXT | BODY | {"intermediate_size": 48}, {}),
    "Roberta": ("RobertaModel", TEXT | BODY | {"intermediate_size": 48}, {}),
    "DistilBert": (
        "DistilBertModel", TEXT | {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}, {},
    ),
    "ViT": ("ViTModel", PIXELS, {}),
    "Llama": (
        "LlamaForCausalLM", CAUSAL | {"num_key_value_heads": 2},
        {("kv_groups", 2): 2, ("ffn", 48): 2},
    ),
    "Qwen3": (
        "Qwen3ForCausalLM", CAUSAL | {"num_key_value_heads": 2, "head_dim": 8},
        {("kv_groups", 2): 2, ("ffn", 48): 2},
    ),
    "Phi3": (
        "Phi3ForCausalLM", CAUSAL | {"num_key_value_heads": 2},
        {("kv_groups", 2): 2, ("ffn", 48): 2},
    ),
    "GPTNeoX": ("GPTNeoXForCausalLM", CAUSAL, {}),
    "GPT2": (
        "GPT2LMHeadModel",
        TEXT | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "n_inner": 48}, {},
    ),
    "OPT": ("OPTForCausalLM", CAUSAL | {"ffn_dim": 48, "word_embed_proj_dim": 32}, {}),
    "T5": ("T5ForConditionalGeneration", T5, {("heads", 4): 3, ("ffn", 48): 4}),
    "Bart": ("BartForConditionalGeneration", BART, {("heads", 4): 6, ("ffn", 48): 4}),
}  # fmt: skip
COUNTS = {
    "Bert": {("num_attention_heads", 1)},
    "DistilBert": {("n_heads", 1)},
    "Llama": {("intermediate_size", 1)},
    "Phi3": {("num_key_value_heads", 1), ("config.num_attention_heads", 2)},
    "GPT2": {("num_heads", 1), ("split_size", 8)},
    "T5": {("n_heads", 1), ("inner_dim", 8)},
}


def inputs(**tensors: Tensor) -> Inputs:
    return Inputs(tensors, BatchForm({name: Slot(name) for name in tensors}))


def words(tokens: int, seed: int = 0) -> Tensor:
    return torch.randint(3, 50, (2, tokens), generator=torch.Generator().manual_seed(seed))


@functools.cache
def family(name: str) -> tuple[nn.Module, Inputs, Structure]:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    class_name, settings, _ = FAMILIES[name]
    model_class = getattr(transformers, class_name)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**settings)).eval()
    if name == "ViT":
        x = inputs(pixel_values=torch.randn(2, 3, 16, 16))
    elif name in ("T5", "Bart"):
        x = inputs(input_ids=words(9), decoder_input_ids=words(7, 1))
    else:
        attention_mask = torch.ones(2, 9, dtype=torch.int64)
        x = inputs(input_ids=words(9), attention_mask=attention_mask)
    return model, x, find_structure(model, x)


def every_second(structure: Structure) -> dict[str, list[int]]:
    return {layer.name: list(range(0, layer.num_candidates, 2)) for layer in structure.layers}


def assert_cut_is_masked(model: nn.Module, x: Inputs | Tensor, structure: Structure) -> None:
    """In float64, of random candidates."""
    network = randomised(copy.deepcopy(model).double(), torch.Generator().manual_seed(1))
    kept = every_second(structure)
    given = x.double() if isinstance(x, Inputs) or x.is_floating_point() else x
    run: Callable[[nn.Module], Any] = (
        given.run if isinstance(given, Inputs) else lambda network: network(given)
    )
    with torch.no_grad():
        small = run(shrink(network, structure, kept))
        masked = run(mask(network, structure, kept))
    for one, other in zip(tensors_of(small), tensors_of(masked), strict=True):
        assert one.shape == other.shape
        assert float((one - other).abs().max()) <= 1e-9 * float(other.abs().max())


@pytest.mark.parametrize("name", FAMILIES)
def test_heads_and_neurons_are_found(name: str) -> None:
    found = Counter((one.kind, one.num_candidates) for one in family(name)[2].layers)
    assert found == (FAMILIES[name][2] or {("heads", 4): 2, ("ffn", 48): 2})


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cut_transformer_equals_the_masked_one(name: str) -> None:
    assert_cut_is_masked(*family(name))


@pytest.mark.parametrize("name", COUNTS)
def test_numbers_that_the_code_reads_fall(name: str) -> None:
    counts = {(c.attribute, c.each) for one in family(name)[2].layers for c in one.counts}
    assert counts == COUNTS[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_costs_are_those_of_the_cut_network(name: str) -> None:
    model, x, structure = family(name)
    kept = every_second(structure)
    small, widths = shrink(model, structure, kept), {n: len(own) for n, own in kept.items()}
    costs = measure_costs(model, x, structure)
    assert costs.of("macs", widths) == count_macs(small, x)
    assert costs.of("params", widths) == count_params(small)


def test_a_shared_configuration_stays() -> None:
    model, _, structure = family("Phi3")
    small: Any = shrink(model, structure, every_second(structure))
    assert small.model.layers[0].self_attn.config.num_attention_heads == 2
    assert small.config.num_attention_heads == model.config.num_attention_heads == 4


def test_a_candidate_is_a_head() -> None:
    first = family("GPT2")[2].layers[0]
    (fused,) = first.producers
    (reader,) = first.consumers
    places = [*range(8, 16)]
    assert fused.channels[1] == (*places, *(i + 32 for i in places), *(i + 64 for i in places))
    assert reader.channels[1] == tuple(places)


def test_the_shared_bias_of_t5_goes_with_the_heads_of_all_blocks() -> None:
    first = family("T5")[2].layers[0]
    bias = next(p for p in first.producers if p.module.endswith("relative_attention_bias"))
    assert bias.channels == ((0,), (1,), (2,), (3,))
    assert len(first.consumers) == 2


class Attention(nn.Module):
    """As people write it."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size, self.dim = heads, dim // heads, dim
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(len(x), -1, self.heads, self.size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        shares = (q @ k.transpose(-2, -1) / self.size**0.5).softmax(-1)
        return self.out((shares @ v).transpose(1, 2).reshape(len(x), -1, self.dim))


class Recurrent(nn.Module):
    """A recurrent layer, which stays whole, beside a feed-forward block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Linear(6, 8), nn.GRU(8, 8, batch_first=True)
        self.wide, self.narrow = nn.Linear(8, 20), nn.Linear(20, 8)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.rnn(self.embed(x))
        return x + self.narrow(functional.gelu(self.wide(x)))


def test_attention_of_a_user_is_found() -> None:
    model = nn.Sequential(nn.LayerNorm(24), Attention(24, 6), nn.LayerNorm(24), nn.Linear(24, 3))
    x = torch.randn(2, 5, 24)
    structure = find_structure(model, x)
    (layer,) = structure.layers
    assert (layer.kind, layer.num_candidates, layer.name) == ("heads", 6, "1.query")
    assert {(c.attribute, c.each) for c in layer.counts} == {("heads", 1), ("dim", 4)}
    assert_cut_is_masked(model, x, structure)
    costs = measure_costs(model, x, structure)
    assert costs.dense("macs") == 5 * (4 * 24 * 24 + 24 * 3) + 2 * 24 * 5 * 5


def test_a_recurrent_layer_stays_whole() -> None:
    structure = find_structure(Recurrent(), torch.randn(2, 5, 6))
    assert [(layer.name, layer.kind) for layer in structure.layers] == [("wide", "ffn")]
    reasons = {skip.name: skip.reason for skip in structure.skipped}
    assert reasons["embed"] == "its channels are mixed on the way to 'wide' (a norm, or the like)"
    assert reasons["narrow"] == "network output"


def test_attention_with_its_size_in_the_code_is_skipped() -> None:
    class Fixed(Attention):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(functional.layer_norm(super().forward(x), (24,)).view(len(x), 5, 24))

    model = nn.Sequential(Fixed(24, 6), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))
    structure = find_structure(model, torch.randn(2, 5, 24))
    assert [layer.name for layer in structure.layers] == ["1"]
    assert "called more than once" in next(s.reason for s in structure.skipped if s.name == "0.out")
