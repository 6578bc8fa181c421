"""The tensors of any module by name: listed, checked, read into it from a file."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gfs_dist.errors import CheckpointError, ConfigError, NonFiniteError, first_line
from gfs_dist.files.checkpoint import STORED
from gfs_dist.networks.graph.json_values import UnstorableError

COUNTER = "num_batches_tracked"
"""Batch-norm's counter: files of others often lack it, and evaluation does not read it."""


def copied(network: nn.Module) -> nn.Module:
    """A deep copy.

    Raises:
        UnstorableError: a part of it cannot be copied, such as results of earlier calls.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise UnstorableError("it is TorchScript; give the module that it was made from")
    if hasattr(network, "_orig_mod"):
        raise UnstorableError("it was made by torch.compile; give the module inside, _orig_mod")
    if any(map(is_lazy, network.parameters())):
        raise UnstorableError("it has lazy layers without weights; run it once")
    if any(tensor.is_meta for tensor in network.parameters()):
        raise UnstorableError("it is on the meta device, without numbers; load its weights first")
    for name, tensor in named_tensors(network).items():
        if tensor.layout != torch.strided:
            raise UnstorableError(f"its tensor {name!r} is sparse; make it dense by to_dense()")
    try:
        return copy.deepcopy(network)
    except Exception as error:  # the user's classes may raise anything
        raise UnstorableError(
            f"it cannot be copied: {first_line(error)}: take out results of earlier calls, and "
            "make its tensors plain (torch.nn.utils.remove_weight_norm, prune.remove)"
        ) from error


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, also those outside the state dict; shared ones under every name."""
    return {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }


def split_name(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a tensor or module, and the attribute of it."""
    owner, _, own_name = name.rpartition(".")
    return network.get_submodule(owner), own_name


def as_parameter(tensor: Tensor) -> nn.Parameter:
    """A parameter; it requires gradients if its dtype can have any."""
    return nn.Parameter(tensor, tensor.is_floating_point() or tensor.is_complex())


def empty_tensor(shape: Any, where: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor on the meta device, which allocates nothing.

    Raises:
        ConfigError: no tensor has this ``shape``; names ``where``.
    """
    try:
        return torch.empty(tuple(shape), dtype=dtype, device="meta")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ConfigError(f"{where}: found shape {str(shape)[:60]}, which no tensor has") from error


def refuse_non_finite(tensors: Mapping[str, Tensor]) -> None:
    """Do nothing where every tensor is of a dtype that a file holds, and finite.

    Raises:
        ConfigError: another dtype (float8); names the first.
        NonFiniteError: names the first that is not, and where.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in STORED:
            accepted = ", ".join(str(dtype).removeprefix("torch.") for dtype in STORED)
            raise ConfigError(f"model: tensor {name!r}: found {tensor.dtype}, accepted {accepted}")
        wrong = ~torch.isfinite(tensor)
        if wrong.any():
            index = tuple(wrong.nonzero()[0].tolist())
            found = tensor[index].item()
            cure = " (in a mask such as -1e9)" if found == -math.inf else ""
            raise NonFiniteError(
                f"model: tensor {name!r} is {found} at index {index}, accepted are finite numbers"
                f"{cure}"
            )


def assign(
    network: nn.Module,
    expected: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    source: Path | str,
) -> None:
    """Put copies of ``tensors`` in the places of ``expected``, in their own dtypes.

    A tensor that has several names in the network keeps them.

    Args:
        network: modified, unless anything does not fit.
        expected: its tensors by name, themselves; they may be on the meta device.
        tensors: the new ones, of the same names and shapes.
        source: where they come from, for messages.

    Raises:
        CheckpointError: a tensor is missing, too many, of another shape or kind of dtype; names
            ``source`` and the first that differs.
    """
    for name in sorted(expected.keys() | tensors.keys()):
        wanted = tuple(expected[name].shape) if name in expected else "no such tensor"
        found = tuple(tensors[name].shape) if name in tensors else "no such tensor"
        if found != wanted:
            raise CheckpointError(f"{source}: tensor {name!r}: found {found}, accepted {wanted}")
        old, new = expected[name], tensors[name]
        if old.is_floating_point() and not new.is_floating_point():
            accepted = "floating point"
        elif not old.is_floating_point() and new.dtype != old.dtype:
            accepted = str(old.dtype)
        else:
            continue
        raise CheckpointError(f"{source}: tensor {name!r}: found {new.dtype}, accepted {accepted}")
    placed: dict[int, Tensor] = {}
    for name, old in expected.items():
        if id(old) not in placed:
            new = tensors[name].clone()
            placed[id(old)] = as_parameter(new) if isinstance(old, nn.Parameter) else new
        owner, own_name = split_name(network, name)
        setattr(owner, own_name, placed[id(old)])


def load_state(model: nn.Module, tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Copy a state dict into ``model``, in the model's dtypes.

    Only batch-norm's ``num_batches_tracked`` may be absent, and all but one name of a tensor that
    has several. Nothing is copied if anything differs.

    Args:
        model: modified.
        source: where they come from, for messages.

    Raises:
        CheckpointError: a tensor is missing, too many, of another shape, of another kind of dtype
            or not finite; names ``source`` and the first that differs, in the model's order.
    """
    expected = model.state_dict()
    unknown = [name for name in tensors if name not in expected]
    given = {own.data_ptr() for name, own in expected.items() if name in tensors}
    for name, own in expected.items():
        if name in tensors:
            _check(name, tensors[name], own, source)
        elif name.rpartition(".")[2] != COUNTER and own.data_ptr() not in given:
            instead = f" (it has {unknown[0]!r} instead)" if unknown else ""
            raise CheckpointError(f"{source}: tensor {name!r}: missing{instead}")
    if unknown:
        raise CheckpointError(f"{source}: tensor {unknown[0]!r}: the network has no such tensor")
    with torch.no_grad():
        for name, tensor in tensors.items():
            if not torch.equal(expected[name], tensor.to(expected[name])):
                expected[name].copy_(tensor)


def _check(name: str, found: Tensor, own: Tensor, source: Path | str) -> None:
    if found.shape != own.shape:
        raise CheckpointError(
            f"{source}: tensor {name!r}: found {tuple(found.shape)}, accepted {tuple(own.shape)}"
        )
    kinds = [(t.is_floating_point(), t.is_complex()) for t in (found, own)]
    if kinds[0] != kinds[1]:
        raise CheckpointError(
            f"{source}: tensor {name!r}: found {found.dtype}, accepted {own.dtype}"
        )
    cast = found.to(own.dtype)
    exact = not any(kinds[0])  # whole numbers and booleans are kept exactly or refused
    wrong = cast.to(found.dtype) != found if exact else ~torch.isfinite(cast)
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        accepted = f", accepted {own.dtype}" if exact else ""
        raise CheckpointError(
            f"{source}: tensor {name!r} is {found[index].item()} at index {index}{accepted}"
        )
