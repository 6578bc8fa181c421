"""Words of a command line, quoted for Hydra and for the shell."""

from __future__ import annotations

import re
import shlex

_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./:%-]*")
"""Texts that Hydra reads without quotes."""

_NULL = "null"


def assigned(key: str, value: str) -> str:
    """``key=value`` for Hydra: sets the key to the text ``value``, whatever it holds."""
    if _PLAIN.fullmatch(value) and value.lower() != _NULL and not value.endswith(":"):
        return f"{key}={value}"
    return f"{key}={quoted(value)}"


def quoted(text: str) -> str:
    """``text`` in the double quotes of Hydra's grammar, so that none of it is syntax."""
    escaped = re.sub(r'(\\*)("|\Z)', _escape, literal(text))
    return f'"{escaped}"'


def literal(text: str) -> str:
    """``text`` in which OmegaConf finds no interpolation."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def looks_up(text: str) -> bool:
    r"""Whether OmegaConf finds an interpolation in ``text``: one without an odd ``\`` before it."""
    return any(len(found[1]) % 2 == 0 for found in re.finditer(r"(\\*)\$\{", text))


def _escape(found: re.Match[str]) -> str:
    """Backslashes are doubled before a quote, and nowhere else: so Hydra reads them."""
    return found[1] * 2 + ('\\"' if found[2] else "")


def typed(key: str, value: str) -> str:
    """``key=value`` as it is typed in a shell."""
    return shlex.quote(assigned(key, value))


def typed_place(key: str, place: str) -> str:
    """A path as it is typed in a shell where ``key`` may be left out, with it where it may not.

    A word with ``=`` is an assignment, one that begins with ``-`` an option, with ``~`` or ``+``
    another kind of assignment.
    """
    if not place or "=" in place or place[0] in "-~+":
        return typed(key, place)
    return shlex.quote(place)
