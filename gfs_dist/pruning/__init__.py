"""Pruning of any network, layer by layer: search, widths, cut, repair.

``Pruner`` joins structure, calibration, objectives, widths and repair; ``cut`` makes the smaller
network. Knows no configuration, run folders or datasets.
"""
