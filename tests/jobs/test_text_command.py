"""``gfs`` on models of transformers and text: pruned, evaluated, cut again, on several ranks."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gfs_dist
from gfs_dist import networks
from gfs_dist.cli import main
from tests.jobs.deep_runs import FIRST_SEARCH, elsewhere, outcome, prune, report

tokenizers = pytest.importorskip("tokenizers", reason="needs transformers and its tokenizers")
pytest.importorskip("transformers", reason="needs transformers")

from tests.networks.hf_models import tiny  # noqa: E402

SMALL = ["data.samples=70", "data.test_samples=20", "budget.trials=2"]


def write_model(folder: Path, name: str) -> Path:
    """A tiny model with a tokenizer of a hundred words."""
    model = tiny(name)
    model.save_pretrained(folder / name)
    words = {**{f"w{number}": number for number in range(99)}, "?": 99}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / name / "tokenizer.json"))
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "w0"}
    (folder / name / "tokenizer_config.json").write_text(json.dumps(kind))
    return folder / name


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, and lines of words that follow each other by a rule, mostly."""
    folder = tmp_path_factory.mktemp("text")
    chance, lines = random.Random(0), []
    for _ in range(300):
        word, line = chance.randrange(1, 99), []
        for _ in range(chance.randrange(4, 14)):
            word = (3 * word + 1) % 99 if chance.random() < 0.8 else chance.randrange(1, 99)
            line.append(f"w{word}")
        lines.append(" ".join(line))
    (folder / "text.txt").write_text("\n".join(lines))
    for name in ("llama", "bert"):
        write_model(folder, name)
    return folder


def text(home: Path) -> list[str]:
    return ["data=text", f"data.path={home}/text.txt", "data.sequence=16"]


def words(home: Path, name: str, *more: str) -> list[str]:
    model = ["model=hf", f"model.path={home / name}"]
    return [*model, *text(home), *SMALL, "budget.params=80%", *(more or ["runtime=none"])]


@pytest.fixture(scope="module")
def causal(home: Path) -> Path:
    prune(home / "causal", *words(home, "llama"))
    return home / "causal"


@torch.no_grad()
def perplexity(model: Any, x: Tensor) -> float:
    logits = model(input_ids=x).logits[:, :-1].double().flatten(0, 1)
    return float(torch.nn.functional.cross_entropy(logits, x[:, 1:].flatten()).exp())


def test_a_causal_model_is_pruned_to_its_budget(causal: Path, home: Path) -> None:
    (row,) = report(causal)["results"]
    assert 0.7 < row["params"] / row["dense"]["params"] <= 0.8
    kinds = {layer["kind"] for layer in row["layers"] if not layer["reason"]}
    assert kinds == {"ffn", "kv_groups"}
    samples = gfs_dist.data.load_samples(
        gfs_dist.data.DataSpec(
            "text", path=f"{home}/text.txt", sequence=16, tokenizer=str(home / "llama"),
            samples=70, test_samples=20,
        )
    )  # fmt: skip
    model = gfs_dist.load(causal / row["model"])
    assert networks.count_params(model) == row["params"]
    assert row["perplexity"] == pytest.approx(perplexity(model, samples.x_test))
    dense = tiny("llama")
    assert row["dense"]["perplexity"] == pytest.approx(perplexity(dense, samples.x_test))
    after = row["perplexity_after"]
    assert after["refit"] == row["perplexity"] < after["cut"]
    assert row["kl"] > 0 and "kl" not in row["dense"]
    assert (causal / row["model"] / "tokenizer.json").is_file()
    stored = (causal / "config.yaml").read_text()
    assert "quality: perplexity" in stored and "sequence: 16" in stored
    assert "Perplexity after each stage: dense " in (causal / "report.md").read_text()


def test_an_encoder_is_measured_against_the_dense_one(home: Path) -> None:
    out = home / "encoder"
    (row,) = prune(out, *words(home, "bert"))["results"]
    assert 0 < row["cosine_after"]["cut"] < row["cosine"] < 1
    assert row["loss"] is row["accuracy"] is None
    model = f"{out}/{row['model']}"
    assert main(["evaluate", model, *text(home), *SMALL[:2]]) == 0


def test_what_was_stored_is_evaluated_against_the_dense_one(
    causal: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = report(causal)["results"][:1]
    dense = ["model=hf", f"model.path={home / 'llama'}"]
    place = [str(causal / row["model"]), *text(home), *SMALL[:2], "--json"]
    capsys.readouterr()
    assert main(["evaluate", *place, *dense]) == 0
    (found,) = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    for key in ("perplexity", "kl"):
        assert found[key] == pytest.approx(row[key])
    assert main(["evaluate", str(home / "llama"), *place[1:]]) == 0
    (found,) = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert found["perplexity"] == pytest.approx(row["dense"]["perplexity"])
    assert "kl" not in found


def test_another_size_and_the_same_run_again(causal: Path, home: Path) -> None:
    before = report(causal)["results"][0]
    assert main(["cut", str(causal), "budget.params=65%", "name=smaller"]) == 0
    first, other = report(causal)["results"]
    assert first == before
    assert other["params"] < 0.65 * other["dense"]["params"] < first["params"]
    assert other["picks_sha256"] == first["picks_sha256"]
    assert main(["prune", f"resume={causal}"]) == 0
    assert report(causal)["results"] == [first, other]


@pytest.mark.parametrize("ranks", [pytest.param(n, marks=pytest.mark.slow) for n in (2, 4)])
def test_ranks_give_the_same_network(ranks: int, causal: Path, home: Path, tmp_path: Path) -> None:
    prune(tmp_path / "run", *words(home, "llama", "runtime=local", f"workers={ranks}"))
    assert outcome(tmp_path / "run") == outcome(causal)[:1]


def test_killed_workers_change_nothing(causal: Path, home: Path, tmp_path: Path) -> None:
    (expected,) = outcome(causal)[:1]
    faults = [{"rank": 1, "step": 3, "generation": FIRST_SEARCH}]
    own = words(home, "llama", "runtime=local", "workers=2")
    done = elsewhere("prune", f"out={tmp_path}/killed", *own, faults=faults)
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "killed") == [expected]
    assert [row["kind"] for row in report(tmp_path / "killed")["faults"]] == ["killed"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data.sequence": "65"}, "data.sequence: found 65, accepted 2 to 64, the positions"),
        ({"data.path": "nothing.txt"}, "data.path: "),
        ({"data.tokenizer": "."}, "data.tokenizer: found no tokenizer in "),
        ({"model.path": "nothing"}, "model.path: found none in "),
        ({"data.sequence": "64", "data.path": "short.txt"}, "short.txt is too short: found 2 tok"),
        ({"budget.params": "1%"}, "budget.params"),
        ({"repair.finetune": "true"}, "repair.finetune: found true, accepted false with data=text"),
    ],
)
def test_bad_input_is_one_clear_error(
    changed: dict[str, str],
    message: str,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("w1 w2")
    added = [f"{key}={value}" for key, value in changed.items()]
    code = main(["prune", "out=run", *words(home, "llama"), *added])
    said = capsys.readouterr().err
    assert code == (3 if "budget.params" in changed else 2), said
    assert message in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()
