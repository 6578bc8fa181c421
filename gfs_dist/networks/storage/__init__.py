"""Networks as folders: verified before they are written, compared with their tensors when read.

Exports for other programs are here too. Never knows runs, searches or datasets.
"""
