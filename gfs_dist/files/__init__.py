"""Everything that touches the disk: atomic files, checkpoints, run folders, fingerprints."""

from gfs_dist.files.fingerprint import fingerprint

__all__ = ["fingerprint"]
