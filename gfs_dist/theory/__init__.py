"""The paper's theorems as numbers beside a result: Lemma 1, its corollary, Theorem 3.

Functions of plain numbers and arrays. Knows no networks, runs or files.
"""

from __future__ import annotations

from gfs_dist.theory.lemma1 import (
    Lemma1Constants,
    lemma1_bound,
    lemma1_constants,
    sparsity_for_tolerance,
    why_no_bound,
)
from gfs_dist.theory.pretraining import Spectrum, initial_spectrum, pretraining_threshold

__all__ = [
    "Lemma1Constants",
    "Spectrum",
    "initial_spectrum",
    "lemma1_bound",
    "lemma1_constants",
    "pretraining_threshold",
    "sparsity_for_tolerance",
    "why_no_bound",
]
