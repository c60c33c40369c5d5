"""Which of two policies has the better worst case, with an interval, when no better one is possible, and what then.

docs/derivations/iwocs.md §4.6: (4.17) is `compare`, (4.19) `highest_return`, (4.24) `holds`, (4.25) `next_model`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from surefoot.agents.parts.replay import Replay

LEVEL = 0.95
RESAMPLES = 2_000
HOLDS = 0.9  # κ of (4.24)


class Comparison(NamedTuple):
    """The worst case of one policy minus that of another, and its interval."""

    difference: float
    low: float
    high: float

    @property
    def better(self) -> bool:
        """Whether the first is better, and with 97.5% confidence not worse."""
        return self.difference > 0 and self.low >= 0


def compare(ours: Tensor, theirs: Tensor, generator: torch.Generator) -> Comparison:
    """Compare the worst cases of two policies by their returns (P, E) and (Q, E) from the same E reset seeds.

    A worst case is the least mean over seeds of a point. The interval is a paired percentile bootstrap over the seeds:
    both policies get the same resample, and each its own worst point in it.
    """
    episodes = ours.shape[1]
    drawn = torch.randint(episodes, (RESAMPLES, episodes), generator=generator)
    weights = torch.zeros(RESAMPLES, episodes, dtype=torch.float64)
    weights.scatter_add_(1, drawn, torch.full_like(weights, 1 / episodes))
    difference = float(ours.mean(1).min() - theirs.mean(1).min())
    differences = (ours @ weights.T).amin(0) - (theirs @ weights.T).amin(0)
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = differences.quantile(ends).tolist()
    return Comparison(difference, low, high)


def most_reward(replay: Replay, steps: int) -> float:
    """Return the largest reward of so many steps; infinite where the replay has lost some, which may have had more."""
    return float(replay.everything().reward.max()) if len(replay) >= steps else math.inf


def highest_return(reward: float, limit: int | None) -> float:
    """Return what no episode of at most `limit` steps can exceed if no step gives more than `reward`."""
    if reward <= 0:
        return reward  # an episode has a first step
    return math.inf if limit is None else reward * limit


def reaches(value: float, highest: float) -> bool:
    """Whether a mean return is the highest possible, up to the rounding of a sum."""
    return math.isfinite(highest) and value >= highest - 1e-6 * max(1.0, abs(highest))


def holds(own: float, known: Sequence[float]) -> bool:
    """Whether a specialist gets in its own model what is known to be possible: (4.24), by all mean returns so far."""
    least, most = min(known), max(known)
    return own >= least + HOLDS * (most - least)


def next_model(
    worst: Tensor,
    table: Sequence[tuple[list[float], float, Any]],
    repeats: Callable[[Tensor], list[int]],
    on_repeat: Literal["end", "next-worst"],
    highest: float,
) -> tuple[Tensor, list[int]]:
    """Return the model (d,) to train in next and which of those before it repeats: with (4.25) none, if one is left.

    `table` has points with their mean returns on held-out seeds; of equal ones the first counts.
    """
    again = repeats(worst)
    if again and on_repeat == "next-worst":
        for at, value, _ in sorted(table, key=lambda row: row[1]):
            model = torch.tensor(at, dtype=worst.dtype)
            if not reaches(value, highest) and not repeats(model):
                return model, []
    return worst, again
