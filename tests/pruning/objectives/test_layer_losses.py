"""Losses of paths, held against contributions and refits written out from what consumers read."""

from __future__ import annotations

from pathlib import Path as FilePath

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gfs_dist.pruning.pruner import Pruner, Settings
from gfs_dist.pruning.repair.least_squares import DAMPING
from gfs_dist.pruning.structure.structure import Layer, Slice
from gfs_dist.runtime import RuntimeSpec, open_runtime
from tests.pruning.problems import make


class Searched:
    """A network whose layers have been searched, and what their consumers read of all samples."""

    def __init__(self, name: str, folder: FilePath, settings: Settings) -> None:
        problem = make(name, samples=12)
        self.x, self.samples = problem.x, len(problem.x)
        with open_runtime(RuntimeSpec(kind="none", workers=1, device="cpu")) as runtime:
            self.pruner = Pruner.prepare(
                problem.model, problem.x.split(5), settings, runtime, folder / "work"
            )
            self.pruner.search()

    def read(self, layer: Layer, consumer: Slice) -> tuple[Tensor, Tensor, float]:
        """By candidate: its inputs (positions, ...) less their mean, and their weights; and the
        mean over inputs of their squared deviations inside the image.
        """
        network = self.pruner.dense
        (site,) = [site for site in self.pruner.sites if site.module == consumer.module]
        module = network.get_submodule(consumer.module)
        seen: list[Tensor] = []
        hook = module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            network(self.x)
        hook.remove()
        weight, has_offset = module.weight.detach(), module.bias is not None
        if isinstance(module, torch.nn.Conv2d):
            args = module.kernel_size, module.dilation, module.padding, module.stride
            patches, inside = (
                functional.unfold(part, *args).transpose(0, 1).flatten(1).T
                for part in (seen[0], torch.ones_like(seen[0]))
            )
        else:
            patches = seen[0].flatten(0, -2)
            inside = torch.ones_like(patches)
        if site.norm is not None:
            norm = network.get_submodule(site.norm)
            scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
            weight, has_offset = weight * scale.view(-1, *(1 for _ in weight[0].shape)), True
        kernel = weight[0, 0].numel()
        columns = torch.tensor(
            [[c * kernel + k for c in own for k in range(kernel)] for own in consumer.channels]
        )
        means = patches.sum(0) / inside.sum(0).clamp(min=1)
        spread = ((patches - means) * inside)[:, columns.flatten()].square().sum(0).mean()
        if has_offset:
            patches = patches - patches.mean(0)
        return patches[:, columns], weight.flatten(1).T[columns], float(spread)

    def losses(self, layer: Layer, k: int) -> float:
        """After ``k`` picks, from the definition, summed over consumers."""
        path, total = self.pruner.paths[layer.name].path, 0.0
        for consumer in layer.consumers:
            x, weights, spread = self.read(layer, consumer)
            contributions = torch.einsum("pnb,nbo->npo", x, weights)
            target = contributions.sum(0)
            if self.pruner.settings.objective == "least_squares":
                chosen = x[:, path.picks[:k]].flatten(1)
                damping = DAMPING * spread / self.samples
                gram = chosen.T @ chosen / self.samples
                gram.diagonal().add_(damping)
                output = chosen @ torch.linalg.solve(gram, chosen.T @ target / self.samples)
            else:
                counts = len(contributions) * path.coefficients(k)
                output = torch.einsum("n,npo->po", counts, contributions)
            total += float((output - target).square().sum()) / (2 * self.samples)
        return total


@pytest.mark.parametrize("name", ["ResNet18", "MobileNetV2", "DenseNet"])
@pytest.mark.parametrize(
    "settings",
    [
        Settings("least_squares", coupled=True),
        Settings("layer_output", coupled=True),
        Settings("layer_output", "line_search", replacement=True),
    ],
    ids=["least_squares", "uniform", "line_search"],
)
def test_losses_are_those_of_the_consumers_outputs(
    name: str, settings: Settings, tmp_path: FilePath
) -> None:
    searched = Searched(name, tmp_path, settings)
    for layer in searched.pruner.structure.layers:
        found = searched.pruner.paths[layer.name]
        for k in {1, len(found.loss) // 2 + 1, len(found.loss)}:
            expected = searched.losses(layer, k)
            assert found.loss[k - 1] == pytest.approx(expected, abs=1e-9 * found.path.loss[0])
