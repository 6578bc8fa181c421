"""URLs of fsspec (``s3://``, ``gs://``, ``file://``, ...) and addresses of Ray clusters."""

from __future__ import annotations

import socket
from pathlib import Path

from gfs_dist.errors import ConfigError, InputError

CONNECT_TIMEOUT_S = 3.0
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""First bytes from a client (RFC 9113, section 3.4), with empty settings."""


def is_url(place: Path | str) -> bool:
    """Whether ``place`` is a URL and no path."""
    return isinstance(place, str) and "://" in place


def below(place: str, name: str) -> str:
    """The file or folder ``name`` in the folder ``place``, a path or a URL."""
    return f"{place.rstrip('/')}/{name}" if is_url(place) else str(Path(place) / name)


def in_home(path: str) -> Path:
    """``path`` with a leading ``~`` expanded.

    Raises:
        InputError: this user has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"HOME: not set, and this user has no home folder for {path}; set HOME"
        ) from error


def check_url(key: str, url: str) -> None:
    """Refuse a URL of a kind that cannot be read or written here; connects to no machine.

    Raises:
        ConfigError: its kind is unknown, or its packages are not installed; names ``key``.
    """
    from fsspec import get_filesystem_class  # importing it takes a tenth of a second

    for part in url.split("::"):
        try:
            get_filesystem_class(part.partition("://")[0])
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"{key}: found {url}: {error}; accepted a path, or a URL of a kind that fsspec "
                "knows and finds installed"
            ) from error


def check_ray_address(address: str) -> None:
    """Refuse an address that a job cannot join: ``auto``, or ``HOST:PORT`` where something answers.

    Ray speaks gRPC, whose server answers the greeting of HTTP/2 at once; Ray itself would try a
    silent address for minutes.

    Raises:
        InputError: malformed, or no Ray cluster answers there.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    is_port = port.isdecimal() and int(port) < 2**16
    if "/" in host or not host or not is_port:
        raise InputError(
            f"runtime.address: found {address!r}, accepted HOST:PORT or auto"
            + ("; the address of a dashboard is for gfs submit" if is_url(address) else "")
        )
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S) as connection:
            connection.sendall(HTTP2_GREETING)
            connection.recv(1)
    except TimeoutError as error:
        raise InputError(
            f"runtime.address: no Ray cluster at {address} (no answer within "
            f"{CONNECT_TIMEOUT_S:g} s)"
        ) from error
    except (OSError, UnicodeError) as error:
        raise InputError(f"runtime.address: no Ray cluster at {address} ({error})") from error
