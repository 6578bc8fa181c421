"""Calibration data on its way through a network, and the moments taken there."""
