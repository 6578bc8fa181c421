from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gfs_dist import networks
from gfs_dist.errors import ConfigError, NonFiniteError, ShapeError
from gfs_dist.networks.measure import quality
from gfs_dist.networks.measure.inputs import Inputs, as_batch

WORDS = 11


class Model(nn.Module):
    """Numbers for each token, and for tokens before it, as models of transformers give them."""

    def __init__(self, seed: int, size: int, key: str | None) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding, self.key = nn.Embedding(WORDS, size), key

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        x = self.embedding(input_ids) * attention_mask[..., None]
        x = x + x.cumsum(1) / 3
        return x if self.key is None else {"other": x[0], self.key: x}


def rows(seed: int, count: int, length: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(WORDS, (count, length), generator=generator)
    ends = torch.randint(2, length + 1, (count, 1), generator=generator)
    made = as_batch({"input_ids": ids, "attention_mask": (torch.arange(length) < ends).long()})
    assert isinstance(made, Inputs)
    return made


BATCHES = [rows(0, 3, 8), rows(1, 2, 5)]


def by_token(own: nn.Module, other: nn.Module) -> dict[str, float]:
    """The oracle: one row and one token at a time, without padding."""
    losses, divergences, cosines = [], [], []
    for x in BATCHES:
        for row in x:
            count = int(row.tensors["attention_mask"].sum())
            whole = row.each(lambda t, count=count: t[:, :count])
            mine, dense = (whole.run(model)[0].double() for model in (own, other))
            ids = whole.tensors["input_ids"][0].tolist()
            p, q = mine.softmax(1), dense.softmax(1)
            losses += [-math.log(p[t, ids[t + 1]]) for t in range(count - 1)]
            divergences += [
                sum(float(q[t, v] * (q[t, v] / p[t, v]).log()) for v in range(WORDS))
                for t in range(count)
            ]
            a, b = mine.mean(0), dense.mean(0)
            cosines.append(float(a @ b / (a.norm() * b.norm())))
    loss = sum(losses) / len(losses)
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "kl": sum(divergences) / len(divergences),
        "cosine": sum(cosines) / len(cosines),
    }


@pytest.mark.parametrize("chunk", [1, 2**26])
@pytest.mark.parametrize("named", [True, False])
@torch.no_grad()
def test_measures_are_those_of_single_tokens(
    named: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "CHUNK_BYTES", chunk)
    logits = [Model(seed, WORDS, "logits" if named else None) for seed in (0, 1)]
    expected = by_token(*(Model(seed, WORDS, None) for seed in (0, 1)))
    found = networks.text_quality(logits[0], BATCHES, "perplexity", logits[1])
    assert found == pytest.approx({key: expected[key] for key in ("loss", "perplexity", "kl")})
    alone = networks.text_quality(logits[0], BATCHES, "perplexity")
    assert alone == {key: found[key] for key in ("loss", "perplexity")}
    states = [Model(seed, WORDS, "last_hidden_state" if named else None) for seed in (0, 1)]
    found = networks.text_quality(states[0], BATCHES, "cosine", states[1])
    assert found == pytest.approx({"cosine": expected["cosine"]})


def test_the_dense_network_itself_is_no_distance_away() -> None:
    model = Model(0, WORDS, None)
    found = networks.text_quality(model, BATCHES, "perplexity", model)
    assert found["kl"] == 0
    found = networks.text_quality(model, BATCHES, "cosine", model)
    assert found["cosine"] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("model", "measure", "error", "message"),
    [
        (Model(0, WORDS, "states"), "kl", ShapeError, "found no logits, which quality=kl is of"),
        (Model(0, 5, None), "perplexity", ShapeError, "found 5 numbers for a token"),
        (Model(0, WORDS, None), "bleu", ConfigError, "quality: found 'bleu', accepted perplexity"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    model: nn.Module, measure: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        networks.text_quality(model, BATCHES, measure, model)


def test_numbers_that_are_none_are_told_with_their_layer() -> None:
    model = Model(0, WORDS, None)
    with torch.no_grad():
        model.embedding.weight[:] = torch.nan
    with pytest.raises(NonFiniteError, match="first after layer 'embedding'"):
        networks.text_quality(model, BATCHES, "perplexity")


def test_classifiers_of_transformers_are_classified_by_their_logits() -> None:
    class Classifier(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": x, "states": x[:0]}

    x, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
    found = networks.classify(Classifier(), [(x, labels)])
    assert found == networks.classify(nn.Identity(), [(x, labels)])
    assert found.accuracy == 0.75
