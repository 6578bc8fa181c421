"""``gfs_dist.prune`` on what runs in PyTorch: dicts, tuples, lists, any outputs, any flow."""

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gfs_dist

transformers = pytest.importorskip("transformers", reason="needs the extra hf")

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "vocab_size": 90,
}


def tokens(rows: int, length: int, padded: int = 0, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 90, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        mask[::2, -padded:] = 0
        ids = ids * mask
    return {"input_ids": ids, "attention_mask": mask}


def bert() -> nn.Module:
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**SIZES)).eval()


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2)
    return transformers.LlamaForCausalLM(config).eval()


def digest(model: nn.Module) -> str:
    parts = [tensor.numpy().tobytes() for tensor in model.state_dict().values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


FEW = pytest.mark.filterwarnings("ignore:batches. .* tokens for each input")


@FEW
@pytest.mark.parametrize("make", [bert, llama])
def test_a_transformer_is_pruned_as_its_own_class_and_left_as_it_was(
    make: Callable[[], nn.Module],
) -> None:
    model, batches = make(), [tokens(8, 12, seed=i) for i in range(6)]
    before = digest(model)
    pruned = gfs_dist.prune(model, batches, budget={"keep": 0.5})
    assert digest(model) == before
    assert type(pruned.model) is type(model)
    rows = [row for row in pruned.report["layers"] if row["reason"] is None]
    assert rows and all(row["kept"] < row["channels"] for row in rows)
    assert pruned.report["difference_from_masked"] <= 1e-4
    with torch.no_grad():
        outputs = pruned.model(**batches[0])
    assert all(torch.isfinite(part).all() for part in outputs.values() if torch.is_tensor(part))
    smaller = pruned.cut({"keep": 0.25})
    assert smaller.report["params"] < pruned.report["params"]


@FEW
def test_what_stands_at_padding_changes_nothing() -> None:
    batches = [tokens(8, 12, padded=5, seed=i) for i in range(6)]
    other = copy.deepcopy(batches)
    for batch in other:
        batch["input_ids"] += 7 * (1 - batch["attention_mask"])
    found = [
        gfs_dist.prune(bert(), some, budget={"keep": 0.5}, output="last_hidden_state")
        for some in (batches, other)
    ]
    first, second = (pruned.report["picks_sha256"] for pruned in found)
    assert first == second


@FEW
@pytest.mark.parametrize("make", [bert, llama])
def test_any_number_of_ranks_gives_the_same_network(make: Callable[[], nn.Module]) -> None:
    batches = [tokens(8, 12, seed=i) for i in range(5)]
    budget = {"macs": 0.8, "trials": 4}
    alone = gfs_dist.prune(make(), batches, budget=budget)
    both = gfs_dist.prune(make(), batches, budget=budget, workers=2, runtime="local")
    assert both.report["picks_sha256"] == alone.report["picks_sha256"]
    assert digest(both.model) == digest(alone.model)


@FEW
def test_batches_of_several_lengths_are_pruned_on() -> None:
    lengths = ((5, 0), (9, 3), (9, 0), (12, 0), (7, 2))
    batches = [tokens(6, length, padded, seed=length) for length, padded in lengths]
    pruned = gfs_dist.prune(bert(), batches, budget={"keep": 0.5})
    assert pruned.report["params"] < pruned.report["dense"]["params"]


@FEW
@pytest.mark.parametrize("objective", ["least_squares", "fisher", "layer_output"])
def test_labels_of_a_dict_are_class_numbers(objective: str) -> None:
    torch.manual_seed(0)
    sizes = {key: SIZES[key] for key in ("hidden_size", "num_hidden_layers", "intermediate_size")}
    config = transformers.ViTConfig(
        **sizes, num_attention_heads=4, image_size=16, patch_size=8, num_labels=5
    )
    model = transformers.ViTForImageClassification(config).eval()
    batches = [
        {"pixel_values": torch.randn(16, 3, 16, 16), "labels": torch.randint(0, 5, (16,))}
        for _ in range(4)
    ]
    pruned = gfs_dist.prune(model, batches, budget={"keep": 0.5}, objective=objective)
    assert 0 <= pruned.report["accuracy"] <= 1


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.c(torch.relu(self.a(x)) * torch.sigmoid(self.b(y)))


X, Y, LABELS = torch.randn(40, 4), torch.randn(40, 6), torch.randint(0, 3, (40,))


def by_name(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["first"], batch["second"])


@pytest.mark.parametrize(
    ("batch", "more", "labelled"),
    [
        ((X, Y), {}, False),
        (((X, Y), LABELS), {}, True),
        ((X, Y, LABELS), {}, True),
        ({"x": X, "y": Y}, {}, False),
        ({"x": X, "y": Y, "labels": LABELS}, {}, True),
        ({"first": X, "second": Y}, {"call": by_name}, False),
        ({"first": X, "second": Y, "labels": LABELS}, {"call": by_name}, True),
    ],
)
def test_two_inputs_in_any_form(batch: Any, more: dict[str, Any], labelled: bool) -> None:
    pruned = gfs_dist.prune(Two(), [batch, batch], budget={"keep": 0.5}, **more)
    assert pruned.model.a.out_features == pruned.model.b.out_features == 8
    assert pruned.model.c.in_features == 8
    assert (pruned.report["accuracy"] is not None) == labelled


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.body(x)
        return {"scores": self.heads[0](y), "more": (self.heads[1](y), None), "size": len(x)}


def test_one_output_of_several_can_be_the_one_that_counts() -> None:
    every = gfs_dist.prune(Parts(), [X, X], budget={"keep": 0.5})
    assert [row["kept"] for row in every.report["layers"] if row["reason"] is None] == [8, 4, 6, 6]
    one = gfs_dist.prune(Parts(), [X, X], budget={"keep": 0.5}, output="scores")
    cut = {row["name"] for row in one.report["layers"] if row["reason"] is None}
    assert {"body.0", "heads.0.0"} <= cut
    with pytest.raises(ValueError, match="output: found 'none', accepted one of .*scores"):
        gfs_dist.prune(Parts(), [X], budget={"keep": 0.5}, output="none")


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.boxes = nn.Conv2d(8, 4, 1)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert isinstance(images, list)
        features = self.body(torch.stack([2 * image - 1 for image in images]))
        return [{"boxes": one.flatten(1).T} for one in self.boxes(features)]


def test_a_list_of_images_is_given_as_a_list() -> None:
    images = [torch.rand(3, 12, 12) for _ in range(6)]
    pruned = gfs_dist.prune(Detector(), [images, images[:4]], budget={"keep": 0.5})
    assert pruned.model.body[0].out_channels == 4
    assert len(pruned.model(images)) == 6


class Sorted(nn.Module):
    """Ends with what is not torch's: its layers can be pruned all the same."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.sort(self.body(x).detach().numpy(), 0))


def test_what_comes_after_the_last_layer_may_be_anything() -> None:
    model = Sorted()
    pruned = gfs_dist.prune(model, [X, X], budget={"keep": 0.5})
    assert pruned.model.body[0].out_features == 8
    assert pruned.report["difference_from_masked"] <= 1e-4
    assert pruned.cut({"keep": 0.25}).model.body[0].out_features == 4
    assert pruned.model(X).shape == (40, 3)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([{"input_ids": torch.ones(2, 80, dtype=torch.int64)}], "refuses an input of input_ids"),
        ([{"ids": torch.ones(2, 8, dtype=torch.int64)}], "refuses an input of ids shape .2, 8."),
        ([{"input_ids": "text"}], "batch 0 is a dict without a tensor of samples"),
        (
            [
                {"input_ids": torch.ones(2, 8).long()},
                {"input_ids": torch.ones(2, 8).long(), "token_type_ids": torch.zeros(2, 8).long()},
            ],
            "batch 1 has other parts than those before",
        ),
    ],
)
def test_batches_that_do_not_fit_say_so(batches: list[Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        gfs_dist.prune(bert(), batches, budget={"keep": 0.5})


def test_the_loss_of_the_network_needs_recorded_steps() -> None:
    with pytest.raises(ValueError, match="found 'network_loss', accepted for networks of one"):
        gfs_dist.prune(Two(), [(X, Y, LABELS)], budget={"keep": 0.5}, objective="network_loss")
