"""The work that jobs share: plans, run folders, training, pruning, measuring, their reports.

Jobs in ``jobs/`` are recipes over this package. It knows typed configurations and run folders; how
they are composed, shown or sent to a cluster, and how a search works, is not here.
"""
