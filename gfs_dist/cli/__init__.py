"""The command ``gfs``: argument words, progress, tables, exit codes."""

from gfs_dist.cli.shell import main

__all__ = ["main"]
