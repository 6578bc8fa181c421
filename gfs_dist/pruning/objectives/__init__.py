"""Objectives of pruning: a ``...Problem`` travels to ranks, which make the loss that is searched.

Never chooses widths, cuts or repairs.
"""
