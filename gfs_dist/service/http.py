"""GET requests to a Ray dashboard: short, with a token, never redirected."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage
from typing import IO, Any

TIMEOUT_S = 5.0


class AnswerError(Exception):
    """The server answered with another status than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status {status}: {text}")
        self.status = status


class UnreachableError(Exception):
    """Nobody answered, or not in HTTP."""


class _Refuse(urllib.request.HTTPRedirectHandler):
    """A token is for the server that was named, not for where that one points."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        return None


def get_json(url: str, token: str | None, timeout_s: float = TIMEOUT_S) -> Any:
    """What ``url`` answers.

    Raises:
        AnswerError: with another status than 200 (401, 403: the token).
        UnreachableError: not at all, not in time, or not in JSON.
    """
    request = urllib.request.Request(url)  # noqa: S310 - callers pass http or https
    if token is not None:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.build_opener(_Refuse).open(request, timeout=timeout_s) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(300).decode(errors="replace").strip()
        raise AnswerError(error.code, text or error.reason) from error
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UnreachableError(str(reason) or type(error).__name__) from error


def nodes(url: str, token: str | None, timeout_s: float = TIMEOUT_S) -> list[dict[str, Any]]:
    """The nodes that the cluster behind the dashboard ``url`` knows, dead ones too.

    Raises:
        AnswerError, UnreachableError: as :func:`get_json`.
    """
    answer = get_json(f"{url}/api/v0/nodes?limit=10000", token, timeout_s)
    try:
        rows: list[dict[str, Any]] = answer["data"]["result"]["result"]
    except (KeyError, TypeError) as error:
        raise UnreachableError(f"no list of nodes, but {str(answer)[:100]}") from error
    return rows
