"""The dense network in a workspace: recorded, or as it is and followed.

What is recorded is stored as anywhere. What has to be followed is pickled, for the processes of
this job alone: they run its code anyway, and no file of another job is read.
"""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from gfs_dist import networks
from gfs_dist.errors import ConfigError, ShapeError, error_line
from gfs_dist.networks.graph.follow import CannotFollowError
from gfs_dist.networks.graph.followed_network import FollowedNetwork, check_replay
from gfs_dist.networks.graph.graph_network import GraphNetwork
from gfs_dist.networks.graph.json_values import UnstorableError
from gfs_dist.networks.graph.record import record
from gfs_dist.networks.graph.tensors import copied
from gfs_dist.networks.measure.inputs import Inputs, described, run
from gfs_dist.pruning.calibration.batches import STACK, WRAP, X

CPU = torch.device("cpu")
FOLLOWED = "followed.pickle"
REFUSED = "model: it cannot be pruned: "

Select = Callable[[Any], Any]
"""The part of the outputs that counts."""


@functools.lru_cache(maxsize=2)
def read_dense(folder: str, name: str, example: str | None, device: torch.device) -> GraphNetwork:
    """The network in steps.

    Args:
        folder, name: of the workspace, and of the network in it.
        example: file of samples that a recorded network takes; None if it is followed.
    """
    if device != CPU:
        return copy.deepcopy(read_dense(folder, name, example, CPU)).to(device)
    if example is None:
        content = Path(folder, name, FOLLOWED).read_bytes()
        followed: FollowedNetwork = cloudpickle.loads(content)
        return followed
    return record(networks.load(Path(folder, name)), load_file(example)[X][:2])


def write_recorded(folder: Path, model: nn.Module, example: Tensor) -> bool:
    """Store a network of one tensor; False if it cannot be run in recorded steps.

    Raises:
        ShapeError, ConfigError: it refuses the example, or its tensors cannot be stored.
    """
    try:
        networks.save(folder, model, example=example)
        record(networks.load(folder), example)
    except ShapeError as error:
        wanted, cure = networks.dtype_of(model), WRAP
        if not isinstance(error.__cause__, TypeError):
            cure = f"accepted are samples along the first axis; {STACK}"
            if example.dtype != wanted and "type" in str(error.__cause__):
                cure = f"samples are {example.dtype}, weights {wanted}: convert one to the other"
        raise ShapeError(f"batches: {error}; {cure}") from error
    except UnstorableError:
        return False
    except ConfigError as error:
        if not isinstance(error.__cause__, UnstorableError):
            raise
        return False
    return True


def write_followed(
    folder: Path,
    model: nn.Module,
    example: Inputs,
    samples: Sequence[Callable[[], Inputs]],
    select: Select | None,
) -> None:
    """Write a network that is run as it is, once its steps are known to hold for all samples.

    Where what comes after its last layer does not, as in detectors, the steps end there.

    Args:
        folder: for its file.
        example: some samples.
        samples: reads each chunk of them.
        select: the part of the outputs that counts; None for all.

    Raises:
        ConfigError: it can be neither copied nor followed; says why.
        ShapeError: it refuses the example.
    """
    for name, module in model.named_modules():
        if is_parametrized(module):
            raise ConfigError(
                f"{REFUSED}{name!r} is a {type(module).__name__} whose tensors are computed from "
                "others: call torch.nn.utils.parametrize.remove_parametrizations first"
            )
    reason = ""
    for to_the_end in (True, False):
        try:
            own = copied(model)
        except UnstorableError as error:
            raise ConfigError(f"{REFUSED}{error}") from error
        network = FollowedNetwork(own, example, select or all_outputs, to_the_end=to_the_end)
        network.requires_grad_(False)
        content = _pickled(network)  # before it runs: what some keep of a pass cannot be written
        try:
            _check_steps(network, example, samples)
        except CannotFollowError as error:
            words = f"its forward pass cannot be followed: {error}"
            raise ConfigError(f"{REFUSED}{words}") from error
        except UnstorableError as error:
            reason = reason or str(error)
            continue
        (folder / FOLLOWED).write_bytes(content)
        return
    raise ConfigError(f"{REFUSED}{reason}")


def _pickled(network: FollowedNetwork) -> bytes:
    try:
        content: bytes = cloudpickle.dumps(network)
    except (TypeError, AttributeError, RuntimeError, pickle.PicklingError) as error:
        raise ConfigError(
            f"model: it cannot be given to other processes ({error_line(error)}): take out "
            "results of earlier calls, hooks and open files"
        ) from error
    return content


def _check_steps(
    network: FollowedNetwork, example: Inputs, samples: Sequence[Callable[[], Inputs]]
) -> None:
    """Do nothing where the steps on the example are those on all samples, and give the same.

    Raises:
        ShapeError: the network refuses the example.
        ConfigError: it does not do the same every time.
        UnstorableError: other samples take other steps, or the steps end before the pass does.
        CannotFollowError: it cannot be followed.
    """
    try:
        with torch.no_grad():
            run(network.gfs_root, example)
    except Exception as error:  # the user's code may raise anything
        raise ShapeError(
            f"batches: the network refuses an input of {described(example)}: {error_line(error)}"
        ) from error
    names = network.step_names(example)
    try:
        check_replay(network, example)
    except UnstorableError as error:
        raise ConfigError(f"{REFUSED}{error}") from error
    for read in samples:
        check_replay(network, x := read())
        if network.step_names(x) != names:
            raise UnstorableError(
                f"its forward pass takes other steps for {len(x)} samples than for "
                f"{len(example)}, or for other samples: give batches of one sample"
            )


def all_outputs(outputs: Any) -> Any:
    """Every output counts."""
    return outputs
