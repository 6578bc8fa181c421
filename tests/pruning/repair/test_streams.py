"""All weights of a cut network trained towards the dense network's streams."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gfs_dist.errors import NonFiniteError
from gfs_dist.files import checkpoint
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.pruning.calibration.layer_sites import find_sites
from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.repair import stream_training
from gfs_dist.pruning.repair.stream_training import StreamSpec, StreamTask, repair_streams
from gfs_dist.pruning.repair.streams import FoldedNetwork, StreamPair, compared_streams
from gfs_dist.pruning.smaller import KeptChannels, make_smaller
from gfs_dist.pruning.structure.discover import find_structure
from gfs_dist.runtime import Fault, RuntimeSpec, open_runtime
from tests.pruning import zoo
from tests.pruning.repair.test_sweep import learnt

ALONE = RuntimeSpec(kind="none", device="cpu", threads=1)
NETWORKS = {
    "plain CNN": zoo.plain_cnn,
    "ResNet18": zoo.resnet18,
    "zero-padded shortcuts": zoo.zero_pad_resnet,
    "MobileNetV2": zoo.mobilenet,
    "DenseNet": zoo.densenet,
}


class Cut:
    """A network of the zoo, half of every layer, and samples."""

    def __init__(
        self,
        maker: Callable[[], nn.Module],
        folder: Path,
        *,
        samples: int = 40,
        dtype: torch.dtype = torch.float32,
        coupled: bool = False,
    ) -> None:
        torch.manual_seed(0)
        x = torch.randn(samples, 3, 8, 8)
        model = learnt(maker(), x).to(dtype)
        self.x = x.to(dtype)
        self.workspace = Workspace.create(folder / "workspace", model, self.x.split(16))
        self.dense = self.workspace.dense()
        self.structure = find_structure(model, self.x[:2], coupled=coupled)
        layers = self.structure.layers
        self.kept = KeptChannels.first({a.name: max(1, a.num_candidates // 2) for a in layers})
        self.small = make_smaller(self.dense, self.structure, self.kept)
        self.sites = find_sites(self.dense, self.x[:2])
        self.outputs = self.kept.outputs(self.structure, self.dense)
        self.folder = folder

    def streams(self) -> list[str]:
        return [s.name for s in compared_streams(self.dense, self.sites, self.outputs)]

    def pair(self) -> StreamPair:
        return StreamPair(self.dense, self.small, self.sites, self.outputs, self.x)

    def task(self, steps: int, state: str = "state", seed: int = 0) -> StreamTask:
        start = self.folder / "start.safetensors"
        checkpoint.write_tensors(start, self.small.state_dict())
        place = self.folder / f"{state}.safetensors"
        return StreamTask(
            self.workspace,
            self.structure,
            self.sites,
            self.kept,
            str(start),
            str(place),
            StreamSpec(steps, seed),
        )

    def repaired(
        self,
        steps: int,
        state: str = "state",
        spec: RuntimeSpec = ALONE,
        faults: list[Fault] | None = None,
        on_step: Callable[[int, float], None] = lambda *_: None,
    ) -> GraphNetwork:
        with open_runtime(spec, faults or []) as runtime:
            return repair_streams(self.task(steps, state), runtime, on_step)

    def error(self, network: GraphNetwork) -> float:
        """The loss, by definition: of the streams that :meth:`streams` names, in all samples."""
        names = compared_streams(self.dense, self.sites, self.outputs)
        found = 0.0
        for stream in names:
            dense = result(self.dense, stream.name, self.x)
            if stream.kept is not None:
                dense = dense.movedim(stream.axis, 0)[stream.kept].movedim(0, stream.axis)
            gap = result(network, stream.name, self.x) - dense
            found += float(gap.square().mean() / dense.var()) / len(names)
        return found


def result(network: GraphNetwork, name: str, x: Tensor) -> Tensor:
    """One step's result, by running all steps before it."""
    results = {network.gfs_inputs[0]: x, "training": False}
    for step in network.gfs_program:
        results[step.name] = network.run_step(step, results)
        if step.name == name:
            break
    return results[name]


def same(one: nn.Module, other: nn.Module) -> bool:
    found, expected = one.state_dict(), other.state_dict()
    return all(torch.equal(found[name], expected[name]) for name in expected)


def test_blocks_are_compared_after_their_relus(tmp_path: Path) -> None:
    cut = Cut(zoo.resnet18, tmp_path)
    steps = {step.name: step for step in cut.dense.gfs_program}
    streams = [steps[name] for name in cut.streams()]
    blocks = len({site.stream for site in cut.sites if site.other is not None})
    assert len(streams) == blocks
    for relu in streams:
        [added] = relu.needs
        assert steps[added].target in {"operator.add", "torch.add"}


def test_linear_streams_are_compared_as_they_are(tmp_path: Path) -> None:
    cut = Cut(zoo.mobilenet, tmp_path)
    ends = ("4.conv.6", "5.conv.6")  # the block before has no channels to lose
    assert cut.streams() == [site.stream for site in cut.sites if site.module in ends]


def test_without_blocks_layers_are_compared_at_the_channels_they_kept(tmp_path: Path) -> None:
    cut = Cut(zoo.plain_cnn, tmp_path)
    streams = compared_streams(cut.dense, cut.sites, cut.outputs)
    assert len(streams) == len(cut.outputs)
    assert all(stream.kept is not None for stream in streams)


def test_streams_that_lost_channels_are_compared_at_the_others(tmp_path: Path) -> None:
    cut = Cut(zoo.resnet18, tmp_path, coupled=True)
    streams = compared_streams(cut.dense, cut.sites, cut.outputs)
    assert streams and all(stream.kept is not None for stream in streams)
    assert cut.error(cut.repaired(20)) < cut.error(cut.small)


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_and_unfolding_change_nothing_but_rounding(name: str, tmp_path: Path) -> None:
    cut = Cut(NETWORKS[name], tmp_path, dtype=torch.float64)
    names = frozenset(cut.streams())
    folded = FoldedNetwork(cut.small, cut.sites, names, cut.x)
    again = copy.deepcopy(cut.small)
    for parameter in again.parameters():
        parameter.data += 1
    folded.unfold(again)
    for stream in names:
        expected = result(cut.small, stream, cut.x)
        torch.testing.assert_close(folded.run(cut.x)[stream], expected)
        torch.testing.assert_close(result(again, stream, cut.x), expected)


def test_what_was_trained_is_what_is_stored(tmp_path: Path) -> None:
    """Also where a norm has removed its output, and after a layer with a bias of its own."""
    cut = Cut(zoo.resnet18, tmp_path, dtype=torch.float64)
    site = next(site for site in cut.sites if site.norm)
    conv, norm = cut.small.get_submodule(site.module), cut.small.get_submodule(site.norm or "")
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    norm.weight.data[0] = 0.0
    conv.bias = nn.Parameter(torch.randn(len(conv.weight), dtype=torch.float64))
    names = frozenset(cut.streams())
    folded = FoldedNetwork(cut.small, cut.sites, names, cut.x)
    folded.vector += 0.1 * torch.randn_like(folded.vector)
    statistics = {name: b.clone() for name, b in cut.small.named_buffers()}
    folded.unfold(cut.small)
    assert all(torch.equal(b, statistics[name]) for name, b in cut.small.named_buffers())
    for stream in names:
        expected = folded.run(cut.x)[stream]
        torch.testing.assert_close(result(cut.small, stream, cut.x), expected)


@pytest.mark.parametrize("name", ["ResNet18", "MobileNetV2", "plain CNN"])
def test_the_gradient_is_that_of_the_loss(name: str, tmp_path: Path) -> None:
    cut = Cut(NETWORKS[name], tmp_path, dtype=torch.float64)
    pair = cut.pair()
    *gradient, loss = pair.gradient(cut.x).tolist()
    assert loss == pytest.approx(cut.error(cut.small))
    vector, step = pair.small.vector, 1e-6
    for place in range(0, len(vector), len(vector) // 20):
        sides = []
        for sign in (1, -1):
            vector[place] += sign * step
            sides.append(float(pair.gradient(cut.x)[-1]))
            vector[place] -= sign * step
        expected = (sides[0] - sides[1]) / (2 * step)
        assert gradient[place] == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", NETWORKS)
def test_streams_come_closer_to_the_dense_ones(name: str, tmp_path: Path) -> None:
    cut, losses = Cut(NETWORKS[name], tmp_path), []
    small = cut.repaired(30, on_step=lambda _, loss: losses.append(loss))
    assert cut.error(small) < 0.9 * cut.error(cut.small)
    assert len(losses) == 30


def test_halves_are_trained_in_float32(tmp_path: Path) -> None:
    cut = Cut(zoo.plain_cnn, tmp_path, dtype=torch.bfloat16)
    small = cut.repaired(30)
    assert all(p.dtype == torch.bfloat16 for p in small.parameters())
    assert cut.error(small) < 0.9 * cut.error(cut.small)


def test_networks_of_tokens_are_repaired_too(tmp_path: Path) -> None:
    """Sums that LayerNorm reads, of layers without batch norms; a buffer that cannot be written."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.first, self.second = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)
            self.register_buffer("shift", torch.zeros(1).expand(8))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.second(torch.relu(self.first(self.norm(x) + self.shift)))

    cut = Cut(lambda: nn.Sequential(nn.Flatten(1, 2), Block(), Block(), nn.Linear(8, 3)), tmp_path)
    small = cut.repaired(60)
    assert len(cut.streams()) == 2
    assert cut.error(small) < 0.9 * cut.error(cut.small)


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_ranks_trains_the_same_bits(workers: int, tmp_path: Path) -> None:
    cut = Cut(zoo.zero_pad_resnet, tmp_path, samples=100)
    alone = cut.repaired(6, "alone")
    spec = RuntimeSpec(kind="local", workers=workers, threads=2, device="cpu")
    assert same(cut.repaired(6, "together", spec), alone)


def test_lost_ranks_change_nothing(tmp_path: Path) -> None:
    cut = Cut(zoo.plain_cnn, tmp_path)
    steps = stream_training.KEEP_EVERY + 8
    alone = cut.repaired(steps, "alone")
    spec = RuntimeSpec(kind="local", workers=2, threads=1, spares=1, device="cpu")
    faults = [Fault(rank=1, step=3), Fault(rank=0, step=steps - 2, generation=1)]
    assert same(cut.repaired(steps, "together", spec, faults), alone)


def test_a_killed_repair_goes_on_from_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, told = Cut(zoo.plain_cnn, tmp_path), list[int]()
    steps = stream_training.KEEP_EVERY + 8
    alone = cut.repaired(steps, "alone")

    step_at = StreamSpec.step_at

    def stop(spec: StreamSpec, iteration: int) -> float:
        if iteration == steps - 2:
            raise KeyboardInterrupt
        return step_at(spec, iteration)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(StreamSpec, "step_at", stop)
        cut.repaired(steps, "killed")
    again = cut.repaired(steps, "killed", on_step=lambda done, _: told.append(done))
    assert same(again, alone)
    assert told == [*range(stream_training.KEEP_EVERY + 1, steps + 1)]
    other = cut.repaired(steps + 1, "killed")  # a state of another repair is none
    assert not same(other, alone)
    assert same(other, cut.repaired(steps + 1, "anew"))


def test_weights_of_nothing_that_is_compared_stay(tmp_path: Path) -> None:
    cut = Cut(zoo.resnet18, tmp_path)
    small = cut.repaired(2)
    assert torch.equal(small.get_parameter("fc.weight"), cut.small.get_parameter("fc.weight"))
    moved = small.get_parameter("conv1.weight") - cut.small.get_parameter("conv1.weight")
    assert float(moved.abs().max()) > 0


def test_a_loss_that_is_no_number_is_refused(tmp_path: Path) -> None:
    cut = Cut(zoo.plain_cnn, tmp_path)
    cut.small.get_parameter("0.weight").data.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"repair\.streams: loss nan at step 1"):
        cut.repaired(2)


def test_only_images_of_three_colours_are_augmented(tmp_path: Path) -> None:
    cut = Cut(zoo.plain_cnn, tmp_path)
    task = cut.task(1)
    batch = task.batch(0)
    assert batch.shape == cut.x.shape
    assert not torch.equal(batch.sort(0).values, cut.x.sort(0).values)
    flat = Workspace.create(tmp_path / "flat", nn.Linear(6, 2), [torch.randn(40, 6)])
    rows = StreamTask(flat, cut.structure, (), cut.kept, "", "", StreamSpec()).batch(0)
    assert torch.equal(rows.sort(0).values, torch.cat([flat.x(0)]).sort(0).values)


def test_the_state_holds_the_optimiser(tmp_path: Path) -> None:
    cut = Cut(zoo.plain_cnn, tmp_path)
    cut.repaired(3)
    assert set(load_file(cut.task(3).state)) == {"weights", "mean", "square"}
