"""Evaluating a network: loss, accuracy, parameters, multiply-adds, latency.

Every function leaves the network as it was. Never trains, records or stores one.
"""
