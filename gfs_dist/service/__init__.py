"""Jobs on Ray clusters: start one here, submit, follow, stop, fetch, find what is wrong.

Gets finished configurations as text; knows no networks and no Hydra.
"""
