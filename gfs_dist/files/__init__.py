"""Everything that touches the disk: atomic files, checkpoints, run folders, fingerprints."""

from gfs_dist.files.checksums import fingerprint
from gfs_dist.files.run_folder import RunFolder

__all__ = ["RunFolder", "fingerprint"]
