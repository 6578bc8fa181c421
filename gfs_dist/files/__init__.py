"""All access to the disk and to remote folders: atomic writes, checkpoints, run folders, locks.

A file from a run folder may come from anyone: :mod:`gfs_dist.files.untrusted` opens and reads it.
Never knows networks, searches or configuration keys.
"""

from gfs_dist.files.checksums import fingerprint
from gfs_dist.files.run_folder import RunFolder

__all__ = ["RunFolder", "fingerprint"]
