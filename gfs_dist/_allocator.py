"""Keeps freed memory in the process; by default glibc returns it to the system block by block.

Passes through a network free and ask for the same tens of megabytes at every layer. Each time the
kernel takes the pages back and clears new ones, a third of the time of a convolution on a CPU.
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 2**30
LARGEST_KEPT_BYTES = 2**25
"""Of one block; glibc accepts no more. Larger ones, moments of wide layers, are returned."""


def keep_freed_memory() -> None:
    """Let this process use freed blocks again, up to 1 GiB; without glibc nothing changes.

    For commands and workers: it holds for a whole process, so that a library must not call it.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
    libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
