"""Workers that several tests share, and a limit on how many can be started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from gfs_dist.runtime import Runtime, RuntimeSpec, open_runtime
from gfs_dist.runtime.backends.base import PlacementError
from gfs_dist.runtime.backends.local import LocalLauncher


@pytest.fixture(scope="module")
def local() -> Iterator[Runtime]:
    with open_runtime(RuntimeSpec(kind="local", workers=2, threads=1)) as runtime:
        yield runtime


@pytest.fixture
def limit_workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let so many more local workers be started; it patches a private place, as a machine that is
    full cannot be made otherwise.
    """

    def limit(number: int) -> None:
        start, started = LocalLauncher.start, count(1)

        def start_if_room(self: LocalLauncher, *arguments: Any) -> Any:
            if next(started) > number:
                raise PlacementError("no room")
            return start(self, *arguments)

        monkeypatch.setattr(LocalLauncher, "start", start_if_room)

    return limit
