"""How well networks of text do: perplexity, and how far outputs are from the dense network's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.errors import ConfigError, DataError, NonFiniteError, ShapeError
from gfs_dist.networks.measure.evaluation import device_of, evaluating, first_non_finite
from gfs_dist.networks.measure.inputs import MASK, Inputs

OUTPUTS = {"perplexity": "logits", "kl": "logits", "cosine": "last_hidden_state"}
"""By the measure the output of a model of transformers that it is taken of."""

CHUNK_BYTES = 2**26
"""Of the logarithms of probabilities, float64, that there are at once."""

TOKENS = "input_ids"


def output_of(outputs: Any, quality: str) -> Tensor:
    """The tensor that a measure is taken of: the only one, the first, or the one of its name.

    Raises:
        ShapeError: there is none.
    """
    if isinstance(outputs, Mapping):
        outputs = outputs.get(OUTPUTS[quality])
    elif isinstance(outputs, list | tuple) and outputs:
        outputs = outputs[0]
    if not isinstance(outputs, Tensor):
        raise ShapeError(f"outputs: found no {OUTPUTS[quality]}, which quality={quality} is of")
    return outputs


def text_quality(
    network: nn.Module,
    batches: Iterable[Inputs],
    quality: str,
    dense: nn.Module | None = None,
) -> dict[str, float]:
    """Measures over the tokens of all batches that are no padding, in evaluation mode.

    ``perplexity``: ``exp(loss)``, ``loss`` the mean of ``-log p(token | those before it in its
    row)``, natural logarithms. ``kl``: the mean of ``sum_v q_v (log q_v - log p_v)`` over tokens, q
    the dense network's probabilities (of a classifier, over samples). ``cosine``: the mean over
    samples of the cosine between both networks' last hidden states, each averaged over its tokens.
    All logarithms and sums are float64; they are added in the order of the batches.

    Args:
        network, dense: left as they are, on any devices.
        batches: ``input_ids`` int64 (m, tokens), ``attention_mask``.
        quality: ``perplexity`` (and ``kl``, with ``dense``), ``kl``, ``cosine``.
        dense: None where nothing is compared.

    Returns:
        ``loss`` and ``perplexity``, ``kl``, ``cosine``, those that could be measured.

    Raises:
        ConfigError: no such measure.
        ShapeError: outputs of another shape than the measure is of.
        DataError: no tokens.
        NonFiniteError: an output is NaN or infinite; names the layer.
    """
    if quality not in OUTPUTS:
        raise ConfigError(f"quality: found {quality!r}, accepted {', '.join(OUTPUTS)}")
    sums, counts = dict.fromkeys(MEASURES, 0.0), dict.fromkeys(MEASURES, 0)
    wanted = [name for name in _wanted(quality) if name == "loss" or dense is not None]
    with evaluating(network), evaluating(dense or network):
        for x in batches:
            pair = Outputs.of(network, x, quality, dense if wanted != ["loss"] else None)
            for name in wanted:
                total, count = MEASURES[name](pair)
                sums[name] += total
                counts[name] += count
    found = {}
    for name in wanted:
        if not counts[name]:
            raise DataError("batches: found no tokens to measure on, accepted one or more")
        found[name] = sums[name] / counts[name]
    if "loss" in found:
        found["perplexity"] = math.exp(found["loss"]) if found["loss"] < 700 else math.inf
    return found


def _wanted(quality: str) -> tuple[str, ...]:
    return ("loss", "kl") if quality == "perplexity" else (quality,)


@dataclass(frozen=True)
class Counted:
    """Selects the output that a measure is taken of."""

    quality: str

    def __call__(self, outputs: Any) -> Tensor:
        return output_of(outputs, self.quality)


@dataclass(frozen=True)
class Outputs:
    """Outputs of one or two networks for a batch.

    Attributes:
        tokens: int64 (m, tokens), on the network's device.
        real: where they are no padding, bool.
        own, other: of the network and the dense one; (m, tokens, features) or (m, features).
    """

    tokens: Tensor
    real: Tensor
    own: Tensor
    other: Tensor | None

    @classmethod
    def of(cls, network: nn.Module, x: Inputs, quality: str, dense: nn.Module | None) -> Outputs:
        here = x.to(device_of(network))
        own = output_of(here.run(network), quality)
        if not torch.isfinite(own).all():
            layer = first_non_finite(network, here)
            raise NonFiniteError(f"outputs: NaN or infinity, first after layer {layer!r}")
        tokens = here.tensors[TOKENS]
        mask = here.tensors.get(MASK)
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask != 0
        pooled = own.ndim == 2 and quality != "perplexity"
        if not pooled and (own.ndim != 3 or own.shape[:2] != tokens.shape):
            raise ShapeError(
                f"outputs: found {tuple(own.shape)}, accepted (m, tokens, ...) for tokens "
                f"{tuple(tokens.shape)} with quality={quality}"
            )
        if dense is None:
            return cls(tokens, real, own, None)
        other = output_of(x.to(device_of(dense)).run(dense), quality).to(own.device)
        if other.shape != own.shape:
            raise ShapeError(
                f"outputs: found {tuple(own.shape)}, accepted {tuple(other.shape)} as those of the "
                "dense network"
            )
        return cls(tokens, real, own, other)

    def loss(self) -> tuple[float, int]:
        """Sum of ``-log p`` of tokens that follow others, and how many."""
        follows = self.real[:, 1:] & self.real[:, :-1]
        logits, tokens = self.own[:, :-1][follows], self.tokens[:, 1:][follows]
        if len(tokens) and int(tokens.max()) >= logits.shape[1]:
            raise ShapeError(
                f"outputs: found {logits.shape[1]} numbers for a token, accepted one for each of "
                f"the tokenizer's tokens, such as {int(tokens.max())}"
            )
        parts = _parts(logits)
        total = sum(
            float(functional.cross_entropy(logits[part].double(), tokens[part], reduction="sum"))
            for part in parts
        )
        return total, len(tokens)

    def kl(self) -> tuple[float, int]:
        """Sum of divergences of all tokens, or samples, and how many."""
        assert self.other is not None
        own, other = self.own, self.other
        if own.ndim == 3:
            own, other = own[self.real], other[self.real]
        total = 0.0
        for part in _parts(own):
            log_p, log_q = (z[part].double().log_softmax(1) for z in (own, other))
            total += float((log_q.exp() * (log_q - log_p)).sum())
        return total, len(own)

    def cosine(self) -> tuple[float, int]:
        """Sum over samples of the cosine of mean states, and how many."""
        assert self.other is not None
        own, other = self._mean(self.own), self._mean(self.other)
        return float(functional.cosine_similarity(own, other, dim=1).sum()), len(self.own)

    def _mean(self, states: Tensor) -> Tensor:
        if states.ndim == 2:
            return states.double()
        weights = self.real[..., None].double()
        return (states.double() * weights).sum(1) / weights.sum(1).clamp(min=1)


MEASURES: dict[str, Callable[[Outputs], tuple[float, int]]] = {
    "loss": Outputs.loss,
    "kl": Outputs.kl,
    "cosine": Outputs.cosine,
}
"""Each gives a sum over tokens or samples, and how many."""


def _parts(logits: Tensor) -> Iterator[slice]:
    """Ranges of rows of logits whose float64 copies take at most :data:`CHUNK_BYTES`."""
    rows = max(1, CHUNK_BYTES // (8 * max(1, logits.shape[1])))
    return (slice(start, start + rows) for start in range(0, len(logits), rows))
