"""Training of deep networks, held against a plain loop, and against itself interrupted or split."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.errors import ConfigError, DataError, RunError, ShapeError
from gfs_dist.training import DeepSpec, TrainState, train_deep
from gfs_dist.training.batches import batch_rows

SPEC = DeepSpec(
    iterations=10, lr=0.1, batch=16, augment=True, amp=False, checkpoint_every=4, seed=3
)


@dataclass(frozen=True)
class Blobs:
    """Noise images, brighter in the channel that is their label."""

    x_train: Tensor
    labels_train: Tensor

    def inputs(self, x: Tensor) -> Tensor:
        return (x.float() / 255 - 0.5) / 0.25


def blobs(count: int = 41, channels: int = 3, side: int = 16) -> Blobs:
    draws = torch.Generator().manual_seed(7)
    x = torch.randint(0, 200, (count, channels, side, side), generator=draws)
    labels = torch.randint(channels, (count,), generator=draws)
    x[torch.arange(count), labels] += 55
    return Blobs(x.to(torch.uint8), labels)


SAMPLES = blobs()


def plain(channels: int = 3) -> nn.Sequential:
    """Nothing in it looks at other samples of the batch."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, channels),
    )


def everything() -> nn.Sequential:
    """Batch norm, dropout, and a part that stays as it is."""
    network = plain()
    network.insert(1, nn.BatchNorm2d(8))
    network.insert(6, nn.Dropout(0.3))
    network[3].weight.requires_grad_(False)
    return network


def run(
    network: nn.Module, spec: DeepSpec = SPEC, samples: Blobs = SAMPLES, **more: Any
) -> dict[int, tuple[nn.Module, TrainState]]:
    """Every checkpoint's network and state."""
    kept = {}

    def keep(network: nn.Module, state: TrainState) -> None:
        kept[state.iteration] = copy.deepcopy((network, state))

    train_deep(network, samples, spec, on_checkpoint=keep, **more)
    return kept


def same(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_training_is_that_of_a_plain_loop() -> None:
    network, other = everything(), everything()
    spec = replace(SPEC, augment=False)
    other[6].p = network[6].p = 0.0
    optimizer = torch.optim.SGD(
        [p for p in other.parameters() if p.requires_grad], 0.1, momentum=0.9, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, spec.iterations)
    for iteration in range(spec.iterations):
        rows = batch_rows(len(SAMPLES.x_train), spec.batch, iteration, spec.seed)
        optimizer.zero_grad()
        logits = other(SAMPLES.inputs(SAMPLES.x_train[rows]))
        functional.cross_entropy(logits, SAMPLES.labels_train[rows]).backward()
        optimizer.step()
        schedule.step()
    run(network, spec)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_the_step_size_is_that_of_torchs_cosine_schedule() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 17)
    spec = DeepSpec(iterations=17, lr=0.3)
    for iteration in range(17):
        assert spec.lr_at(iteration) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        schedule.step()
    assert spec.lr_at(17) == 0


@pytest.mark.parametrize("amp", [False, True])
def test_training_goes_on_from_any_checkpoint_bit_for_bit(amp: bool) -> None:
    spec = replace(SPEC, amp=amp)
    whole = run(everything(), spec)
    assert list(whole) == [0, 4, 8, 10]
    for iteration, (network, state) in whole.items():
        assert state.iteration == iteration
        torch.manual_seed(iteration)  # what others drew must not matter
        later = run(network, spec, start=state)
        assert list(later) == [i for i in whole if i > iteration]
        assert same(network, whole[10][0])
        assert all(later[i][1].loss == whole[i][1].loss for i in later)
        if later:
            velocity = whole[10][1].velocity
            assert later[10][1].velocity.keys() == velocity.keys()
            assert all(torch.equal(later[10][1].velocity[k], velocity[k]) for k in velocity)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_on_a_gpu_it_goes_on_bit_for_bit_in_mixed_precision() -> None:
    spec = replace(SPEC, amp=None)
    whole = run(everything().cuda(), spec)
    network, state = whole[4]
    run(network, spec, start=state)
    assert same(network, whole[10][0])


def test_two_runs_are_the_same_and_another_seed_is_not() -> None:
    first, again = run(everything())[10][0], run(everything())[10][0]
    assert same(first, again)
    assert not same(first, run(everything(), replace(SPEC, seed=4))[10][0])


class Threads:
    """Ranks as threads of this process, averaging in rank order."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self.barrier = threading.Barrier(num_ranks)
        self.slots: list[Any] = [None] * num_ranks

    def exchange(self, rank: int, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        self.slots[rank] = [tensor.detach().clone() for tensor in tensors]
        self.barrier.wait(60)
        told = list(self.slots)
        self.barrier.wait(60)
        return told

    def train(self, make: Any, spec: DeepSpec, samples: Blobs) -> list[dict[int, Any]]:
        def work(rank: int) -> dict[int, Any]:
            try:
                return run(make[rank], spec, samples, peers=Rank(self, rank))
            except BaseException:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(self.num_ranks) as pool:
            return list(pool.map(work, range(self.num_ranks)))


class Rank:
    def __init__(self, threads: Threads, rank: int) -> None:
        self.threads, self.rank, self.num_ranks = threads, rank, threads.num_ranks

    def average(self, tensors: Sequence[Tensor]) -> None:
        told = self.threads.exchange(self.rank, tensors)
        for own, *parts in zip(tensors, *told, strict=True):
            own.copy_(torch.stack(parts).sum(0) / self.num_ranks)

    def broadcast(self, tensors: Sequence[Tensor], owner: int = 0) -> None:
        told = self.threads.exchange(self.rank, tensors)
        for own, found in zip(tensors, told[owner], strict=True):
            own.copy_(found)

    def barrier(self) -> None:
        self.threads.barrier.wait(60)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_together_take_the_steps_of_one(num_ranks: int) -> None:
    """41 samples in batches of 8: the last batch has one sample, so that some ranks have none."""
    spec, networks = replace(SPEC, batch=8), [plain() for _ in range(num_ranks)]
    alone = run(plain(), spec)
    ranks = Threads(num_ranks).train(networks, spec, SAMPLES)
    for kept in ranks:
        assert same(kept[10][0], ranks[0][10][0])
        assert kept[10][1].loss == pytest.approx(alone[10][1].loss, rel=1e-5)
        for name, tensor in kept[10][0].state_dict().items():
            expected = alone[10][0].state_dict()[name]
            torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-6)


def test_batch_norm_keeps_the_statistics_of_rank_0() -> None:
    spec = replace(SPEC, iterations=1, augment=False)
    networks = [everything(), everything()]
    ranks = Threads(2).train(networks, spec, SAMPLES)
    rows = batch_rows(len(SAMPLES.x_train), 16, 0, spec.seed)[:8]
    expected = everything().train()
    expected(SAMPLES.inputs(SAMPLES.x_train[rows]))
    for kept in ranks:
        torch.testing.assert_close(kept[1][0][1].running_mean, expected[1].running_mean)
        torch.testing.assert_close(kept[1][0][1].running_var, expected[1].running_var)


class Probe(nn.Module):
    """Notes what goes into it while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x.detach())
        return x


def probed(spec: DeepSpec, samples: Blobs = SAMPLES) -> tuple[nn.Sequential, Probe, Probe]:
    network = plain(samples.x_train.shape[1])
    before, after = Probe(), Probe()
    network.insert(0, before)
    network.insert(2, after)
    run(network, replace(spec, iterations=1), samples)
    return network, before, after


def test_images_and_weights_lie_channels_last() -> None:
    network, before, after = probed(SPEC)
    for probe in (before, after):
        assert probe.seen[0].is_contiguous(memory_format=torch.channels_last)
        assert not probe.seen[0].is_contiguous()
    assert network[1].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_that_uses_view_is_trained_in_the_usual_order(channels: int) -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(channels, 4, 3)
            self.linear = nn.Linear(4 * 14 * 14, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.conv(x).view(len(x), -1))

    network = Viewing()
    assert list(run(network, samples=blobs(channels=channels))) == [0, 4, 8, 10]
    assert network.conv.weight.is_contiguous()


@pytest.mark.parametrize(
    ("amp", "dtype"), [(True, torch.bfloat16), (False, torch.float32), (None, torch.float32)]
)
def test_mixed_precision_is_bfloat16_between_layers_and_float32_in_weights(
    amp: bool | None, dtype: torch.dtype
) -> None:
    network, before, after = probed(replace(SPEC, amp=amp))
    assert before.seen[0].dtype == torch.float32
    assert after.seen[0].dtype == dtype
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("augment", "channels", "changed"), [(None, 3, True), (None, 1, False), (False, 3, False)]
)
def test_only_colour_images_are_augmented_unless_said_otherwise(
    augment: bool | None, channels: int, changed: bool
) -> None:
    samples = blobs(channels=channels)
    _, before, _ = probed(replace(SPEC, augment=augment), samples)
    rows = batch_rows(len(samples.x_train), SPEC.batch, 0, SPEC.seed)
    assert torch.equal(before.seen[0], samples.inputs(samples.x_train[rows])) != changed


def test_features_are_never_augmented() -> None:
    samples = Blobs(SAMPLES.x_train.flatten(1), SAMPLES.labels_train)
    probe = Probe()
    network = nn.Sequential(probe, nn.Linear(3 * 256, 3))
    run(network, replace(SPEC, iterations=1), samples)
    rows = batch_rows(len(samples.x_train), SPEC.batch, 0, SPEC.seed)
    assert torch.equal(probe.seen[0], samples.inputs(samples.x_train[rows]))


def test_checkpoints_know_the_mean_loss_since_the_one_before() -> None:
    seen: list[tuple[int, float]] = []
    kept = run(plain(), on_progress=lambda *row: seen.append(row))
    assert [iteration for iteration, _ in seen] == list(range(1, 11))
    assert kept[0][1].loss is None
    sizes = [16, 16, 9] * 4
    for first, last in ((0, 4), (4, 8), (8, 10)):
        pairs = list(zip(sizes, [loss for _, loss in seen], strict=False))[first:last]
        expected = sum(size * loss for size, loss in pairs) / sum(size for size, _ in pairs)
        assert kept[last][1].loss == pytest.approx(expected, rel=1e-12)


def test_a_network_learns_and_leaves_the_callers_random_numbers_alone() -> None:
    network = everything()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    losses: list[float] = []
    run(network, replace(SPEC, iterations=40), on_progress=lambda _, loss: losses.append(loss))
    assert torch.equal(torch.rand(3), expected)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_a_frozen_parameter_stays() -> None:
    network = everything()
    before = network[3].weight.clone()
    state = run(network)[10][1]
    assert torch.equal(network[3].weight, before)
    assert "3.weight" not in state.velocity


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_parameter_that_no_sample_asks_for_stays(num_ranks: int) -> None:
    """Weight decay would shrink it; in the last batch of one sample some ranks have no share."""
    networks = [plain() for _ in range(num_ranks)]
    for network in networks:
        network.register_parameter("spare", nn.Parameter(torch.ones(3)))
    for kept in Threads(num_ranks).train(networks, replace(SPEC, batch=8), SAMPLES):
        assert kept[10][0].spare.tolist() == [1, 1, 1]


def test_a_network_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="model: it has no parameter to train"):
        run(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def test_divergence_names_iteration_and_step_size() -> None:
    spec = replace(SPEC, lr=1e30, iterations=200)
    with pytest.raises(RunError, match=r"diverged: .* at iteration \d+ with train.lr=1e\+30; take"):
        run(plain(), spec)


def test_a_network_with_nan_is_not_kept() -> None:
    network = plain()
    with torch.no_grad():
        network[2].weight[0, 0] = torch.nan
    with pytest.raises(RunError, match=r"2.weight holds NaN or infinity at iteration 0"):
        run(network)


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        (Blobs(SAMPLES.x_train[:0], SAMPLES.labels_train[:0]), DataError, "training: no samples"),
        (
            Blobs(SAMPLES.x_train, SAMPLES.labels_train[:3]),
            ShapeError,
            r"labels: found shape \(3,\), accepted \(41,\)",
        ),
    ],
)
def test_samples_that_do_not_fit_are_refused(
    samples: Blobs, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(plain(), samples=samples)


def test_an_output_that_is_no_logits_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"16 samples has shape \(16, 8, 16, 16\), accepted"):
        run(plain()[:3])


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("iterations", -1, "0 or more"),
        ("batch", 0, "1 or more"),
        ("checkpoint_every", 0, "1 or more"),
        ("lr", 0.0, "above 0"),
        ("lr", float("nan"), "above 0"),
        ("momentum", 1.0, "0 to below 1"),
        ("weight_decay", -1.0, "0 or more"),
    ],
)
def test_wrong_settings_are_refused_by_key(key: str, value: float, accepted: str) -> None:
    with pytest.raises(ConfigError, match=rf"train.{key}: found {value}, accepted {accepted}"):
        DeepSpec(**{key: value})
