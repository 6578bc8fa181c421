"""Workers that several tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gfs_dist.runtime import Runtime, RuntimeSpec, open_runtime


@pytest.fixture(scope="module")
def local() -> Iterator[Runtime]:
    with open_runtime(RuntimeSpec(kind="local", workers=2, threads=1)) as runtime:
        yield runtime
