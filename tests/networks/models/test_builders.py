"""Networks of other packages are made again from plain data, quickly and without foreign code."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from gfs_dist.errors import ConfigError
from gfs_dist.networks.graph.tensors import named_tensors
from gfs_dist.networks.models.builders import Builder, build_empty, builder_of, make_built
from tests.networks.hf_models import NAMES, tiny

transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_tells_how_it_is_made(name: str) -> None:
    model = tiny(name)
    builder = builder_of(model)
    assert builder is not None
    state = torch.get_rng_state()
    again = build_empty(Builder.parse(json.loads(json.dumps(vars(builder)))))
    assert torch.equal(torch.get_rng_state(), state)
    assert type(again) is type(model) and builder_of(again) == builder
    old, new = named_tensors(model), named_tensors(again)
    assert {n: t.shape for n, t in old.items()} == {n: t.shape for n, t in new.items()}
    assert all(parameter.is_meta for parameter in again.parameters())
    for buffer, made in zip(model.buffers(), again.buffers(), strict=True):
        assert torch.equal(buffer, made)
    assert len(list(model.parameters())) == len(list(again.parameters()))  # tied ones too


def test_a_local_folder_gives_the_model_with_its_weights(tmp_path) -> None:
    model = tiny("llama")
    model.save_pretrained(tmp_path)
    made, builder = make_built("hf", path=tmp_path)
    assert type(made) is type(model) and not made.training and not made.config.use_cache
    assert builder_of(made) == builder and str(tmp_path) not in json.dumps(vars(builder))
    tokens = torch.arange(8)[None]
    assert torch.equal(made(tokens).logits, model(tokens).logits)


def test_other_modules_tell_nothing() -> None:
    assert builder_of(nn.Linear(2, 2)) is None
    assert builder_of(nn.Sequential(tiny("bert"))) is None


def test_a_folder_without_weights_is_refused(tmp_path) -> None:
    model = tiny("bert")
    with pytest.raises(ConfigError, match=r"model.path: found no config.json in"):
        make_built("hf", path=tmp_path)
    names = ("embeddings", "encoder.layer.0", "pooler")
    state = {k: v for k, v in model.state_dict().items() if k.startswith(names)}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ConfigError, match=r"lacks the weights of 'encoder.layer.1"):
        make_built("hf", path=tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class": "pipeline"}, "accepted are those of transformers"),
        ({"class": "os"}, "accepted are those of transformers"),
        ({"class": "BertModel"}, "not one of BertModel"),
        ({"config": {"model_type": "no"}}, "accepted are those of transformers"),
        ({"config": {"model_type": "llama", "auto_map": {"AutoModel": "x--y.Z"}}}, "not accepted"),
        ({"config": {"model_type": "llama", "attn_implementation": "a/b"}}, "not accepted"),
        ({"config": {"model_type": "llama", "x": {"_attn_implementation": "a/b"}}}, "not accepted"),
        ({"config": {"model_type": "llama", "hidden_size": 2**62}}, "accepted below"),
        ({"config": {"model_type": "llama", "hidden_size": -8}}, "model=hf: LlamaForCausalLM"),
        ({"config": {"model_type": "llama", "hidden_act": "import os"}}, "model=hf"),
        ({"attention": "kernels-community/flash-attn"}, "accepted eager, sdpa"),
    ],
)
def test_settings_that_fetch_or_run_something_are_refused(change, words) -> None:
    builder = builder_of(tiny("llama"))
    assert builder is not None
    with pytest.raises(ConfigError, match=words):
        build_empty(Builder("hf", {**builder.settings, **change}, "transformers", "5"))


def test_a_file_cannot_make_endless_networks() -> None:
    builder = builder_of(tiny("llama"))
    assert builder is not None
    config = {**builder.settings["config"], "num_hidden_layers": 10**9}
    with pytest.raises(ConfigError, match="makes more than 100 parameters"):
        build_empty(Builder("hf", {**builder.settings, "config": config}, "transformers", "5"), 100)


@pytest.mark.parametrize(
    "content",
    [
        *(None, {}, {"kind": "hf"}, {"kind": "hf", "settings": [], "package": "transformers"}),
        {"kind": "hf", "settings": {}, "package": "os", "version": "1"},
    ],
)
def test_only_builders_are_parsed(content) -> None:
    with pytest.raises(ConfigError, match="builder: found"):
        Builder.parse(content)


@pytest.mark.parametrize(("kind", "name"), [("timm", "resnet18"), ("torchvision", "resnet18")])
def test_networks_by_name(kind: str, name: str) -> None:
    pytest.importorskip(kind, reason=f"the extra {kind} is not installed")
    network, builder = make_built(kind, name=name, kwargs={"num_classes": 7})
    again = build_empty(builder)
    old, new = named_tensors(network), named_tensors(again)
    assert {n: t.shape for n, t in old.items()} == {n: t.shape for n, t in new.items()}
    with pytest.raises(ConfigError, match="has no model 'nothing'"):
        make_built(kind, name="nothing")
    with pytest.raises(ConfigError, match="found 'checkpoint_path', accepted"):
        make_built(kind, name=name, kwargs={"checkpoint_path": "x"})


def test_a_model_of_timm_tells_its_name() -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    builder = builder_of(timm.create_model("resnet18", num_classes=5, in_chans=1))
    assert builder is not None
    assert builder.settings == {"name": "resnet18", "kwargs": {"num_classes": 5, "in_chans": 1}}


def test_a_missing_package_is_one_error(monkeypatch) -> None:
    builder = builder_of(tiny("bert"))
    assert builder is not None
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"is not installed: pip install 'gfs-dist\[hf\]'"):
        build_empty(builder)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"timm is not installed: pip install 'gfs-dist\[timm\]'"):
        make_built("timm", name="resnet18")
