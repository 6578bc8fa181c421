"""Greedy forward selection: one loop, objectives, the path. Knows torch tensors alone.

No files, processes, logging, Ray or Hydra; communicators of many ranks are passed in.
"""
