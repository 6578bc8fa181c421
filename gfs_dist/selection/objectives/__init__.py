"""Losses of searches over given contributions or moments, and fast exact ways to evaluate them.

Never knows networks: objectives of whole networks live in ``gfs_dist.pruning.objectives``.
"""
