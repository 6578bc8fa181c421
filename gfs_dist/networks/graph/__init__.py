"""A network as a graph of operations: traced, described in JSON, checked, built again.

:mod:`~gfs_dist.networks.graph.allowed` lists all that a graph may call. Never reads or writes a
file, and never imports or evaluates what a description says.
"""
