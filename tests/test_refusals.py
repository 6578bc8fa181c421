"""What ``gfs_dist.prune`` refuses, and what stays whole: in one line, with what to do."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import gfs_dist
from gfs_dist.errors import BudgetError

X = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
STEPS = X[:, None].expand(12, 5, 8)
IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))

UNSEEN = "take hooks, changing attributes, random numbers .* out of it"


class Net(nn.Module):
    """Two layers with something of ours between them."""

    def __init__(self, between: Callable[[Any, Tensor], Any] = lambda _, h: h, **parts: Any):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.between = nn.Linear(8, 16), nn.Linear(16, 4), between
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.two(self.between(self, torch.relu(self.one(x))))


class Counting(Net):
    calls = 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.calls * super().forward(x)


class WithoutGradients(Net):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            return super().forward(x)


class Returns(Net):
    """Gives what a function makes of its scores."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(super().forward(x))


class Derived(nn.Linear):
    pass


def hooked() -> nn.Module:
    network = Net()
    network.one.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    return network


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 16))


def masked() -> nn.Module:
    network = Net()
    prune.random_unstructured(network.one, "weight", 0.5)
    return network


def with_first(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(module, nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.parametrize(
    ("make", "x", "message"),
    [
        (Counting, X, UNSEEN),
        (lambda: Net(lambda _, h: h + torch.rand(16)), X, UNSEEN),
        (lambda: Net(kept=(n for n in range(3))), X, "cannot be copied: .* take out results of"),
        (masked, X, r"cannot be copied: .*prune\.remove"),
        (lambda: with_first(nn.LazyLinear(16)), X, "lazy layers without weights; run it once"),
        (lambda: Net().to("meta"), X, "on the meta device, without numbers; load its weights"),
        (
            lambda: with_first(nn.utils.parametrizations.weight_norm(nn.Linear(8, 16))),
            X,
            "'0' is a ParametrizedLinear .*remove_parametrizations first",
        ),
        (lambda: torch.jit.script(with_first(nn.Linear(8, 16))), X, "TorchScript; give the module"),
        (lambda: Returns(lambda _: None), X, "no floating tensor in its output depends on its"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_network_that_cannot_be_pruned_says_why_and_what_to_do(
    make: Callable[[], nn.Module], x: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^model: it cannot be pruned: .*{message}") as caught:
        gfs_dist.prune(make(), [x], budget={"keep": 0.5})
    words = str(caught.value)
    assert len(words.splitlines()) == 1
    assert not re.search("stored|factory", words)


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: Net(lambda n, h: n.mlp(n.rnn(h)[0]), rnn=nn.GRU(16, 16), mlp=mlp()), STEPS),
        (lambda: Net(lambda n, h: n.mlp(n.rnn(h)[0]), rnn=nn.LSTM(16, 16), mlp=mlp()), STEPS),
        (lambda: Net(lambda n, h: n.mlp(torch.fft.fft(h).real), mlp=mlp()), X),
        (lambda: Net(lambda _, h: torch.erfinv(h.tanh() / 2)), X),
        (lambda: Net(lambda n, h: n.mlp(h) / h.abs().max().item(), mlp=mlp()), X),
        (lambda: Net(lambda n, h: n.mlp(h if h.sum() > -1e9 else -h), mlp=mlp()), X),
        (lambda: Net(lambda _, h: h.copy_(2 * h)), X),
        (lambda: Net(lambda _, h: h.detach()), X),
        (hooked, X),
        (lambda: Returns(lambda y: [y]), X),
        (lambda: Returns(lambda y: {"y": y, "of": {"parts": (y + 1, 3)}}), X),
    ],
)
def test_parts_that_cannot_be_recorded_stay_whole_and_the_rest_is_pruned(
    make: Callable[[], nn.Module], x: Tensor
) -> None:
    model = make().eval()
    before = copy.deepcopy(model.state_dict())
    pruned = gfs_dist.prune(model, [x.repeat(8, *[1] * (x.ndim - 1))], budget={"keep": 0.5})
    assert pruned.report["macs"] < pruned.report["dense"]["macs"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert type(pruned.model) is type(model)
    pruned.model(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (WithoutGradients, "no gradient leads .*: take no_grad, detach and numpy out"),
        (
            lambda: Net(lambda _, h: h.view(-1, 16)),
            r"'one': removing .*names a number of channels in place of reading x\.shape",
        ),
        (lambda: nn.Linear(8, 4), "network output.*; accepted is one where a convolution or"),
        (nn.Flatten, "no convolutions and no linear layers.*; accepted is one where"),
        (
            lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), Derived(16, 4)),
            r"'0': '2' is a Derived, accepted are the layers of torch\.nn themselves",
        ),
        (
            lambda: nn.Sequential(Derived(8, 16), nn.ReLU(), nn.Linear(16, 4)),
            r"'0': '0' is a Derived, accepted are the layers of torch\.nn themselves",
        ),
    ],
)
def test_a_network_with_nothing_to_prune_says_why(
    make: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        gfs_dist.prune(make(), [X], budget={"keep": 0.5})
    assert len(str(caught.value).splitlines()) == 1


def test_a_layer_of_a_derived_class_stays_whole_and_the_others_are_pruned() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        *(Derived(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
    )
    result = gfs_dist.prune(network, [X], budget={"keep": 0.5})
    rows = {row["name"]: row for row in result.report["layers"]}
    assert result.report["widths"] == {"2": 6}
    assert rows["0"]["reason"] == "'0' is a Derived, accepted are the layers of torch.nn themselves"
    assert type(result.model.get_submodule("0")) is Derived


class Plain(nn.BatchNorm1d):
    def __init__(self, features: int) -> None:
        super().__init__(features, affine=False, track_running_stats=False)


def test_a_norm_of_another_class_and_without_tensors_is_no_obstacle() -> None:
    network = nn.Sequential(nn.Linear(8, 16), Plain(16), nn.ReLU(), nn.Linear(16, 4))
    pruned = gfs_dist.prune(network, [X], budget={"keep": 0.5}).model
    assert pruned.get_submodule("0").get_parameter("weight").shape == (8, 8)


def mixed() -> nn.Module:
    torch.manual_seed(0)
    convolutions = [
        *(nn.Conv2d(3, 16, 3), nn.GroupNorm(1, 16, affine=False)),
        *(nn.Conv2d(16, 16, 3, groups=2), nn.GroupNorm(1, 16, affine=False)),
        *(nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten()),
    ]
    return nn.Sequential(*convolutions, nn.Linear(32, 4))


# Multiply-adds: 36 * 27 * 16 = 15,552 and 16 * 72 * 16 = 18,432 that stay, 4 * 144 = 576 of 4,608,
# 4 * 4 = 16 of 128. Parameters: 448 and 1,168, 145 of 1,160, 20 of 132.
@pytest.mark.parametrize(
    ("budget", "floor", "stays"),
    [
        (
            {"macs": 0.5},
            r"89.3% (34,576)",
            "of the multiply-adds '2' keeps 47.6% (channels are mixed on the way to Conv2d '4'), "
            "'0' keeps 40.2% (channels are mixed by GroupNorm '1')",
        ),
        (
            {"params": 0.5},
            "61.25% (1,781)",
            "of the parameters '2' keeps 40.2% (channels are mixed on the way to Conv2d '4'), "
            "'0' keeps 15.4% (channels are mixed by GroupNorm '1')",
        ),
        (
            {"macs": 0.5, "round_to": 16},
            "100% (38,720)",
            "of the multiply-adds '2' keeps 47.6% (channels are mixed on the way to Conv2d '4'), "
            "'0' keeps 40.2% (channels are mixed by GroupNorm '1'), '4' keeps "
            "11.9% (8 channels, kept by budget.round_to)",
        ),
    ],
)
def test_a_budget_below_the_floor_tells_what_stays_the_largest_first(
    budget: dict[str, Any], floor: str, stays: str
) -> None:
    end = re.escape(f"it is still {floor}: no widths cost less; {stays}")
    with pytest.raises(BudgetError, match=f"{end}$"):
        gfs_dist.prune(mixed(), [IMAGES], budget=budget)


def test_a_latency_below_the_floor_tells_what_stays() -> None:
    with pytest.raises(BudgetError, match="on this device; of the multiply-adds '2' keeps 47.6%"):
        gfs_dist.prune(mixed(), [IMAGES], budget={"latency": 1e-9})


def test_what_is_no_layer_at_all_is_told_too() -> None:
    """Of 8,672 parameters 8,000 and 500 stay, and 25 of 172 in the hidden layer and its reader."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.place = nn.Embedding(500, 16), nn.Parameter(torch.zeros(500))
            self.layers = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(self.words(x).mean(1) + self.place.sum())

    words = torch.randint(0, 500, (12, 5))
    with pytest.raises(BudgetError) as caught:
        gfs_dist.prune(Words(), [words], budget={"params": 0.1})
    assert str(caught.value).endswith(
        "; of the parameters 'words' keeps 92.3% (Embedding, which is no convolution or linear "
        "layer), 'place' keeps 5.8% (parameters outside of layers)"
    )


def test_many_that_stay_are_counted() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU()) for _ in range(6)),
        *(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 4)),
    )
    with pytest.raises(BudgetError) as caught:
        gfs_dist.prune(network, [X], budget={"macs": 0.1})
    names = re.findall(r"'(\S+)' keeps", str(caught.value))
    assert names == ["0.0", "1.0", "2.0"]
    assert str(caught.value).endswith("), and 3 more")
