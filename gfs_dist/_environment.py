"""What the environment of a process must not say."""

from __future__ import annotations

import os

from gfs_dist.errors import InputError

UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def refuse_unsafe_environment() -> None:
    """Do nothing unless a variable of torch's would let every checkpoint run code.

    Raises:
        InputError: it is set; names it.
    """
    found = os.environ.get(UNSAFE, "")
    if found.lower() not in ("", "0", "n", "no", "false"):
        raise InputError(f"{UNSAFE} is set ({found!r}), which lets checkpoints run code; unset it")
