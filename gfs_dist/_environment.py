"""Refuses to run where torch's switch that lets pickles run code is on."""

from __future__ import annotations

import os

from gfs_dist.errors import CheckpointError

UNSAFE_ENVIRONMENT = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def is_unsafe() -> bool:
    """Whether the switch is on, as torch reads it."""
    return os.environ.get(UNSAFE_ENVIRONMENT, "0").lower() not in ("", "0", "n", "no", "false")


def refuse_unsafe_environment(subject: str = "environment") -> None:
    """Refuse to start, or to read a file, where the switch is on.

    Raises:
        CheckpointError: it is on; names ``subject`` and the cure.
    """
    if is_unsafe():
        raise CheckpointError(
            f"{subject}: {UNSAFE_ENVIRONMENT} is set, which lets pickles run code; unset it"
        )
