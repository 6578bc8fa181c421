"""Calibration samples on their way through a network, and the second moments taken there.

Reads batches, runs networks in stages, adds sums in a fixed order. Never picks or cuts channels.
"""
