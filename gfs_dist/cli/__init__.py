"""The command ``gfs``: its command line, progress on the terminal, exit codes.

What a command does is a job's business; what keys mean is that of the configuration.
"""

from gfs_dist.cli.shell import main

__all__ = ["main"]
