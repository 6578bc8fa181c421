"""When a search ends."""

from __future__ import annotations

from dataclasses import dataclass

from gfs_dist.errors import InputError
from gfs_dist.selection.path import Path


@dataclass(frozen=True)
class Stop:
    """The first rule that holds ends the search.

    Attributes:
        steps: picks to make at most; always bounds.
        distinct: end before the pick that would make ``distinct + 1`` distinct neurons.
        loss: end after the first pick whose loss is at or below this (tolerance: the dense
            loss plus what may be lost).
    """

    steps: int = 200
    distinct: int | None = None
    loss: float | None = None

    def check(self, num_candidates: int) -> None:
        """Refuse rules that cannot be met by ``num_candidates`` neurons."""
        for name, found in (("steps", self.steps), ("distinct", self.distinct)):
            if type(found) is not int and not (name == "distinct" and found is None):
                raise InputError(f"{name}: found {found!r}, accepted a whole number of 1 or more")
        if self.steps < 1:
            raise InputError(f"steps: found {self.steps}, accepted 1 or more")
        if self.distinct is not None and not 1 <= self.distinct <= num_candidates:
            raise InputError(
                f"distinct: found {self.distinct}, accepted 1 to {num_candidates} "
                "(the number of neurons)"
            )

    def after(self, path: Path) -> str:
        """The rule that ends the search after the last pick of ``path``; empty if none does."""
        if self.loss is not None and path.loss and path.loss[-1] <= self.loss:
            return "tolerance"
        return "steps" if len(path) >= self.steps else ""

    def before(self, path: Path, pick: int) -> str:
        """The rule that forbids ``pick`` as the next one; empty if none does."""
        if self.distinct is None or pick in path.picks:
            return ""
        return "distinct" if path.num_kept >= self.distinct else ""
