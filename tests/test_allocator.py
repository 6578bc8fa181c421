"""Freed memory is used again where the process is ours, which page faults tell.

Without that some processes do and some do not, by luck: where their heap begins decides.
"""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import textwrap
from dataclasses import dataclass

import pytest
import torch

from gfs_dist.runtime import Peers, RuntimeSpec, Tick, open_runtime

BLOCK_BYTES, BLOCKS, AT_ONCE, PAGE_BYTES = 28 * 2**20, 40, 4, 4096
ALL_ANEW = BLOCKS * BLOCK_BYTES // PAGE_BYTES
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc only")


def faults_of_blocks() -> int:
    """Pages that the system hands out while blocks are filled and freed, some at a time."""
    for round_ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(BLOCKS // AT_ONCE):
            blocks = [torch.ones(BLOCK_BYTES // 4) for _ in range(AT_ONCE)]
            del blocks
        found = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        if round_ == 1:  # the first asked for what the second uses again
            return found
    raise AssertionError


@dataclass(frozen=True)
class Faults:
    """A group task that returns :func:`faults_of_blocks`."""

    def run(self, peers: Peers, device: torch.device, tick: Tick) -> int:
        return faults_of_blocks()


def test_workers_use_freed_memory_again() -> None:
    with open_runtime(RuntimeSpec(kind="local", workers=1, device="cpu")) as runtime:
        assert runtime.run_group(Faults()).value < ALL_ANEW / 20


def test_a_command_uses_freed_memory_again() -> None:
    lines = """
        from gfs_dist.cli import main
        from tests.test_allocator import faults_of_blocks

        main(["benchmark", "suite=guard", "--dry-run"])
        print(faults_of_blocks())
    """
    command = [sys.executable, "-c", textwrap.dedent(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < ALL_ANEW / 20
