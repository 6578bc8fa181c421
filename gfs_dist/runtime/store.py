"""The key-value store of a run: hosted by the coordinator, so that it outlives every rank."""

from __future__ import annotations

import os
import socket
import sys
from datetime import timedelta

import psutil
from torch.distributed import TCPStore

Address = tuple[str, int]
STORE_TIMEOUT_S = 60.0


def host_store(host: str) -> tuple[TCPStore, Address]:
    """A store that listens on a free port of ``host`` and on no other address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, 0))
        listener.listen(socket.SOMAXCONN)
        port = listener.getsockname()[1]
        store = TCPStore(
            host,
            port,
            None,
            is_master=True,
            timeout=timedelta(seconds=STORE_TIMEOUT_S),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
    return store, (host, port)


def connect(address: Address) -> TCPStore:
    """A connection of its own: one blocked call stops no other thread."""
    return TCPStore(
        *address,
        None,
        is_master=False,
        timeout=timedelta(seconds=STORE_TIMEOUT_S),
        wait_for_workers=False,
    )


def name_interface(address: Address) -> None:
    """Tell Gloo and NCCL which interface to use: the one over which the store is reached.

    Without it Gloo takes the address of the host's name, which is often 127.0.0.1. A value that
    the user has set stays.
    """
    if not sys.platform.startswith("linux"):
        return
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        own = probe.getsockname()[0]
    if interface := interface_of(own):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)


def interface_of(own: str) -> str | None:
    """The interface that has the IPv4 address ``own``; None for IPv6 or an unknown one."""
    if own.startswith("127."):
        return "lo"
    for name, addresses in psutil.net_if_addrs().items():
        if any((a.family, a.address) == (socket.AF_INET, own) for a in addresses):
            return str(name)
    return None
