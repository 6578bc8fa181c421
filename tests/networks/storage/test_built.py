"""Networks of known packages are stored by builder and removals, and load anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gfs_dist
from gfs_dist import networks
from gfs_dist.errors import CheckpointError, ConfigError
from gfs_dist.networks.measure.inputs import BatchForm, Inputs, Slot
from gfs_dist.pruning.structure.shrink import shrink
from gfs_dist.pruning.structure.structure import Layer, Slice, Structure
from tests.networks.hf_models import NAMES, batch, cut, tiny

transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")

RESNET = Layer(
    "layer1.0.conv1",
    64,
    (Slice("layer1.0.conv1", tuple((i,) for i in range(64))),),
    (Slice("layer1.0.bn1", tuple((i,) for i in range(64))),),
    (Slice("layer1.0.conv2", tuple((i,) for i in range(64))),),
)

FFN, HEADS = (20, 7), {"llama": (1, 2)}


def inputs(tensors: dict[str, Tensor]) -> Inputs:
    return Inputs(tensors, BatchForm({name: Slot(name) for name in tensors}))


def store(folder: Path, model: Any, small: Any, name: str) -> dict[str, Any]:
    example = inputs(batch(name, 2))
    networks.save(folder, small, example=example, builder=networks.builder_of(model))
    content: dict[str, Any] = json.loads((folder / "architecture.json").read_text())
    return content


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """Cut models of all names with their outputs, and what a new process made of them."""
    home = tmp_path_factory.mktemp("built")
    for name in NAMES:
        model = tiny(name)
        small = cut(name, model, FFN, HEADS.get(name, (3, 2)))
        store(home / name, model, small, name)
        outputs = small(**batch(name, 3, seed=1))[0].detach()
        torch.save({**batch(name, 3, seed=1), "outputs": outputs}, home / f"{name}.pt")
    script = """
import sys, torch, gfs_dist
for name in sys.argv[2:]:
    given = torch.load(f"{sys.argv[1]}/{name}.pt")
    wanted = given.pop("outputs")
    model = gfs_dist.load(f"{sys.argv[1]}/{name}")
    same = torch.equal(model(**given)[0], wanted)
    print(name, type(model).__name__, same, model.training)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(home), *NAMES],
        check=True,
        text=True,
        capture_output=True,
    )
    (home / "said").write_text(done.stdout)
    return home


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_process_makes_the_same_network_again(stored: Path, name: str) -> None:
    kind = type(tiny(name)).__name__
    assert f"{name} {kind} True False" in (stored / "said").read_text().splitlines()
    content = json.loads((stored / name / "architecture.json").read_text())
    assert content["model"] == "hf" and content["builder"]["settings"]["class"] == kind


def test_counts_of_heads_are_in_the_record(stored: Path) -> None:
    content = json.loads((stored / "gpt2" / "architecture.json").read_text())
    assert content["removals"]["sizes"]["transformer.h.0.attn"] == {
        "num_heads": 3,
        "split_size": 24,
    }


def test_tied_weights_stay_tied(stored: Path) -> None:
    model: Any = gfs_dist.load(stored / "llama")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    tokens = batch("llama")["input_ids"]
    assert model.generate(tokens, max_new_tokens=3, do_sample=False).shape == (4, 15)


def test_a_network_that_was_loaded_is_cut_and_stored_again(stored: Path, tmp_path) -> None:
    second: Any = gfs_dist.load(stored / "gpt2")
    mlp = second.transformer.h[0].mlp
    with torch.no_grad():
        mlp.c_fc.weight = nn.Parameter(mlp.c_fc.weight[:, :6].clone())
        mlp.c_fc.bias, mlp.c_fc.nf = nn.Parameter(mlp.c_fc.bias[:6].clone()), 6
        mlp.c_proj.weight, mlp.c_proj.nx = nn.Parameter(mlp.c_proj.weight[:6].clone()), 6
    assert networks.builder_of(second) == networks.builder_of(tiny("gpt2"))
    store(tmp_path / "again", second, second, "gpt2")
    again = gfs_dist.load(tmp_path / "again")
    given = batch("gpt2")
    assert torch.equal(again(**given)[0], second(**given)[0])


def test_buffers_that_code_makes_otherwise_are_stored(tmp_path) -> None:
    model = tiny("llama").half()  # and with it the frequencies, which are outside the state dict
    store(tmp_path / "half", model, model, "llama")
    again: Any = gfs_dist.load(tmp_path / "half")
    assert again.model.rotary_emb.inv_freq.dtype == torch.float16
    kept = tiny("llama").to(torch.bfloat16)
    kept.model.rotary_emb.inv_freq = tiny("llama").model.rotary_emb.inv_freq
    kept.model.rotary_emb.original_inv_freq = kept.model.rotary_emb.inv_freq
    store(tmp_path / "kept", kept, kept, "llama")
    again = gfs_dist.load(tmp_path / "kept")
    assert again.dtype == torch.bfloat16 and again.model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_model_that_was_changed_by_hand_is_refused(tmp_path) -> None:
    model = tiny("bert")
    builder = networks.builder_of(model)
    model.encoder.layer[0].output.dropout = nn.Tanh()
    with pytest.raises(ConfigError, match="it cannot be stored: made again, it gives other numb"):
        networks.save(tmp_path / "x", model, example=inputs(batch("bert", 2)), builder=builder)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["builder"], None, "builder: found None"),
        (["builder", "package"], "os", "builder: found"),
        (["builder", "kind"], "timm", "builder: found"),
        (["builder", "settings", "class"], "AutoModel", "accepted are those of transformers"),
        (["builder", "settings", "config", "auto_map"], {"AutoModel": "x.y"}, "not accepted"),
        (["builder", "settings", "config", "num_hidden_layers"], 10**6, "makes more than"),
        (["builder", "settings", "config", "num_hidden_layers"], 3, "no such tensor"),
        (["builder", "settings", "config", "vocab_size"], 10**12, "model=hf|found 10000"),
        (["builder", "settings", "config", "max_position_embeddings"], 10**9, "model=hf|it makes"),
        (["removals"], None, "removals: found NoneType"),
        (["removals", "sizes", ""], {"forward": 3}, "has no 'forward' to be 3"),
        (["removals", "sizes", ""], {"config.hidden_act": 3}, "has no 'config.hidden_act'"),
        (["removals", "sizes", ""], {"config.hidden_size": "os"}, "has no 'config.hidden_size'"),
        (["removals", "sizes", ""], {"config.hidden_size": 2**40}, "has no 'config.hidden_size'"),
        (["removals", "sizes", "no.layer"], {"out_features": 3}, "has no layer 'no.layer'"),
        (["removals", "shapes", "pooler.dense.weight"], [3, 3], "found .32, 32., accepted .3, 3."),
    ],
)
def test_a_hostile_file_gives_one_error(stored, tmp_path, path, value, words) -> None:
    content = json.loads((stored / "bert" / "architecture.json").read_text())
    *way, last = path
    place = content
    for key in way:
        place = place[key]
    place[last] = value
    (tmp_path / "architecture.json").write_text(json.dumps(content))
    (tmp_path / "model.safetensors").symlink_to(stored / "bert" / "model.safetensors")
    with pytest.raises(CheckpointError, match=words) as raised:
        gfs_dist.load(tmp_path)
    assert "\n" not in str(raised.value)


class TwoWays(nn.Module):
    """Takes keywords; torch.fx cannot record it."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, width), nn.Linear(width, 3)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        if x.sum() > 1e9:
            x = -x
        return {"y": self.second(self.first(x).relu()) * scale}


def test_other_networks_that_no_graph_records_need_their_factory(tmp_path) -> None:
    torch.manual_seed(0)
    batches = [{"x": torch.randn(32, 6), "scale": torch.ones(32, 1)} for _ in range(4)]
    model = TwoWays(24)
    result = gfs_dist.prune(model, batches, budget={"keep": 0.5})
    with pytest.raises(ConfigError, match="factory, which could make it again, is not known"):
        result.save(tmp_path / "x")
    factory = f"{__name__}:TwoWays"
    result.save(tmp_path / "x", factory=factory, kwargs={"width": 24})
    with pytest.raises(CheckpointError, match="imported only if you name it"):
        gfs_dist.load(tmp_path / "x")
    again = gfs_dist.load(tmp_path / "x", factory=factory)
    assert torch.equal(again(**batches[0])["y"], result.model(**batches[0])["y"])
    assert again.first.out_features == 12  # type: ignore[union-attr]


def test_pruned_models_of_transformers_are_stored_by_their_class(tmp_path) -> None:
    model = tiny("bert", num_hidden_layers=1)
    result = gfs_dist.prune(model, [batch("bert", 32)], budget={"keep": 0.5})
    result.save(tmp_path / "x")
    again: Any = gfs_dist.load(tmp_path / "x")
    assert again.encoder.layer[0].intermediate.dense.out_features == 24
    given = batch("bert", 3, seed=1)
    assert torch.equal(again(**given)[0], result.model(**given)[0])


@pytest.mark.parametrize("kind", ["timm", "torchvision"])
def test_networks_by_name_are_made_again_by_their_package(tmp_path, kind: str) -> None:
    pytest.importorskip(kind, reason=f"the extra {kind} is not installed")
    torch.manual_seed(0)
    model, builder = networks.make_built(kind, name="resnet18", kwargs={"num_classes": 5})
    small = shrink(model, Structure((RESNET,), ()), {RESNET.name: range(9)})
    x = torch.randn(2, 3, 32, 32)
    told = networks.save(tmp_path / "x", small, example=x, builder=builder)
    assert told == {"loads": "gfs_dist.load"}
    content = json.loads((tmp_path / "x" / "architecture.json").read_text())
    assert content["model"] == kind and "graph" not in content
    again = gfs_dist.load(tmp_path / "x")
    assert type(again) is type(model) and torch.equal(again(x), small(x))
    assert networks.builder_of(again) == builder
