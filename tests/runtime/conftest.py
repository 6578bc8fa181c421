"""Workers that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest


@pytest.fixture(scope="session")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Four processes to be ranks in."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["gfs_dist.runtime.graph"])  # torch is imported once
    with ProcessPoolExecutor(4, mp_context=context) as pool:
        yield pool
