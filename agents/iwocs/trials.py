"""The composites of one iteration that are searched for their worst models, and which of them is taken.

docs/derivations/iwocs.md §4.5, §4.6: (4.14), (4.15) or (4.20), (4.26), (4.27), (4.28).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from surefoot.agents.iwocs.choice import reaches
from surefoot.agents.iwocs.composite import best_threshold
from surefoot.agents.iwocs.config import IWOCSConfig
from surefoot.agents.iwocs.search import Found

Row = tuple[list[float], float, list[float]]  # a point, its mean return, the fractions of steps of who acted
FOUND = ("found", "held_out")  # what a checkpoint has of an iteration's trials
Rows = TypeVar("Rows", list[Any], Tensor)


class Trial(NamedTuple):
    """How the newest specialist takes part, and who acts in the first step of an episode."""

    rho: float
    first: int | None = None  # the number of a specialist, −1 the default; None: who did in the policy before


class Outcome(NamedTuple):
    """What the searches of the policy that an iteration took came to."""

    found: Found
    held_out: Found
    returns: Tensor  # (P, E) on the held-out seeds
    table: list[Row]  # the same, point by point

    def plain(self) -> tuple[Any, ...]:
        """Return it as a checkpoint has it."""
        return tuple(self.found), tuple(self.held_out), self.returns, copy.deepcopy(self.table)

    @classmethod
    def of(cls, plain: tuple[Any, ...]) -> Outcome:
        """Return what `plain` made, on the CPU."""
        found, held_out, returns, table = plain
        return cls(_found(found), _found(held_out), returns.cpu(), [tuple(row) for row in table])


def trials_of(agent: Any) -> Trials:
    """Return what an `IWOCS` is to search for in its iteration."""
    i, policy = agent.iteration, agent.policy
    others = others_first(policy.first[:i], policy.rho[: i - 1]) if i else []

    def highest() -> float:
        ceiling = math.inf if policy.models is None else policy.models.ceiling(i + 1)
        return float(min(agent.highest, ceiling))

    return Trials(agent.config, i, agent.before, others, highest)


def _found(plain: Sequence[Any]) -> Found:
    value, at, *others = plain
    return Found(value, at.cpu(), *others)


def others_first(first: Tensor, rho: Tensor) -> list[int]:
    """Return who else could act first, of the policy before with `first` (i,) and rho (i − 1,), the newest one first.

    The default, −1, always could; of the specialists of before those that were not rejected.
    """
    specialists = [len(rho), *(j for j in reversed(range(len(rho))) if rho[j] > 0)]
    return [j for j in (*specialists, -1) if j != int(first[-1])]


class Trials:
    """One search for each threshold, then one for everybody else who could act first, if that is asked for.

    None of the latter where no worst case can be higher. Then a search on held-out seeds of what was best: of one
    trial, or of every threshold that ties for it, (4.28). A policy whose newest specialist is rejected is the one
    `before`: on a grid, with the same reset seeds, every episode would be the same, so what was found then is taken.
    """

    def __init__(
        self,
        config: IWOCSConfig,
        iteration: int,
        before: Outcome | None = None,
        others: Sequence[int] = (),
        highest: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """Begin an iteration; where there is no threshold, as of the default policy alone, any will do.

        `others` could act first, with `gate_first="searched"`; no worst case is above the `highest`, which is asked
        when the newest policy has shown what it gets alone.
        """
        self.thresholds = config.thresholds if iteration and config.gate == "predictors" else (1.0,)
        self.ties = config.threshold_ties
        self.by, self.highest = config.threshold_by, highest
        self.others = list(others) if iteration and config.gate_first == "searched" else []
        self.before = before if config.search == "grid" else None
        self.found: list[Found] = []  # of each trial so far
        self.held_out: list[Found] = []  # of each candidate so far, on held-out seeds
        self.returns: list[Tensor] = []  # (p, E) of the batches of points on held-out seeds, candidate by candidate
        self.table: list[Row] = []  # the same, point by point
        self._take_known()

    def value(self, found: Found) -> float:
        """Return what a trial is chosen by: (4.15) or (4.20)."""
        return found.mean if self.by == "mean" else found.value

    @property
    def next(self) -> Trial | None:
        """What to search on the seeds that choose; None where all were searched."""
        number, thresholds = len(self.found), self.thresholds
        if number < len(thresholds):
            return Trial(thresholds[number])
        further = self.firsts[number - len(thresholds) :]
        return Trial(self.rho, further[0]) if further else None

    @property
    def firsts(self) -> list[int]:
        """Who else is tried first, once the threshold is chosen; a policy that is the one before was tried before."""
        return [] if self.rho == 0 or reaches(self._of_rho.value, self.highest()) else self.others

    @property
    def _of_rho(self) -> Found:
        return self.found[self.thresholds.index(self.rho)]

    @property
    def now(self) -> Trial:
        """What to search now, on the seeds that choose or on those held out."""
        return self.next or self.candidates[len(self.held_out)][0]

    @property
    def done(self) -> bool:
        """Whether every candidate was searched on the held-out seeds."""
        return self.next is None and len(self.held_out) == len(self.candidates)

    def note(self, points: Tensor, returns: Tensor, fractions: Tensor) -> None:
        """Note returns (p, E) at points (p, d) on held-out seeds, and the fractions (p, J + 1) of who acted."""
        self.table += zip(points.tolist(), returns.mean(1).tolist(), fractions.tolist(), strict=True)
        self.returns.append(returns)

    def add(self, found: Found) -> None:
        """Note what the search of `now` found."""
        (self.held_out if self.next is None else self.found).append(found)
        self._take_known()

    def _take_known(self) -> None:
        while self.before is not None and not self.done and self.now.rho == 0:
            if self.next is not None:
                self.found.append(self.before.found)
                continue
            self.held_out.append(self.before.held_out)
            self.returns.append(self.before.returns)
            self.table += [(at, value, [*who[:-1], 0.0, who[-1]]) for at, value, who in self.before.table]

    @property
    def rho(self) -> float:
        """The threshold that the searches choose."""
        values = [self.value(found) for found in self.found[: len(self.thresholds)]]
        return best_threshold(values, self.thresholds, self.ties)

    @property
    def candidates(self) -> list[tuple[Trial, Found]]:
        """The trials that meet the held-out seeds; another acts first where that is better than who did before."""
        of_rho, others = self._of_rho, list(zip(self.firsts, self.found[len(self.thresholds) :], strict=True))
        first, found = max(others, key=lambda one: self.value(one[1]), default=(None, of_rho))  # of equals the newest
        if self.value(found) > self.value(of_rho):
            return [(Trial(self.rho, first), found)]
        if self.ties != "again":
            return [(Trial(self.rho), of_rho)]
        tried = zip(self.thresholds, self.found, strict=False)
        return [(Trial(rho), found) for rho, found in tried if self.value(found) == self.value(of_rho)]

    @property
    def taken(self) -> int:
        """The number of the candidate that is best on the held-out seeds, the middle one of equals."""
        thresholds = [trial.rho for trial, _ in self.candidates]
        return thresholds.index(best_threshold([self.value(found) for found in self.held_out], thresholds, self.ties))

    @property
    def outcome(self) -> tuple[Trial, Outcome]:
        """The trial that is taken, and what was found of it."""
        trial, found = self.candidates[self.taken]
        returns, table = self._of_taken(torch.cat(self.returns)), self._of_taken(self.table)
        return trial, Outcome(found, self.held_out[self.taken], returns, table)

    def _of_taken(self, rows: Rows) -> Rows:
        each = len(rows) // len(self.held_out)
        return rows[self.taken * each : (self.taken + 1) * each]

    def state_dict(self) -> dict[str, Any]:
        """Return what was found, and the rows so far."""
        state: dict[str, Any] = {name: [tuple(one) for one in getattr(self, name)] for name in FOUND}
        return state | {"table": copy.deepcopy(self.table), "returns": list(self.returns)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what was found; runs before (4.28) had saved nothing of their only candidate."""
        for name in FOUND:
            setattr(self, name, [_found(found) for found in state.get(name, ())])
        self.table = [tuple(row) for row in state["table"]]
        self.returns = [returns.cpu() for returns in state["returns"]]
