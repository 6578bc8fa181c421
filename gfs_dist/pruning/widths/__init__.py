"""Chooses how many channels each layer keeps: budgets, costs, allocation, trials.

A budget is read in ``budget``, refused in ``feasible`` and met in ``choose``, by one rule a kind.
Repairs nothing and writes nothing.
"""
