"""GET requests to a Ray dashboard: bounded in time and size, with a token, never redirected."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from gfs_dist.files.remote import within

TIMEOUT_S = 4.0
"""For a whole answer."""
MAX_BYTES = 16 * 2**20
"""Of an answer; 10,000 nodes or jobs have less."""


class RequestError(Exception):
    """A request without a usable answer."""


class AnswerError(RequestError):
    """The server answered with another status than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status {status}: {text}")
        self.status = status


class UnreachableError(RequestError):
    """No answer, or not one in HTTP."""


class SilentError(UnreachableError):
    """The request was taken, or not refused, and no whole answer came in time."""


class _Refuse(urllib.request.HTTPRedirectHandler):
    """Follow no redirection: a token is for the server that was named."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def get_json(url: str, token: str | None, timeout_s: float | None = None) -> Any:
    """The answer of ``url`` within ``timeout_s`` (None: ``TIMEOUT_S``).

    Raises:
        AnswerError: with another status than 200 (401, 403: the token).
        UnreachableError: not at all, too long, or not in JSON.
        SilentError: not whole in time.
    """
    timeout_s = timeout_s or TIMEOUT_S
    request = urllib.request.Request(url)  # noqa: S310 - callers pass http or https
    if token is not None:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        # The timeout of a socket starts anew with each byte; only another thread can end the wait.
        return within(timeout_s, lambda: _answer(request, timeout_s))
    except TimeoutError as error:
        raise SilentError(f"no whole answer within {timeout_s:g} s") from error


def _answer(request: urllib.request.Request, timeout_s: float) -> Any:
    try:
        with urllib.request.build_opener(_Refuse).open(request, timeout=timeout_s) as answer:
            content = answer.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UnreachableError(f"more than {MAX_BYTES // 2**20} MiB, no answer of Ray's")
        return json.loads(content)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(300).decode(errors="replace").strip()
        raise AnswerError(error.code, text or error.reason) from error
    except (OSError, ValueError, RecursionError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            raise SilentError(f"no answer within {timeout_s:g} s") from error
        raise UnreachableError(str(reason) or type(error).__name__) from error


def nodes(url: str, token: str | None, timeout_s: float | None = None) -> list[dict[str, Any]]:
    """The nodes that the cluster behind the dashboard ``url`` knows, dead ones too.

    Raises:
        AnswerError, UnreachableError: as :func:`get_json`.
    """
    answer = get_json(f"{url}/api/v0/nodes?limit=10000", token, timeout_s)
    try:
        rows: list[dict[str, Any]] = answer["data"]["result"]["result"]
        [row["state"] for row in rows]
    except (KeyError, TypeError) as error:
        raise UnreachableError(f"no list of nodes, but {str(answer)[:100]}") from error
    return rows
