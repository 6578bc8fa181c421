"""Finds the channels of a network that can be removed together, and removes them.

Holds the dependency graph (torch-pruning), the prunable structure as plain data, trial removal,
mask and shrink. Knows no objectives, widths or repairs.
"""
