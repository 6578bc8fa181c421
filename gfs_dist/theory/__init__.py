"""The paper's theorems as numbers beside a result, with constants measured where it has none.

Lemma 1 and Theorem 1 (``lemma1``, ``hull``), Theorem 7 (``convergence``), Definition 1 and
Theorems 2 and 3 (``pretraining``). ``enough`` is a rule that looks at series of
checkpoints. Functions of plain numbers, arrays and rows. Knows no networks, runs or files.

What the paper leaves open, and what stands here: the constant before ``log k / k`` (Theorems 1 to
3) is D^2/2 of Lemma 1, D measured; the rate constant c of Theorems 2, 3 and 7 is twice the
smallest eigenvalue of the tangent kernel of both layers at initialisation, in units of alpha^2 /
N^2; c' is 1; the largest step is 2 over that kernel's largest eigenvalue. Widths at which the
theorems begin to hold are not known.
"""

from __future__ import annotations

from gfs_dist.theory.convergence import KernelRate, kernel_rate
from gfs_dist.theory.enough import Judgement, Rule, judge
from gfs_dist.theory.hull import HullMinimum, hull_minimum
from gfs_dist.theory.lemma1 import (
    Lemma1Constants,
    diameter_by_weights,
    lemma1_bound,
    lemma1_bound_by_diameter,
    lemma1_constants,
    sparsity_for_tolerance,
    why_no_bound,
)
from gfs_dist.theory.pretraining import (
    Spectrum,
    initial_spectrum,
    pretraining_bound,
    pretraining_threshold,
)

__all__ = [
    "HullMinimum",
    "Judgement",
    "KernelRate",
    "Lemma1Constants",
    "Rule",
    "Spectrum",
    "diameter_by_weights",
    "hull_minimum",
    "initial_spectrum",
    "judge",
    "kernel_rate",
    "lemma1_bound",
    "lemma1_bound_by_diameter",
    "lemma1_constants",
    "pretraining_bound",
    "pretraining_threshold",
    "sparsity_for_tolerance",
    "why_no_bound",
]
