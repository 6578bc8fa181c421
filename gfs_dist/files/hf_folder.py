"""Folders of Hugging Face models, read without the library: their ``config.json``, tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gfs_dist.errors import CheckpointError
from gfs_dist.files.untrusted import ARCHITECTURE, load_json, read_json

CONFIG_JSON = "config.json"
TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "vocab.txt", "vocab.json",
)  # fmt: skip
"""Files of which a tokenizer has at least one."""

POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


def hf_config(folder: Path | str) -> dict[str, Any]:
    """The configuration of the model in a folder, or in a network's ``architecture.json`` there.

    Empty where there is none.

    Raises:
        CheckpointError: the file is damaged; names it.
    """
    file = Path(folder) / CONFIG_JSON
    if file.is_file():
        try:
            content = load_json(file)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{file}: found no JSON object, accepted a model's configuration")
        return content
    if (Path(folder) / ARCHITECTURE).is_file():
        found: Any = read_json(Path(folder) / ARCHITECTURE)
        for key in ("builder", "settings", "config"):
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}
    return {}


def is_hf_folder(folder: Path | str) -> bool:
    """Whether it holds the configuration of a model that ``from_pretrained`` reads."""
    return (Path(folder) / CONFIG_JSON).is_file() and "model_type" in hf_config(folder)


def has_tokenizer(folder: Path | str) -> bool:
    """Whether it holds the vocabulary of a tokenizer."""
    return any((Path(folder) / name).is_file() for name in TOKENIZERS)


def quality_of(folder: Path | str) -> str:
    """What tells how well the model in a folder does, by the name of its architecture.

    Returns:
        ``perplexity`` (causal language models), ``kl`` (other language models: divergence from the
        dense one), ``accuracy`` (classifiers), ``cosine`` (the rest: of embeddings).
    """
    names = hf_config(folder).get("architectures") or [""]
    name = str(names[0]) if isinstance(names, list) else ""
    if name.endswith(("CausalLM", "LMHeadModel")):
        return "perplexity"
    if name.endswith(("MaskedLM", "PreTraining", "ConditionalGeneration")):
        return "kl"
    return "accuracy" if name.endswith("Classification") else "cosine"


def positions_of(folder: Path | str) -> int | None:
    """Tokens that the model in a folder takes at most; None where it does not say."""
    config = hf_config(folder)
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        for key in POSITIONS:
            if isinstance(part.get(key), int) and part[key] > 0:
                return int(part[key])
    return None
