"""What comes in batches: samples, class numbers, and what else stands in their place."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gfs_dist
from gfs_dist.pruning.calibration.batches import INTEGERS
from gfs_dist.pruning.calibration.workspace import Workspace

N, CLASSES = 24, 4
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 8, generator=GENERATOR)
Y = torch.randint(0, CLASSES, (N,), generator=GENERATOR)
PIXELS = torch.randn(N, 3, 6, 6, generator=GENERATOR)
NEED_LABELS: list[dict[str, Any]] = [
    {"objective": "fisher"},
    {"objective": "network_loss"},
    {"budget": {"tolerance": 0.5}},
]


def mlp(inputs: int = 8, outputs: int = CLASSES) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs))


def pixelwise(channels: int = 3, outputs: int = CLASSES) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, outputs, 1))


def pruned(network: nn.Module, batches: Any, **changes: Any) -> gfs_dist.Pruned:
    return gfs_dist.prune(network, batches, **{"budget": {"keep": 0.5}, **changes})


UNUSABLE: dict[str, tuple[Callable[[], nn.Module], list[Any], str]] = {
    "targets of one output": (lambda: mlp(outputs=1), [(X, torch.rand(N))], "labels float32 (24,)"),
    "targets (N, 1)": (lambda: mlp(outputs=1), [(X, torch.rand(N, 1))], "float32 (24, 1)"),
    "whole numbers as floats": (mlp, [(X, Y.double())], "labels float64 (24,)"),
    "one-hot": (mlp, [(X, nn.functional.one_hot(Y))], "labels int64 (24, 4)"),
    "several labels": (mlp, [(X, torch.rand(N, 4))], "labels float32 (24, 4)"),
    "a column": (mlp, [(X, Y[:, None])], "labels int64 (24, 1)"),
    "a mask": (mlp, [(X, X > 0)], "labels bool (24, 8)"),
    "a mask of samples": (lambda: mlp(outputs=2), [(X, Y > 1)], "labels bool (24,)"),
    "a map of classes": (
        pixelwise,
        [(PIXELS, torch.zeros(N, 6, 6, dtype=torch.int64))],
        "labels int64 (24, 6, 6)",
    ),
    "classes of pixels": (pixelwise, [(PIXELS, Y)], "labels for outputs (2, 4, 6, 6)"),
    "one output": (lambda: mlp(outputs=1), [(X, 0 * Y)], "labels for outputs (2, 1)"),
    "an ignored class": (
        mlp,
        [(X, torch.where(Y == 0, -100, Y))],
        f"label -100 at sample {int((Y == 0).nonzero()[0])} for 4 outputs",
    ),
    "too high": (
        mlp,
        [(X, Y), (X, Y + 1)],
        f"label 4 at sample {N + int((Y == 3).nonzero()[0])} for 4 outputs",
    ),
    "floats later": (mlp, [(X, Y), (X, Y.float())], "float32 (24,) for 24 samples in batch 1"),
    "a column later": (mlp, [(X, Y), (X, Y[:, None])], "labels int64 (24, 1)"),
    "none later": (mlp, [(X, Y), X], "no labels in batch 1"),
    "none at first": (mlp, [X, (X, Y)], "no labels in batch 0"),
    "too few": (mlp, [(X, Y[1:])], "labels int64 (23,) for 24 samples in batch 0"),
    "one number": (mlp, [(X, torch.tensor(3))], "labels int64 () for 24 samples"),
    "names": (mlp, [(X, ["cat"] * N)], "labels as list in batch 0"),
    "an array of names": (mlp, [(X, np.array(["a"] * N))], "labels as ndarray of <U1"),
    "a sparse tensor": (mlp, [(X, Y.to_sparse())], "labels as a sparse, "),
    "a meta tensor": (mlp, [(X, Y.to("meta"))], "labels as a sparse, nested, quantized or meta "),
    "boxes": (mlp, [(X, {"boxes": X})], "labels as dict in batch 0"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_is_no_class_number_is_left_aside_with_one_line(kind: str) -> None:
    make, batches, found = UNUSABLE[kind]
    line = f"^batches: found .*{re.escape(found)}.*loss and accuracy are not measured$"
    with pytest.warns(UserWarning, match=line):
        result = pruned(make(), batches)
    for facts in (result.report, result.report["dense"]):
        assert facts["loss"] is None
        assert facts["accuracy"] is None
    assert set(result.report["accuracy_after"].values()) == {None}
    alone = pruned(make(), [batch[0] if isinstance(batch, tuple) else batch for batch in batches])
    assert alone.report["picks_sha256"] == result.report["picks_sha256"]


@pytest.mark.parametrize("changes", NEED_LABELS, ids=str)
@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_needs_class_numbers_refuses_all_else(kind: str, changes: dict[str, Any]) -> None:
    make, batches, found = UNUSABLE[kind]
    asker = next(iter(changes.values()))
    asker = f"objective {asker}" if isinstance(asker, str) else "budget.tolerance"
    message = f"batches: {asker} needs a label for every sample, found .*{re.escape(found)}"
    with warnings.catch_warnings(action="error"), pytest.raises(ValueError, match=message):
        pruned(make(), batches, **changes)


def test_another_size_by_tolerance_needs_class_numbers() -> None:
    result = pruned(mlp(), [X])
    with pytest.raises(
        ValueError, match=r"budget\.tolerance needs a label .* found none, accepted"
    ):
        result.cut({"tolerance": 0.5})


@pytest.mark.parametrize("dtype", sorted(INTEGERS, key=str), ids=str)
def test_integers_of_every_kind_are_class_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    for number, y in enumerate((Y.to(dtype), Y.to(dtype).numpy())):
        workspace = Workspace.create(tmp_path / str(number), mlp(), [(X, y)])
        assert workspace.labelled
        assert torch.equal(workspace.labels(0), Y)


@pytest.mark.parametrize("changes", [{}, *NEED_LABELS], ids=str)
def test_loss_and_accuracy_are_those_of_the_class_numbers(changes: dict[str, Any]) -> None:
    result = pruned(mlp(), [[X[:10], Y[:10]], (X[10:].numpy(), Y[10:].numpy())], **changes)
    for network, facts in ((mlp(), result.report["dense"]), (result.model, result.report)):
        with torch.no_grad():
            logits = network(X)
        assert facts["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, Y)))
        assert facts["accuracy"] == float((logits.argmax(1) == Y).double().mean())


def test_a_loader_of_inputs_alone_gives_lists_of_one() -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=8)
    assert pruned(mlp(), loader).report == pruned(mlp(), [X]).report


def test_arrays_may_be_views() -> None:
    flipped = X.numpy()[:, ::-1]
    assert pruned(mlp(), [flipped]).report == pruned(mlp(), [X.flip(1)]).report


def test_arrays_may_have_the_other_order_of_bytes() -> None:
    pair = X.numpy().astype(">f4"), Y.numpy().astype(">i8")
    assert pruned(mlp(), [pair]).report == pruned(mlp(), [(X, Y)]).report


STACK = r"stack single inputs by torch\.stack"
WRAP = "wrap the network in a module whose forward takes one tensor"


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.layers(x * mask)


class OfTwo(nn.Module):
    """Takes batches of two alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.view(2, 8))


@pytest.mark.parametrize(
    ("make", "batches", "message"),
    [
        (pixelwise, [list(PIXELS)], f"batch 0 is a list of 24, accepted a tensor or .*{STACK}"),
        (pixelwise, [list(PIXELS[:2])], f"batch 0 is a list of 2, .*{STACK}.* pair as a tuple"),
        (pixelwise, [list(PIXELS[:2].numpy())], f"batch 0 is a list of 2, accepted .*{STACK}"),
        (pixelwise, [tuple(PIXELS[:2])], f"example of shape .*{STACK}"),
        (pixelwise, [[PIXELS[0]]], f"example of shape .*{STACK}"),
        (pixelwise, list(PIXELS), f"example of shape .*{STACK}"),
        (pixelwise, PIXELS, f"example of shape .*{STACK}"),
        # Convolutions take one image of their channels for a batch: two pixels' channels here.
        (lambda: pixelwise(2), [tuple(PIXELS[:2, :2])], f"takes 2 samples of .* not 3; .*{STACK}"),
        (lambda: pixelwise(1), list(PIXELS[:, :1]), f"example of shape .*{STACK}"),
        (lambda: pixelwise(1), [PIXELS[0, :1]], f"takes 1 samples of .* not 2; .*{STACK}"),
        (lambda: nn.Sequential(nn.Flatten(), mlp(36)), [list(PIXELS[:2, :1])], STACK),
        (lambda: mlp(2), list(X[:, :2]), f"takes 2 samples of shape \\(\\), .*{STACK}"),
        (OfTwo, [X], "takes 2 samples of .* but not 3; accepted is any number"),
        (mlp, [(X, X, Y)], f"batch 0 is a tuple of 3, accepted .*{WRAP}"),
        (mlp, [()], "batch 0 is a tuple of 0, accepted"),
        (mlp, [torch.tensor(3.0)], f"batch 0 is a single number, accepted .*{STACK}"),
        (mlp, (X, Y), r"sample 24 has shape \(\), .*a pair alone: \[\(x, y\)\]"),
        (mlp, [X, X.double()], r"sample 24 has shape \(8,\), torch\.float64, .*torch\.float32;"),
        (mlp, [X.long()], r"samples are torch\.int64, weights torch\.float32: convert"),
        (TwoInputs, [X], f"missing 1 required .*'mask'; {WRAP}"),
        (mlp, [X.double()], r"samples are torch\.float64, weights torch\.float32: convert"),
        (mlp, [X.byte()], r"samples are torch\.uint8, weights torch\.float32: convert"),
    ],
)
def test_what_is_no_batch_says_what_to_do(
    make: Callable[[], nn.Module], batches: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^batches: .*{message}"):
        pruned(make(), batches)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X.to_sparse(), "batch 0 is a sparse, nested, quantized or meta Tensor, accepted a tensor"),
        (X.to("meta"), "batch 0 is a sparse, nested, quantized or meta Tensor, accepted a tensor"),
        (np.array([None, None]), "batch 0 is ndarray of object, accepted a tensor"),
    ],
)
def test_other_kinds_of_batches_are_type_errors(batch: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        pruned(mlp(), [batch])


def test_a_last_batch_of_three_inputs_and_targets_is_no_list_of_images() -> None:
    network = nn.Sequential(nn.Flatten(), mlp(36))
    pair = [PIXELS[:, 0], PIXELS[:, 0] + 1]
    last = [part[:3] for part in pair]
    with pytest.warns(UserWarning, match="labels float32"):
        result = pruned(network, [pair, last])
    alone = pruned(network, [pair[0], last[0]])
    assert result.report["picks_sha256"] == alone.report["picks_sha256"]
