"""A trained network of a user, and an undisturbed run that prunes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs.deep_runs import ALONE, make_home, prune


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    make_home(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(home: Path) -> Path:
    """A finished run in this process, to compare others with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        prune("undisturbed", *ALONE)
    return home / "undisturbed"
