"""A finite MDP with an objective of its return, prepared for sweeps over states and stocks; and what returns can be.

docs/derivations/distributional.md §6.3 (what the return can be) and §6.7 (without a horizon and a discount).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from surefoot.agents.distributional.objectives import Objective
from surefoot.agents.distributional.utilities import Shape
from surefoot.agents.parts.sparse import LONGEST, Backup, SparseMDP, backup_of, ended, reachable, worst_totals

TIE = 1e-10  # relative: expected utilities that differ by less are equal, and the mean return decides
SETTLED = 1e-9  # of the largest reward, at most of 1: bounds of the return have settled when a sweep moves them less


@dataclass(frozen=True)
class Task:
    """What is to be solved. `sweeps` is the horizon, or the number of steps after which little is left to earn."""

    mdp: SparseMDP
    objective: Objective
    gamma: float
    horizon: int | None
    tolerance: float

    @cached_property
    def over(self) -> np.ndarray:
        """Which states (S,) are ended."""
        return ended(self.mdp)

    @cached_property
    def backups(self) -> list[Backup]:
        """Each step, or the one that is every step, as a product."""
        return [backup_of(rows, self.mdp.actions) for rows in self.mdp.steps]

    def backup(self, step: int) -> Backup:
        return self.backups[step if len(self.backups) > 1 else 0]

    def utility(self, x: np.ndarray) -> np.ndarray:
        """Return u, elementwise."""
        return np.asarray(self.objective.utility(torch.from_numpy(x)))

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest return from any state within any number of steps: eq. (6.5)."""
        return return_bounds(self.mdp, self.gamma, self.horizon or (self.sweeps if self.gamma == 1 else None))

    @cached_property
    def tail(self) -> tuple[np.ndarray, np.ndarray]:
        """What may still be lost and earned (S,) in the mean after `sweeps` steps, in units of the whole return."""
        if self.horizon is not None:
            return np.zeros(self.mdp.states), np.zeros(self.mdp.states)
        if self.gamma < 1:
            low, high = (np.where(self.over, 0.0, self.gamma**self.sweeps * bound) for bound in self.bounds)
            return -low, high
        return self._still_to_come, self._still_to_come

    @property
    def action_bytes(self) -> int:
        """What an entry of a table of actions takes, by `narrow`."""
        return 2 if self.mdp.actions <= 2**15 else 4

    @property
    def sweeps(self) -> int:
        """The horizon; else after how many steps the mean of what is left is at most the tolerance."""
        return self._end[0]

    @property
    def left(self) -> float:
        """What is left then, in the mean, and with γ = 1 also at least the chance that an episode is not over."""
        return self._end[1]

    @cached_property
    def _end(self) -> tuple[int, float]:
        if self.horizon is not None:
            return self.horizon, 0.0
        if self.gamma < 1:
            largest = max(map(abs, return_bounds(self.mdp, self.gamma, None)))
            sweeps = sweeps_for(self.tolerance, largest, self.gamma)
            return sweeps, self.gamma**sweeps * largest
        left, step, b = np.maximum(self._still_to_come, ~self.over), 0, self.backups[0]
        while (mean := float(self.mdp.start @ left)) > self.tolerance:
            left, step = b.best(b.matrix @ left[b.after]), step + 1
        return max(step, 1), mean

    @cached_property
    def _still_to_come(self) -> np.ndarray:
        (b,) = self.backups
        return worst_totals(self.backups, [b.matrix @ np.abs(b.reward)], self.aside)

    @cached_property
    def aside(self) -> np.ndarray:
        """Which states (S,) are ended, or cannot come."""
        return np.asarray(self.over | ~reachable(self.backups, self.over, self.mdp.start))

    def shape(self, low: float, high: float) -> Shape:
        """Return what is known of u between two numbers; slopes that are infinite as a number that 0 times is 0."""
        least, largest, curvature = self.objective.shape(low, high)
        return Shape(max(least, -1e200), min(largest, 1e200), curvature)


class Bracketed(NamedTuple):
    """The best E u(c_0 + G) from stocks c_0 (N,): no policy has more than `upper`, some policy has `lower`."""

    lower: np.ndarray
    upper: np.ndarray


# --- what the return can be -------------------------------------------------------------------------------------------


def return_bounds(mdp: SparseMDP, gamma: float, horizon: int | None) -> tuple[float, float]:
    """Return the least and the largest return from any state within any number of steps, 0 among them: eq. (6.5)."""
    losses = mdp._replace(steps=tuple(rows._replace(reward=-rows.reward) for rows in mdp.steps))
    return -_largest(losses, gamma, horizon), _largest(mdp, gamma, horizon)


def _largest(mdp: SparseMDP, gamma: float, horizon: int | None) -> float:
    firsts = [np.searchsorted(rows.pair, np.arange(mdp.states) * mdp.actions) for rows in mdp.steps]

    def sweep(h: int, value: np.ndarray) -> np.ndarray:
        rows = mdp.steps[h]
        best: np.ndarray = np.maximum.reduceat(rows.reward + gamma * value[rows.after], firsts[h])
        return best

    return max(0.0, max(float(value.max()) + rest for value, rest in _swept(mdp, gamma, horizon, sweep)))


def guaranteed(mdp: SparseMDP, gamma: float, horizon: int | None) -> float:
    """Return what can be guaranteed whatever the state and the number of steps, at most 0: eq. (6.6)."""
    pairs = [np.searchsorted(rows.pair, np.arange(mdp.states * mdp.actions)) for rows in mdp.steps]

    def sweep(h: int, value: np.ndarray) -> np.ndarray:
        rows = mdp.steps[h]
        worst = np.minimum.reduceat(rows.reward + gamma * value[rows.after], pairs[h])
        best: np.ndarray = worst.reshape(mdp.states, -1).max(1)
        return best

    return min(0.0, min(float(value.min()) - rest for value, rest in _swept(mdp, gamma, horizon, sweep)))


def _swept(
    mdp: SparseMDP, gamma: float, horizon: int | None, sweep: Callable[[int, np.ndarray], np.ndarray]
) -> Iterator[tuple[np.ndarray, float]]:
    """Yield the values (S,) of one step, two and so on, counted from the last, and by how much they may yet change.

    `sweep` puts a step h before values. Where every step is alike, a sweep that changes nothing is the last; where they
    differ only the horizon is, for the step before may pay again.
    """
    value, alike = np.zeros(mdp.states), len(mdp.steps) == 1
    still = SETTLED * min(1.0, max(float(np.abs(rows.reward).max()) for rows in mdp.steps))
    for count in range(horizon or LONGEST):
        new = sweep(0 if alike else -1 - count, value)
        change, value = float(np.abs(new - value).max()), new
        yield value, 0.0
        if alike and change <= still:
            return
    if horizon is None and gamma < 1:  # so near 1 that the sweeps ran out: the rest is a geometric series
        yield value, change * gamma / (1 - gamma)


def sweeps_for(tolerance: float, largest: float, gamma: float) -> int:
    """Return n with γⁿ·(largest |return|) at most the tolerance: what may be missing after n sweeps, eq. (4.6)."""
    return 1 if gamma == 1 or largest <= tolerance else math.ceil(math.log(tolerance / largest) / math.log(gamma))
