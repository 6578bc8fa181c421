"""Repairs a cut network so that it computes nearly what the dense one did.

Least-squares refit of one layer, the sweep over all layers (its task for ranks too), training of
all layers towards the dense network's streams, and batch norm statistics. Never chooses what is
cut.
"""

STREAM_STEPS = 200
"""Steps of a repair of streams, where no number is given."""
