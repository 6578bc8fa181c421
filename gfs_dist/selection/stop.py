"""When a search ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gfs_dist.errors import InputError

if TYPE_CHECKING:  # torch: keys of a command line do not wait for it
    from gfs_dist.selection.path import GreedyPath

DEFAULT_STEPS = 200
STEPS_PER_NEURON = 20


@dataclass(frozen=True)
class Stop:
    """The first rule that holds ends the search.

    With replacement picks repeat, and where the best mixture has fewer neurons than ``distinct``
    they repeat for ever (measured on digits, width 1,000: trained networks need 1 to 4 picks for
    each of 50 to 250 neurons, up to 12 under ``line_search``; an untrained one has 17 neurons after
    20,000 picks). Where ``distinct`` alone is given, neurons so may repeat in the first
    :attr:`repeats` picks only; each later pick is the best of the neurons not picked before, until
    there are enough. They may raise the loss a little (that untrained network: 0.2526 with 17
    neurons, 0.2534 with 50); ``line_search`` does not pick what only raises it.

    Attributes:
        steps: picks to make at most; always bounds. None: ``distinct`` alone says when to end.
        distinct: end before the pick that would make ``distinct + 1`` distinct neurons.
        loss: end after the first pick whose loss is at or below this (tolerance: the dense
            loss plus what may be lost).
    """

    steps: int | None = DEFAULT_STEPS
    distinct: int | None = None
    loss: float | None = None

    @classmethod
    def given(cls, steps: int | None, distinct: int | None) -> Stop:
        """The rules a user asks for; without any of them :data:`DEFAULT_STEPS` picks."""
        return cls(DEFAULT_STEPS if steps is None and distinct is None else steps, distinct)

    @property
    def repeats(self) -> int | None:
        """Picks among which a neuron may repeat: 20 a neuron, at least 200; None: any number."""
        if self.steps is not None:
            return None
        return max(DEFAULT_STEPS, STEPS_PER_NEURON * (self.distinct or 0))

    @property
    def most_steps(self) -> int:
        """Picks that the rules allow: ``steps``, or ``repeats + distinct``."""
        if self.steps is not None:
            return self.steps
        return (self.repeats or 0) + (self.distinct or 0)

    def check(self, num_candidates: int) -> None:
        """Refuse rules that cannot be met by ``num_candidates`` neurons."""
        for name, found in (("steps", self.steps), ("distinct", self.distinct)):
            if found is not None and type(found) is not int:
                raise InputError(f"{name}: found {found!r}, accepted a whole number of 1 or more")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps: found {self.steps}, accepted 1 or more")
        if self.distinct is not None and not 1 <= self.distinct <= num_candidates:
            raise InputError(
                f"distinct: found {self.distinct}, accepted 1 to {num_candidates} "
                "(the number of neurons)"
            )

    def only_new(self, path: GreedyPath) -> bool:
        """Whether the pick after ``path`` has to be a neuron that is not in it."""
        return self.repeats is not None and len(path) >= self.repeats

    def most_distinct(self, num_candidates: int) -> int:
        """Distinct picks that the rules allow of ``num_candidates`` neurons."""
        most = min(self.most_steps, num_candidates)
        return most if self.distinct is None else min(most, self.distinct)

    def missed(self, path: GreedyPath) -> str:
        """The goal that a finished ``path`` did not reach, as a sentence; empty if none."""
        why = {
            "steps": f"the {len(path):,} picks allowed (steps) brought no more",
            "converged": "no further pick lowers the loss",
            "exhausted": "there is no further candidate",
        }.get(path.stop_reason)
        if why is None:
            return ""
        if self.distinct is not None and path.num_kept < self.distinct:
            found = f"{path.num_kept:,} distinct neurons, not {self.distinct:,}: {why}"
            return f"{found} (without replacement every pick is a new one)"
        if self.loss is not None and path.loss[-1] > self.loss:
            return f"loss {path.loss[-1]:.5g}, not {self.loss:.5g} (tolerance): {why}"
        return ""

    def after(self, path: GreedyPath) -> str:
        """The rule that ends the search after the last pick of ``path``; empty if none does."""
        if self.loss is not None and path.loss and path.loss[-1] <= self.loss:
            return "tolerance"
        return "steps" if len(path) >= self.most_steps else ""

    def before(self, path: GreedyPath, pick: int) -> str:
        """The rule that forbids ``pick`` as the next one; empty if none does."""
        if self.distinct is None or pick in path.picks:
            return ""
        return "distinct" if path.num_kept >= self.distinct else ""
