"""Connections between the ranks of a group, for messages of a few bytes.

Gloo hands every collective to a thread of its own, which waits for another that reads the sockets:
for 8 bytes the threads cost ten times as much as the network. Here a rank writes and reads itself.
"""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack

import numpy as np
import torch.distributed as dist
from torch import Tensor

LIMIT_BYTES = 4096
"""Of a message: all ranks write before they read, and no more than a connection holds by itself."""

JOIN_TIMEOUT_S = 60.0
HELLO = struct.Struct("!q")


class Links:
    """The connections of one rank: to those ``1, 2, 4 ...`` places further on, from those before.

    Args:
        store: of this group alone.
        rank, num_ranks: in it.
        host: this rank's address, as the others reach it.
        timeout_s: of a message.

    Raises:
        OSError: another rank did not come, or its address cannot be reached.
    """

    def __init__(
        self, store: dist.Store, rank: int, num_ranks: int, host: str, timeout_s: float
    ) -> None:
        strides = [1 << i for i in range((num_ranks - 1).bit_length())]
        self._open = ExitStack()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.create_server((host, 0), family=family) as listener:
                listener.settimeout(JOIN_TIMEOUT_S)
                store.set(_key(rank), f"{host} {listener.getsockname()[1]}")
                self._after = [self._call(store, rank, (rank + s) % num_ranks) for s in strides]
                callers = self._answer(listener, {(rank - s) % num_ranks for s in strides})
        except BaseException:
            self.close()
            raise
        self._before = [callers[(rank - s) % num_ranks] for s in strides]
        for link in (*self._after, *self._before):
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.settimeout(timeout_s)

    @property
    def rounds(self) -> int:
        """Messages that each rank sends for one minimum."""
        return len(self._after)

    def minimum(self, values: Tensor) -> None:
        """Make ``values``, on the CPU, the least of all ranks.

        After each round a rank knows the minimum of twice as many ranks before it; some count
        twice, which a minimum does not mind.

        Raises:
            OSError: a rank has left, or does not answer.
        """
        mine = values.numpy()
        for after, before in zip(self._after, self._before, strict=True):
            after.sendall(mine.data)
            np.minimum(mine, np.frombuffer(_read(before, mine.nbytes), mine.dtype), out=mine)
        mine += 0  # -0.0 and 0.0 are equal, and not every rank need have met the same one first

    def close(self) -> None:
        """Hang up: the others notice at once."""
        self._open.close()

    def _call(self, store: dist.Store, rank: int, other: int) -> socket.socket:
        host, port = store.get(_key(other)).decode().split()
        link = self._open.enter_context(socket.create_connection((host, int(port)), JOIN_TIMEOUT_S))
        link.sendall(HELLO.pack(rank))
        return link

    def _answer(self, listener: socket.socket, expected: set[int]) -> dict[int, socket.socket]:
        callers: dict[int, socket.socket] = {}
        while callers.keys() != expected:
            link = self._open.enter_context(listener.accept()[0])
            link.settimeout(JOIN_TIMEOUT_S)
            (caller,) = HELLO.unpack(_read(link, HELLO.size))
            if caller in expected:
                callers[caller] = link
        return callers


def _read(link: socket.socket, count: int) -> bytes:
    data = link.recv(count)
    while len(data) < count:
        more = link.recv(count - len(data))
        if not more:
            raise ConnectionError("another rank has left the group")
        data += more
    return data


def _key(rank: int) -> str:
    return f"link{rank}"
