"""Weights of one layer, held against least squares on the samples themselves."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gfs_dist.errors import NonFiniteError
from gfs_dist.networks.graph.graph_network import GraphNetwork, Step
from gfs_dist.networks.graph.json_values import StepOutput
from gfs_dist.networks.graph.record import record
from gfs_dist.networks.models.layer_kinds import blocks, num_groups, num_inputs, weight_matrix
from gfs_dist.pruning.calibration.layer_sites import Site, find_sites
from gfs_dist.pruning.calibration.moments import Geometry, Moments, add
from gfs_dist.pruning.repair import least_squares as refit
from gfs_dist.pruning.repair.least_squares import Fit, OutputScale

INPUTS, OUTPUTS = 3, 4
KINDS = {
    "convolution and norm": lambda: [conv(bias=False), norm(nn.BatchNorm2d(OUTPUTS))],
    "biased convolution and norm": lambda: [conv(bias=True), norm(nn.BatchNorm2d(OUTPUTS))],
    "convolution with bias": lambda: [conv(bias=True)],
    "convolution without bias": lambda: [conv(bias=False)],
    "convolution with stride": lambda: [conv(bias=True, stride=2)],
    "linear with bias": lambda: [nn.Linear(INPUTS, OUTPUTS)],
    "linear without bias": lambda: [nn.Linear(INPUTS, OUTPUTS, bias=False)],
    "linear and norm": lambda: [nn.Linear(INPUTS, OUTPUTS), norm(nn.BatchNorm1d(OUTPUTS))],
}

IMAGES = (6, INPUTS, 5, 5)
OTHERS = {
    "one axis": (lambda: [nn.Conv1d(INPUTS, OUTPUTS, 3, padding=1)], (6, INPUTS, 9)),
    "one axis and norm": (
        lambda: [nn.Conv1d(INPUTS, OUTPUTS, 3, 2, bias=False), norm(nn.BatchNorm1d(OUTPUTS))],
        (6, INPUTS, 9),
    ),
    "three axes and norm": (
        lambda: [nn.Conv3d(INPUTS, OUTPUTS, 2, padding=1), norm(nn.BatchNorm3d(OUTPUTS))],
        (4, INPUTS, 3, 4, 5),
    ),
    "even kernel, same size": (lambda: [nn.Conv2d(INPUTS, OUTPUTS, 2, padding="same")], IMAGES),
    "reflected": (lambda: [padded("reflect", dilation=2)], IMAGES),
    "replicated": (lambda: [padded("replicate", stride=2)], IMAGES),
    "circular": (lambda: [padded("circular", bias=False)], IMAGES),
    "groups": (lambda: [nn.Conv2d(6, OUTPUTS, 3, 1, 1, groups=2)], (9, 6, 5, 5)),
    "groups without bias": (
        lambda: [nn.Conv1d(6, OUTPUTS, 3, groups=2, bias=False)],
        (12, 6, 9),
    ),
    "groups and norm": (
        lambda: [nn.Conv2d(6, OUTPUTS, 3, 2, groups=2), norm(nn.BatchNorm2d(OUTPUTS))],
        (20, 6, 5, 5),
    ),
    "transposed": (lambda: [nn.ConvTranspose2d(INPUTS, OUTPUTS, 3, 2, 1, 1)], IMAGES),
    "transposed, one axis": (lambda: [nn.ConvTranspose1d(INPUTS, OUTPUTS, 4, 2)], (6, INPUTS, 7)),
    "transposed, three axes, norm": (
        lambda: [nn.ConvTranspose3d(INPUTS, OUTPUTS, 2, 2), norm(nn.BatchNorm3d(OUTPUTS))],
        (4, INPUTS, 2, 3, 4),
    ),
    "transposed, dilated, groups": (
        lambda: [nn.ConvTranspose2d(6, OUTPUTS, (2, 3), 1, 2, groups=2, dilation=2, bias=False)],
        (9, 6, 5, 4),
    ),
    "Conv1D": (lambda: [Conv1D()], (8, 5, INPUTS)),
}


class Conv1D(nn.Module):
    """As in transformers: a linear layer whose weight is (inputs, outputs)."""

    def __init__(self) -> None:
        super().__init__()
        self.nf, self.nx = OUTPUTS, INPUTS
        self.weight = nn.Parameter(torch.randn(INPUTS, OUTPUTS))
        self.bias = nn.Parameter(torch.randn(OUTPUTS))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def padded(mode: str, **options) -> nn.Conv2d:
    return nn.Conv2d(INPUTS, OUTPUTS, 3, padding=1, padding_mode=mode, **options)


def conv(*, bias: bool, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(INPUTS, OUTPUTS, 3, stride, 1, bias=bias)


def norm(module: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Module:
    """With statistics of its own, and scales of both signs."""
    for tensor in (module.running_mean, module.bias):
        nn.init.normal_(tensor)
    nn.init.uniform_(module.running_var, 0.5, 2.0)
    module.weight.data = torch.tensor([0.7, -1.5, 0.2, 1.1])
    return module


class Problem:
    """A network of one site, its samples, and a target for it."""

    def __init__(self, kind: str, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(0)
        if kind in OTHERS:
            make, shape = OTHERS[kind]
        else:
            make, shape = KINDS[kind], (40, INPUTS) if "linear" in kind else IMAGES
        model = nn.Sequential(*make()).to(dtype).eval()
        self.x = (torch.randn(shape) + 0.5).to(dtype)
        self.network: GraphNetwork = recorded(model, self.x)
        (self.site,) = find_sites(self.network, self.x)
        self.stream = self.forward()
        self.target = self.stream + torch.randn(self.stream.shape).to(dtype)

    @property
    def layer(self) -> nn.Module:
        return self.network.get_submodule(self.site.module)

    def forward(self) -> Tensor:
        return self.network(self.x).clone()

    def moments(self, target: Tensor) -> Moments:
        geometry = Geometry.of(self.layer)
        sums = add(None, geometry.sums(self.x[:2], target[:2]))
        sums = add(sums, geometry.sums(self.x[2:], target[2:]))
        return geometry.assemble(sums, num_inputs(self.layer))

    def fit(self, target: Tensor) -> Fit:
        return Fit(self.network, self.site, self.moments(target))

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.network.state_dict().items()}


def recorded(model: nn.Module, x: Tensor) -> GraphNetwork:
    """The network in steps; a layer that is none of torch.nn's is a step too."""
    if not isinstance(model[0], Conv1D):
        return record(model, x)
    network = GraphNetwork(
        ["x"], [Step("y", "module", "0", [StepOutput("x")], {})], StepOutput("y")
    )
    network.add_module("0", model[0])
    return network.requires_grad_(False).eval()


def rows(values: Tensor, axis: int = 1) -> np.ndarray:
    return values.movedim(axis, -1).reshape(-1, values.shape[axis]).double().numpy()


@torch.no_grad()
def patches(layer: nn.Module, x: Tensor) -> np.ndarray:
    """What the layer reads, one row a position: its first output with each weight alone 1."""
    alone = copy.deepcopy(layer)
    alone.bias = None if not isinstance(layer, Conv1D) else nn.Parameter(0 * layer.bias)
    groups, outputs, *_ = blocks(alone).shape
    columns = []
    for group in range(groups):
        for place in range(blocks(alone)[0, 0].numel()):
            alone.weight.zero_()
            own = blocks(alone)[group, 0]
            own[np.unravel_index(place, own.shape)] = 1.0
            columns.append(rows(alone(x), Geometry.of(layer).axis)[:, group * outputs])
    return np.stack(columns, 1)


def oracle(problem: Problem, target: Tensor) -> np.ndarray:
    """The stream that ridge regression towards the present weights gives, from patches."""
    layer = problem.layer
    inputs, inside = patches(layer, problem.x), patches(layer, torch.ones_like(problem.x))
    scaling = OutputScale.of(problem.network, problem.site)
    start = (weight_matrix(layer).T * scaling.scale).numpy()
    aimed = rows(target, Geometry.of(layer).axis)
    shift_x = inputs.mean(0) if scaling.has_offset else 0.0
    shift_y = aimed.mean(0) if scaling.has_offset else 0.0
    centred = inputs - shift_x
    deviations = (inputs - inputs.sum(0) / inside.sum(0)) * inside
    damping = refit.DAMPING * np.square(deviations).sum() / deviations.shape[1]
    strength = np.sqrt(damping)
    aimed = aimed - shift_y
    groups = num_groups(layer)
    found = np.zeros_like(start)
    for own, out in zip(
        np.split(np.arange(len(start)), groups),
        np.split(np.arange(start.shape[1]), groups),
        strict=True,
    ):
        found[np.ix_(own, out)] = np.linalg.lstsq(
            np.vstack([centred[:, own], strength * np.eye(len(own))]),
            np.vstack([aimed[:, out], strength * start[np.ix_(own, out)]]),
            rcond=None,
        )[0]
    return centred @ found + shift_y


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_the_stream_after_a_fit_is_that_of_ridge_regression(kind: str) -> None:
    problem = Problem(kind)
    expected = oracle(problem, problem.target)
    problem.fit(problem.target).solve()
    axis = Geometry.of(problem.layer).axis
    found = rows(problem.forward(), axis)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)
    before = np.square(rows(problem.stream, axis) - rows(problem.target, axis)).mean()
    assert np.square(found - rows(problem.target, axis)).mean() < before


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_a_layer_fitted_to_itself_stays(kind: str) -> None:
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-5)):
        problem = Problem(kind, dtype)
        before = problem.weights()
        problem.fit(problem.stream).solve()
        for name, tensor in problem.weights().items():
            torch.testing.assert_close(tensor, before[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_target_is_fitted_as_if_it_were_the_first(kind: str) -> None:
    """The pull is towards the weights before any fit."""
    twice, once = Problem(kind), Problem(kind)
    other = twice.target.roll(1, 0)
    fit = twice.fit(twice.target)
    fit.solve()
    fit.solve(twice.moments(other))
    once.fit(other).solve()
    torch.testing.assert_close(twice.weights(), once.weights(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "has_offset"),
    [
        ("convolution and norm", True),
        ("convolution with bias", True),
        ("convolution without bias", False),
        ("linear without bias", False),
    ],
)
def test_an_intercept_is_stored_where_there_is_a_place(kind: str, has_offset: bool) -> None:
    problem = Problem(kind)
    assert OutputScale.of(problem.network, problem.site).has_offset == has_offset
    problem.fit(problem.stream + 3).solve()
    mean = (problem.forward() - problem.stream).mean()
    assert (float(mean) == pytest.approx(3, rel=1e-9)) == has_offset


def test_only_the_norms_mean_takes_the_intercept() -> None:
    problem = Problem("biased convolution and norm")
    before = problem.weights()
    problem.fit(problem.target).solve()
    changed = {n for n, tensor in problem.weights().items() if not torch.equal(tensor, before[n])}
    assert changed == {"0.weight", "1.running_mean"}


def test_outputs_that_their_norm_switches_off_stay() -> None:
    problem = Problem("convolution and norm")
    scale = problem.network.get_submodule("1").weight
    scale[1], scale[3] = 0.0, 1e-9
    before = problem.weights()
    problem.fit(problem.target).solve()
    after = problem.weights()
    for name in ("0.weight", "1.running_mean"):
        assert torch.equal(after[name][[1, 3]], before[name][[1, 3]])
        assert not torch.equal(after[name][[0, 2]], before[name][[0, 2]])


def test_a_norm_that_switches_everything_off_is_left_alone() -> None:
    problem = Problem("convolution and norm")
    problem.network.get_submodule("1").weight.zero_()
    before = problem.weights()
    problem.fit(problem.target).solve()
    torch.testing.assert_close(problem.weights(), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["convolution and norm", "linear without bias"])
def test_weights_of_inputs_that_are_always_zero_stay(kind: str) -> None:
    problem = Problem(kind)
    problem.x[:, 1] = 0
    before = problem.weights()["0.weight"]
    problem.fit(problem.target).solve()
    after = problem.weights()["0.weight"]
    torch.testing.assert_close(after[:, 1], before[:, 1], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(after[:, 0], before[:, 0])
    problem.x.zero_()
    before = problem.weights()["0.weight"]
    problem.fit(problem.target).solve()
    torch.testing.assert_close(problem.weights()["0.weight"], before, rtol=1e-12, atol=1e-12)


def test_twice_the_same_input_shares_the_weight() -> None:
    """A singular problem: the damping decides, and nothing blows up."""
    problem = Problem("linear without bias")
    problem.x[:, 1] = problem.x[:, 0]
    with torch.no_grad():
        problem.layer.weight.zero_()
    problem.fit(problem.x[:, :1].expand(-1, OUTPUTS)).solve()
    expected = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64).expand(OUTPUTS, 3)
    torch.testing.assert_close(problem.layer.weight.detach(), expected, rtol=0, atol=1e-3)


def test_a_site_knows_where_its_scale_comes_from() -> None:
    problem = Problem("biased convolution and norm")
    scale = OutputScale.of(problem.network, problem.site).scale
    norm_layer = problem.network.get_submodule("1")
    expected = norm_layer.weight / (norm_layer.running_var + norm_layer.eps).sqrt()
    torch.testing.assert_close(scale, expected)
    plain: Site = Problem("linear with bias").site
    assert plain.norm is None


def test_the_offset_makes_up_for_what_stored_weights_lose_of_a_large_mean() -> None:
    problem = Problem("linear with bias", torch.bfloat16)
    problem.x = problem.x + 64
    target = problem.x.float() @ torch.randn(INPUTS, OUTPUTS)
    target -= target.mean(0)
    problem.fit(target).solve()
    weight, bias = problem.layer.weight.float(), problem.layer.bias.float()
    mean = problem.x.float().mean(0) @ weight.T
    torch.testing.assert_close(bias, -mean, rtol=torch.finfo(torch.bfloat16).eps, atol=0)


def test_outputs_that_their_norm_all_but_loses_in_the_stream_stay() -> None:
    """Weights that could mend a stream of ones with a norm of 1e-20 would be enormous."""
    problem = Problem("convolution and norm")
    problem.network.get_submodule("1").weight.mul_(1e-20)
    before = problem.weights()
    problem.fit(problem.target).solve()
    torch.testing.assert_close(problem.weights(), before, rtol=0, atol=0)
    own = problem.forward()
    problem.fit(own + own.flip(0)).solve()
    assert not torch.equal(problem.weights()["0.weight"], before["0.weight"])


def test_weights_that_their_dtype_cannot_hold_name_the_layer() -> None:
    problem = Problem("linear with bias", torch.float16)
    told = "layer '0': its fitted weights hold NaN or infinity as torch.float16"
    with pytest.raises(NonFiniteError, match=told):
        problem.fit(1e6 * problem.target.float()).solve()
