"""Models of transformers, tiny, with weights of a fixed seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gfs_dist.pruning.structure.shrink import shrink
from gfs_dist.pruning.structure.structure import Count, Layer, Slice, Structure

NAMES = ("bert", "llama", "gpt2", "vit")

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def tiny(name: str, **changes: Any) -> Any:
    """One of :data:`NAMES`, evaluating; ``changes`` of its configuration."""
    import transformers as t

    tokens = {"vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 0}
    special = {"bos_token_id": 1, "eos_token_id": 2}
    wide = {**SIZES, "intermediate_size": 48}
    gqa = {"num_key_value_heads": 2, "tie_word_embeddings": True, "use_cache": False}
    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "bert": (t.BertModel, t.BertConfig, {**wide, **tokens}),
        "llama": (t.LlamaForCausalLM, t.LlamaConfig, {**wide, **tokens, **special, **gqa}),
        "gpt2": (
            t.GPT2LMHeadModel,
            t.GPT2Config,
            {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False}
            | {"vocab_size": 100, **special},
        ),
        "vit": (
            t.ViTForImageClassification,
            t.ViTConfig,
            {**wide, "image_size": 32, "patch_size": 8, "num_labels": 10},
        ),
    }
    model, config, settings = kinds[name]
    torch.manual_seed(0)
    made = model(config(**{**settings, **changes})).eval()
    with torch.no_grad():  # of the usual ones outputs hardly depend on inputs
        for tensor in made.parameters():
            tensor.copy_(torch.randn(tensor.shape) / (3 if tensor.ndim > 1 else 10))
    return made


def batch(name: str, samples: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Keyword arguments of a model."""
    made = torch.Generator().manual_seed(seed)
    if name == "vit":
        return {"pixel_values": torch.randn(samples, 3, 32, 32, generator=made)}
    return {"input_ids": torch.randint(3, 100, (samples, 12), generator=made)}


def cut(name: str, model: Any, ffn: Sequence[int], heads: Sequence[int] = (4, 4)) -> Any:
    """A copy of a tiny model with so many of the first neurons and heads of each of two layers.

    Heads of ``llama`` are KV groups of two heads; there are two.
    """
    layers, kept = [], {}
    for number, (neurons, some) in enumerate(zip(ffn, heads, strict=True)):
        block = f"{BLOCKS[name]}.{number}"
        for layer in _layers(name, block):
            layers.append(layer)
            stay = neurons if layer.kind == "ffn" else some
            kept[layer.name] = list(range(min(stay, layer.num_candidates)))
    return shrink(model, Structure(tuple(layers), ()), kept)


BLOCKS = {"bert": "encoder.layer", "llama": "model.layers", "gpt2": "transformer.h"}
BLOCKS["vit"] = "vit.layers"

_PARTS: dict[str, tuple[list[str], str, list[str], str]] = {
    "bert": (
        ["intermediate.dense"],
        "output.dense",
        [f"attention.self.{part}" for part in ("query", "key", "value")],
        "attention.output.dense",
    ),
    "llama": (
        ["mlp.gate_proj", "mlp.up_proj"],
        "mlp.down_proj",
        [f"self_attn.{part}_proj" for part in "qkv"],
        "self_attn.o_proj",
    ),
    "gpt2": (["mlp.c_fc"], "mlp.c_proj", ["attn.c_attn"], "attn.c_proj"),
    "vit": (
        ["mlp.fc1"],
        "mlp.fc2",
        [f"attention.{part}_proj" for part in "qkv"],
        "attention.o_proj",
    ),
}


def _layers(name: str, block: str) -> tuple[Layer, Layer]:
    """The neurons and the heads of one block."""
    neurons = tuple((i,) for i in range(128 if name == "gpt2" else 48))
    heads = tuple(tuple(range(8 * i, 8 * i + 8)) for i in range(4))
    pairs = (heads[0] + heads[1], heads[2] + heads[3])
    rows = dict.fromkeys(("query", "key", "value", *"qkv"), heads)
    if name == "llama":
        rows |= {"q": pairs, "k": heads[:2], "v": heads[:2]}
    fused = tuple(tuple(32 * part + i for part in range(3) for i in head) for head in heads)
    first, last, attention, output = _PARTS[name]
    counts: tuple[Count, ...] = ()
    if name == "bert":
        owner = f"{block}.attention.self"
        counts = (Count(owner, "num_attention_heads", 1), Count(owner, "all_head_size", 8))
    if name == "gpt2":
        counts = (Count(f"{block}.attn", "num_heads", 1), Count(f"{block}.attn", "split_size", 8))

    def part(module: str) -> Slice:
        own = module.rpartition(".")[2].removesuffix("_proj")
        return Slice(f"{block}.{module}", rows.get(own, fused))

    read = pairs if name == "llama" else heads
    return (
        Layer(
            f"{block}.{first[0]}",
            len(neurons),
            tuple(Slice(f"{block}.{module}", neurons) for module in first),
            (),
            (Slice(f"{block}.{last}", neurons),),
            kind="ffn",
        ),
        Layer(
            f"{block}.{attention[0]}",
            len(read),
            tuple(map(part, attention)),
            (),
            (Slice(f"{block}.{output}", read),),
            kind="heads",
            counts=counts,
        ),
    )
