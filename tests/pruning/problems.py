"""Small labelled problems for the objectives that look at the whole network, and a plain oracle."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfs_dist.pruning.calibration.workspace import Workspace
from gfs_dist.pruning.structure.discover import find_structure
from gfs_dist.pruning.structure.structure import Layer, Structure
from tests.pruning import oddities, zoo

CPU = torch.device("cpu")


class Wide(nn.Module):
    """One hidden layer whose activation rounds differently at the end of a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, width), nn.Linear(width, 7)
        self.norm, self.head = nn.BatchNorm1d(7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(functional.silu(self.first(x)))
        return self.head(functional.silu(self.norm(x)))


MAKERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain CNN": (zoo.plain_cnn, (3, 8, 8)),
    "ResNet18": (zoo.resnet18, (3, 8, 8)),
    "MobileNetV2": (zoo.mobilenet, (3, 8, 8)),
    "squeeze-and-excitation": (lambda: zoo.mobilenet(excite=6), (3, 8, 8)),
    "DenseNet": (zoo.densenet, (3, 8, 8)),
    "one dimension": (oddities.conv1d, (3, 16)),
    "wide": (lambda: Wide(40), (6,)),
}


def make(
    name: str, samples: int = 10, dtype: torch.dtype = torch.float64, *, trained: bool = False
) -> Problem:
    """A network of the zoo with running statistics that are not those of a new one, and samples.

    ``trained``: it has learnt them, so that its channels have something to lose.
    """
    torch.manual_seed(1)
    maker, shape = MAKERS[name]
    model = maker()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    model = model.to(dtype).eval()
    x = torch.randn(samples, *shape, dtype=dtype)
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    labels = torch.randint(classes, (samples,))
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(40 if trained else 0):
        optimiser.zero_grad()
        functional.cross_entropy(model(x), labels).backward()
        optimiser.step()
    return Problem(model, x, labels)


class Problem:
    """A network and its labelled samples."""

    def __init__(self, model: nn.Module, x: Tensor, labels: Tensor) -> None:
        self.model, self.x, self.labels = model, x, labels
        self.structure: Structure = find_structure(model, x[:2], coupled=True)

    def layer(self, name: str) -> Layer:
        return next(layer for layer in self.structure.layers if layer.name == name)

    def workspace(self, folder: Path) -> Workspace:
        batches = zip(self.x.split(4), self.labels.split(4), strict=True)
        return Workspace.create(folder / "workspace", self.model, batches)

    def losses(self, layer: Layer, factors: Sequence[float] | Tensor) -> Tensor:
        """Loss of each sample, by definition: consumers' weights on candidate i times factor i."""
        scaled = copy.deepcopy(self.model)
        with torch.no_grad():
            for consumer in layer.consumers:
                module = scaled.get_submodule(consumer.module)
                scale = torch.ones(module.weight.shape[1], dtype=torch.float64)
                for factor, channels in zip(factors, consumer.channels, strict=True):
                    scale[list(channels)] = float(factor)
                module.weight *= scale.view(1, -1, *(1,) * (module.weight.ndim - 2))
            return functional.cross_entropy(scaled(self.x), self.labels, reduction="none")

    def loss(self, layer: Layer, coefficients: Sequence[float] | Tensor) -> float:
        """Mean loss where the layer is n times the weighted sum of its candidates."""
        n = layer.num_candidates
        return float(self.losses(layer, [n * float(c) for c in coefficients]).mean())


def average(picks: Sequence[int], n: int) -> Tensor:
    """Coefficients under uniform weights."""
    counts = torch.zeros(n, dtype=torch.float64)
    for pick in picks:
        counts[pick] += 1 / len(picks)
    return counts
