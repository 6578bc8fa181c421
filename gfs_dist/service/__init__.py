"""Jobs on Ray clusters: start a cluster here, submit, follow, stop, fetch, and check machines.

Configurations arrive as finished text: nothing here knows networks, data or Hydra.
"""
