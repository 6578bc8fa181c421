"""Places that are URLs of fsspec's (``s3://``, ``gs://``, ``file://``, ...) instead of paths."""

from __future__ import annotations

from pathlib import Path

from gfs_dist.errors import ConfigError, InputError


def is_url(place: Path | str) -> bool:
    """Whether ``place`` is a URL and no path."""
    return isinstance(place, str) and "://" in place


def below(place: str, name: str) -> str:
    """What is called ``name`` in the folder ``place``, a path or a URL."""
    return f"{place.rstrip('/')}/{name}" if is_url(place) else str(Path(place) / name)


def in_home(path: str) -> Path:
    """``path`` with a leading ``~`` written out.

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
    """Refuse a URL that nobody here can read or write; asks no machine.

    Raises:
        ConfigError: its kind is not known, or what it needs is not installed; names ``key``.
    """
    from fsspec import get_filesystem_class  # a tenth of a second, for who has a URL alone

    for part in url.split("::"):
        try:
            get_filesystem_class(part.partition("://")[0])
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"{key}: found {url}: {error}; accepted a path, or a URL of a kind that fsspec "
                "knows and finds installed"
            ) from error
