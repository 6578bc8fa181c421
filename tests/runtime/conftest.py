"""Workers that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest


@pytest.fixture(scope="session")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Four processes to be ranks in."""
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        yield pool
