"""One real forward pass, followed: its steps give what the module gives, on any inputs."""

import copy
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map_with_path

from gfs_dist.networks.graph.follow import CannotFollowError, follow
from gfs_dist.networks.graph.followed_network import (
    FollowedNetwork,
    check_replay,
)
from gfs_dist.networks.graph.json_values import UnstorableError
from gfs_dist.networks.measure.inputs import BatchForm, Inputs, Slot, joined, tensors_of


def inputs(batch: Any, images: bool = False) -> Inputs:
    tensors: dict[str, Tensor] = {}

    def slot(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        name = "".join(str(getattr(p, "key", getattr(p, "idx", ""))) for p in path) or "x"
        tensors[name] = leaf
        return Slot(name)

    if images:
        return Inputs({"x": batch}, BatchForm(Slot("x"), images=frozenset(["x"])))
    return Inputs(tensors, BatchForm(tree_map_with_path(slot, batch)))


def follow_network(model: nn.Module, x: Inputs) -> FollowedNetwork:
    network = FollowedNetwork(copy.deepcopy(model), x)
    check_replay(network, x)
    return network


X = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)


class InPlace(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.one(x), inplace=True)
        z = y * 2
        z += 1
        z[:, 0] = 0
        z.mul_(3)
        return y + self.two(z)


class Heads(Base):
    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.one(x).view(b, t, 2, 4).transpose(1, 2)
        y = functional.scaled_dot_product_attention(q, q, q, is_causal=True)
        return self.two(y.transpose(1, 2).reshape(b, t, -1)) + torch.arange(t)[:, None] / 10


class Reads(Base):
    """Takes another way for some inputs."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x) if (x > 10).any() else self.two(x)
        return y * x.shape[0]


class Numpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy() * 2)


class Opaque(Base):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([nn.Linear(8, 8)])
        self.odd = nn.Sequential(nn.Linear(8, 8), Numpy())

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.odd(functional.relu(self.one(x))))


class Autocast(Base):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = self.one(x)
        return self.two(y.float())


class Outputs(Base):
    def forward(self, x: Tensor, scale: Tensor, *, flag: bool = False) -> dict[str, Any]:
        y, state = self.one(x) * scale[:, None, None], self.two(x)
        return {"y": (y, [state]), "count": len(x), "none": None, "mask": state > 0}


class Recurrent(Base):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        steps, last = self.rnn(self.one(x))
        return self.two(steps) + last[0][:, None]


class Repeated(Base):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.one(x) + x
        return functional.linear(x, self.two.weight.T.contiguous(), self.two.bias)


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        features = self.conv(torch.stack([image * 2 for image in images]))
        return [{"scores": one.mean((1, 2))} for one in features]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "in place": (InPlace, inputs(X)),
    "heads": (Heads, inputs(X)),
    "reads": (Reads, inputs(X)),
    "opaque": (Opaque, inputs(X)),
    "autocast": (Autocast, inputs(X)),
    "outputs": (Outputs, inputs({"x": X, "scale": torch.ones(4), "flag": True})),
    "recurrent": (Recurrent, inputs(X)),
    "repeated": (Repeated, inputs(X)),
    "images": (Images, inputs(torch.rand(4, 3, 8, 8), images=True)),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
        ),
        inputs(X),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_give_what_the_module_gives_for_any_number_of_samples(name: str) -> None:
    make, x = NETWORKS[name]
    model = make().eval()
    before = copy.deepcopy(model.state_dict())
    network = follow_network(model, x[:2])
    for batch in (x[:2], x, x[1:2], joined([x, x[:1]])):
        assert isinstance(batch, Inputs)
        check_replay(network, batch)
        wanted = [t for t in tensors_of(x.form.run(model, batch.tensors)) if t.is_floating_point()]  # type: ignore[union-attr]
        for one, other in zip(wanted, tensors_of(network.replay(batch)), strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_and_pickles_run_alike_and_share_nothing(name: str) -> None:
    make, x = NETWORKS[name]
    network = follow_network(make().eval(), x)
    names = [step.name for step in network.gfs_program]
    for other in (copy.deepcopy(network), cloudpickle.loads(cloudpickle.dumps(network))):
        assert isinstance(other, FollowedNetwork)
        assert [step.name for step in other.gfs_program] == names
        own = {id(p) for p in network.parameters()}
        assert not own & {id(p) for p in other.parameters()}
        both = zip(tensors_of(network(x)), tensors_of(other.replay(x)), strict=True)
        assert all(torch.allclose(one, again, atol=1e-6) for one, again in both)


def test_what_cannot_be_followed_is_one_step_and_the_rest_is_not() -> None:
    network = follow_network(Opaque().eval(), inputs(X))
    modules = [step.target for step in network.gfs_program if step.kind == "module"]
    assert modules == ["one", "odd.0", "odd.1", "two"]
    network = follow_network(Recurrent().eval(), inputs(X))
    assert "rnn" in [step.target for step in network.gfs_program if step.kind == "module"]


def test_another_way_for_other_inputs_is_followed_anew() -> None:
    network = follow_network(Reads().eval(), inputs(X))
    check_replay(network, inputs(X + 20))
    assert len(network.gfs_passes) == 2
    check_replay(network, inputs(X))
    assert len(network.gfs_passes) == 2


def test_a_cut_network_is_followed_anew() -> None:
    network = follow_network(Heads().eval(), inputs(X))
    smaller = copy.deepcopy(network)
    smaller.get_submodule("two").weight.data.zero_()  # type: ignore[union-attr, operator]
    with torch.no_grad():
        assert float(smaller.replay(inputs(X))[0, 0].abs().max()) < 1
    check_replay(network, inputs(X))


def test_random_numbers_and_counters_are_refused() -> None:
    class Random(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x) + torch.rand(8))

    with pytest.raises(UnstorableError, match="does not do the same every time: take .*random"):
        follow_network(Random().eval(), inputs(X))


def test_an_output_without_numbers_of_the_input_is_refused() -> None:
    class Constant(Base):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(3)

    with pytest.raises(CannotFollowError, match="no floating tensor"):
        follow(Constant().eval(), inputs(X), set())
