"""Small problems look ahead here as large ones do."""

import pytest

from gfs_dist.selection.objectives import squared


@pytest.fixture(autouse=True)
def look_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squared, "LOOKED_AHEAD", 0)
