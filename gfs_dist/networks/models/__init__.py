"""Models that have a name: two-layer networks, ResNets, MobileNetV2, and a user's own factory.

To add a family: a module here, and a line in :data:`gfs_dist.networks.models.catalog.CATALOG`.
Never reads or writes a file.
"""
