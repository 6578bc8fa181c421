"""Keys of text and of networks of other libraries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gfs_dist.config.compose import compose, compose_file, to_yaml
from gfs_dist.config.groups import HuggingFace, Named, Text
from gfs_dist.config.paths import check_inputs
from gfs_dist.errors import ConfigError, InputError


def folder(home: Path, architecture: str) -> Path:
    made = home / architecture
    made.mkdir()
    config = {"model_type": "bert", "architectures": [architecture]}
    (made / "config.json").write_text(json.dumps(config))
    (made / "vocab.txt").write_text("a\n")
    return made


@pytest.mark.parametrize(
    ("architecture", "rows", "quality"),
    [
        ("LlamaForCausalLM", "packed", "perplexity"),
        ("GPT2LMHeadModel", "packed", "perplexity"),
        ("BertForMaskedLM", "lines", "kl"),
        ("BertModel", "lines", "cosine"),
        ("BertForSequenceClassification", "lines", "kl"),
    ],
)
def test_null_means_what_fits_the_model(
    architecture: str, rows: str, quality: str, tmp_path: Path
) -> None:
    model = folder(tmp_path, architecture)
    words = ["model=hf", f"model.path={model}", "data=text", "data.path=x.txt"]
    config = compose("prune", words)
    assert isinstance(config.model, HuggingFace) and isinstance(config.data, Text)
    assert (config.data.rows, config.quality) == (rows, quality)
    assert config.data.tokenizer == config.checkpoint == str(model)
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert compose_file("prune", tmp_path / "c.yaml") == config
    other = compose("evaluate", [f"path={model}", "data=text", "data.path=x.txt"])
    assert (other.data.rows, other.quality) == (rows, quality)
    assert other.data.tokenizer == str(model)


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_networks_of_packages_have_names(package: str) -> None:
    words = [f"model={package}", "checkpoint=x.pt", "model.kwargs={num_classes:10}"]
    config = compose("prune", [*words, "model.name=resnet18"])
    assert isinstance(config.model, Named)
    assert (config.model.name, config.model.network) == (package, "resnet18")
    assert config.quality is None


def test_a_network_of_ones_own_needs_no_checkpoint() -> None:
    assert compose("prune", ["model=custom", "model.factory=a:b"]).checkpoint is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("model=hf", "model.path: .*"),
        ("model=timm checkpoint=x", "model.network: "),
        ("model=timm model.name=vit", "checkpoint: has no default with model=timm"),
        ("model=hf model.path=x checkpoint=y", "checkpoint: found y, accepted null with model=hf"),
        ("model=custom model.factory=a:b data=text data.path=x", "data.tokenizer: found null"),
        ("model=hf model.path=x quality=cosine", "quality: found cosine, accepted accuracy with"),
        (
            "model=hf model.path=x data=text data.path=x quality=accuracy",
            "quality: found accuracy, accepted perplexity, kl, cosine with data=text",
        ),
        ("quality=kl", "quality: found kl with model=two_layer, accepted with deep networks only"),
        ("model=hf model.path=x data=text data.path=x data.sequence=1", "data.sequence: found 1"),
        ("model.name=resnet18", "model.name: chosen by the group"),
    ],
)
def test_bad_words_are_refused(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose("prune", words.split())


def test_text_is_not_what_networks_are_trained_from_nothing_on() -> None:
    with pytest.raises(ConfigError, match="data: found text, accepted images or numbers"):
        compose("pretrain", ["data=text", "data.path=x", "model=resnet18", "train=sgd"])


def test_a_folder_that_is_not_there_is_named_as_it_was_typed() -> None:
    config = compose("prune", ["model=hf", "model.path=/nowhere", "data=digits"])
    with pytest.raises(InputError, match=r"^model\.path: found none in /nowhere"):
        check_inputs("prune", config)
