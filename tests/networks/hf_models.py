"""Models of transformers, tiny, with weights of a fixed seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
    made = model(config(**settings, **changes)).eval()
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
