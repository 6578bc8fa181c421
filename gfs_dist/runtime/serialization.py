"""Objects on their way between processes of one run; nothing of this is ever written to a file."""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle

from gfs_dist.errors import InputError


def pack(thing: Any, what: str) -> bytes:
    """``thing`` as bytes for :func:`unpack`.

    Classes and functions that a worker could not import - those of the user's main module, which
    workers never run, and those made inside functions - travel by value.

    Raises:
        InputError: it cannot be sent; ``what`` names it in the message.
    """
    try:
        packed = pickle.dumps(thing)
        if b"__main__" not in packed:
            return packed
    except Exception:  # noqa: BLE001, S110 - whatever the methods of a user's class may raise
        pass
    try:
        by_value: bytes = cloudpickle.dumps(thing)
    except Exception as error:
        raise InputError(
            f"{what}: found {type(thing).__name__}, accepted what can be pickled to be sent "
            f"between processes ({type(error).__name__}: {error})"
        ) from error
    return by_value


def unpack(packed: bytes) -> Any:
    """What was packed."""
    return pickle.loads(packed)  # noqa: S301 - made by a process of this run
