"""Seeded problems that all tests draw from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest


@dataclass(frozen=True)
class Problem:
    """Contributions (samples, neurons[, outputs]), a target, and the loss they are meant for."""

    contributions: np.ndarray
    target: np.ndarray
    loss: str


def make_problem(seed: int, loss: str = "squared", samples: int = 40, neurons: int = 24) -> Problem:
    """A random problem with a duplicated neuron; the target lies near the mean of some neurons."""
    rng = np.random.default_rng(seed)
    shape = (samples, neurons, 3) if loss == "cross_entropy" else (samples, neurons)
    contributions = rng.standard_normal(shape) * rng.uniform(0.5, 2.0, (1, neurons, *shape[2:]))
    contributions[:, neurons // 2] = contributions[:, neurons // 3]
    mean = contributions[:, : neurons // 4].mean(1)
    if loss == "squared":
        target = mean + 0.2 * rng.standard_normal(mean.shape)
    elif loss == "bce":
        target = (mean + 0.3 * rng.standard_normal(mean.shape) > 0).astype(float)
    else:
        target = mean.argmax(1)
    return Problem(contributions, target, loss)


@pytest.fixture
def problem() -> Callable[..., Problem]:
    """Makes a seeded problem: ``problem(seed, loss)``."""
    return make_problem


@pytest.fixture(scope="module")
def embedded_ray() -> Iterator[None]:
    """One Ray for a file of tests, as starting one takes seconds; runtimes find it and leave it.

    Its actors begin in the folder where it was started, so tests of commands start their own.
    """
    from gfs_dist.runtime.backends.ray import EmbeddedRay

    embedded = EmbeddedRay(4)
    yield
    embedded.close()
