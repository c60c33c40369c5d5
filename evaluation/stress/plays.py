"""Episodes that an earlier test played before it was stopped: the same call takes them, and goes on from there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from surefoot.evaluation.stress.search import Play
from surefoot.evaluation.stress.statistics import Episodes

Outcomes = dict[str, list[list[Any]]]  # returns, early and broken of the episodes of each play, as plain values


@dataclass
class Plays:
    """Outcomes of one policy, by what was played."""

    outcomes: Outcomes = field(default_factory=dict)
    save: Callable[[], None] = lambda: None  # called after each play

    def trust_if(self, nominal: Sequence[Episodes]) -> bool:
        """Return whether an earlier test had these very outcomes at the nominal points, or there is nothing of one.

        They are always played anew. Policy, physics and machine are the same where they come out the same to the last
        bit; where they do not, what is known is forgotten.
        """
        now = [values for episodes in nominal for values in _plain(episodes)]
        same = not self.outcomes or self.outcomes.get("nominal") == now
        if not same:
            self.outcomes.clear()
        self.outcomes["nominal"] = now
        return same

    def remembered(self, play: Play, about: str) -> Play:
        """Return what plays only what is not known; `about` is all that the outcomes depend on besides the policy."""

        def outcomes(points: np.ndarray, seeds: Sequence[int]) -> Episodes:
            key = hashlib.sha256(f"{about} {points.tolist()} {list(seeds)}".encode()).hexdigest()
            if key not in self.outcomes:
                self.outcomes[key] = _plain(play(points, seeds))
                self.save()
            returns, early, broken = self.outcomes[key]
            return Episodes(np.array(returns, np.float64), np.array(early, bool), np.array(broken, bool))

        return outcomes


def _plain(episodes: Episodes) -> list[list[Any]]:
    return [column.tolist() for column in episodes]


def require_plays(plays: Any) -> dict[str, Outcomes]:
    """Return outcomes by policy as read from a file; `ValueError`, `TypeError` or `AttributeError` for others."""
    for outcomes in plays.values():
        for columns in outcomes.values():
            if len({len(column) for column in columns}) != 1 or len(columns) % len(Episodes._fields):
                raise ValueError("columns of different lengths")
            np.array(columns, np.float64)
    return dict(plays)
