"""Collectives of ranks over torch.distributed: Gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from gfs_dist.errors import first_line
from gfs_dist.runtime.store import Address, connect, name_interface

# A slow rank is no fault: the coordinator's watchdog decides which rank hangs, not the group.
GROUP_TIMEOUT_S = 1800.0
BUCKET_BYTES = 32 * 2**20


class CommunicationError(Exception):
    """A collective failed, most likely because another rank died; never reaches a user."""


@dataclass
class Traffic:
    """Counts and times what one rank exchanges in a search or group task.

    A context manager around each exchange, which makes one kind of error of all failures and
    leaves the group at once, so that the ranks that wait for this one fail too. Entered twice a
    step: one object that is used again, not a generator each time.

    Attributes:
        calls, done: exchanges begun and completed; ``done`` is one behind inside of one.
        messages, bytes: tensors handed to the network by this rank, and their size.
        seconds: time inside exchanges, waiting for slower ranks included.
    """

    calls: int = 0
    done: int = 0
    messages: int = 0
    bytes: int = 0
    seconds: float = 0.0
    _began: float = 0.0

    def sent(self, tensor: Tensor, times: int = 1) -> None:
        self.messages += times
        self.bytes += times * tensor.numel() * tensor.element_size()

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        self.calls += 1

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.seconds += time.perf_counter() - self._began
        if error is None:
            self.done += 1
        elif isinstance(error, RuntimeError | ValueError):  # ValueError: the group is gone already
            leave()
            raise CommunicationError(first_line(error)) from error


class GroupMember:
    """One rank of the default process group; ``traffic`` is around every exchange."""

    def __init__(self, traffic: Traffic | None = None) -> None:
        self.rank, self.num_ranks = dist.get_rank(), dist.get_world_size()
        self.traffic = traffic if traffic is not None else Traffic()
        self.device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


class GroupCommunicator(GroupMember):
    """The collectives of a search; see :class:`gfs_dist.selection.objective.Communicator`."""

    def __init__(self, traffic: Traffic | None = None) -> None:
        super().__init__(traffic)
        self._least = dist.AllreduceOptions()
        self._least.reduceOp = dist.ReduceOp(dist.ReduceOp.MIN)

    def minimum(self, values: Tensor) -> Tensor:
        with self.traffic:
            on_device = values.to(self.device)
            self._minimum(on_device)
            return on_device.to(values.device)

    def share(self, tensor: Tensor, owner: int) -> Tensor:
        with self.traffic:
            on_device = tensor.to(self.device).contiguous()
            self._share(on_device, owner)
            return on_device.to(tensor.device)

    def _minimum(self, values: Tensor) -> None:
        """What ``dist.all_reduce`` does, without the tenth part of its time that it checks."""
        if dist.group.WORLD is None:
            raise ValueError("the group was left")
        self.traffic.sent(values)
        dist.group.WORLD.allreduce([values], self._least).wait()

    def _share(self, tensor: Tensor, owner: int) -> None:
        if self.rank == owner:
            self.traffic.sent(tensor)
        dist.broadcast(tensor, src=owner)


class GroupPeers(GroupMember):
    """The collectives of a group task; see :class:`gfs_dist.runtime.spec.Peers`.

    Tensors travel side by side in buckets: few large messages instead of many small ones.
    """

    def average(self, tensors: Sequence[Tensor]) -> None:
        with self.traffic, torch.no_grad():
            for bucket in buckets(tensors):
                dtype = torch.promote_types(bucket[0].dtype, torch.float32)
                assert dtype.is_floating_point
                flat = self._flat(bucket, dtype)
                self.traffic.sent(flat)
                dist.all_reduce(flat)
                self._unpack(flat.div_(self.num_ranks), bucket)

    def broadcast(self, tensors: Sequence[Tensor], owner: int = 0) -> None:
        with self.traffic, torch.no_grad():
            for bucket in buckets(tensors):
                flat = self._flat(bucket, bucket[0].dtype)
                if self.rank == owner:
                    self.traffic.sent(flat)
                dist.broadcast(flat.view(torch.uint8), src=owner)
                self._unpack(flat, bucket)

    def barrier(self) -> None:
        with self.traffic:
            token = torch.zeros(1, device=self.device)
            dist.all_reduce(token)
            token.item()  # on a GPU no rank has waited before this

    def _flat(self, bucket: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        return torch.cat([t.detach().reshape(-1) for t in bucket]).to(self.device, dtype)

    def _unpack(self, flat: Tensor, bucket: Sequence[Tensor]) -> None:
        for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
            tensor.detach().copy_(part.view_as(tensor))
        if flat.is_cuda:  # so that a dead peer is noticed here, not in the task
            torch.cuda.current_stream().synchronize()


def buckets(tensors: Sequence[Tensor], limit_bytes: int = BUCKET_BYTES) -> list[list[Tensor]]:
    """``tensors`` in order, in runs of one dtype and device and of ``limit_bytes`` at most (or of
    one tensor); empty ones are left out.
    """
    runs: list[list[Tensor]] = []
    kind, size = None, 0
    for tensor in tensors:
        if tensor.numel() == 0:
            continue
        num_bytes = tensor.numel() * tensor.element_size()
        if kind != (tensor.dtype, tensor.device) or size + num_bytes > limit_bytes:
            runs.append([])
            kind, size = (tensor.dtype, tensor.device), 0
        runs[-1].append(tensor)
        size += num_bytes
    return runs


def join(address: Address, prefix: str, rank: int, num_ranks: int, backend: str) -> None:
    """Become ``rank`` of ``num_ranks`` in the group ``prefix``; waits for all others.

    Raises:
        CommunicationError: other ranks did not join, or the store is gone.
    """
    leave()
    name_interface(address)
    try:
        store = dist.PrefixStore(prefix, connect(address))
        dist.init_process_group(
            backend,
            store=store,
            rank=rank,
            world_size=num_ranks,
            timeout=timedelta(seconds=GROUP_TIMEOUT_S),
        )
    except RuntimeError as error:  # torch's DistError and its kin are RuntimeErrors
        leave()
        raise CommunicationError(f"joining {prefix}: {first_line(error)}") from error


def leave() -> None:
    """Leave the group, if in one: its connections close and the other ranks notice."""
    if dist.is_initialized():
        dist.destroy_process_group()
