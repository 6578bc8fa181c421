"""Repairs a cut network so that it computes nearly what the dense one did.

Least-squares refit of one layer, the sweep over all layers (its task for ranks too), and batch
norm statistics. Never chooses what is cut.
"""
