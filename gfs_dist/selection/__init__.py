"""Greedy forward selection: the loop, its objectives, partitions, paths and stop rules.

Knows torch tensors alone: never files, processes, logging, networks, Ray or configuration;
communicators of many ranks are passed in.
"""
