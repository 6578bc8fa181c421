"""A switch of torch that lets pickles run code, which nothing of ours works under."""

from __future__ import annotations

import os

from gfs_dist.errors import CheckpointError

UNSAFE_ENVIRONMENT = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def is_unsafe() -> bool:
    """Whether the switch is on, as torch reads it."""
    return os.environ.get(UNSAFE_ENVIRONMENT, "0").lower() not in ("", "0", "n", "no", "false")


def refuse_unsafe_environment(subject: str = "environment") -> None:
    """Let nothing start, or nothing be read, under it.

    Raises:
        CheckpointError: it is on; says of ``subject`` what to do.
    """
    if is_unsafe():
        raise CheckpointError(
            f"{subject}: {UNSAFE_ENVIRONMENT} is set, which lets pickles run code; unset it"
        )
