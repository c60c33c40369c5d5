"""What a stress test says of its samples of returns: means with intervals, tails, failures, radii, ranks.

Everything here is a pure function of returns (E,) or (P, E) of single episodes. The episode is the unit: the question
is how one given policy does, not how the method that made it varies over training seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from surefoot.evaluation.statistics import Interval, cvar

LEVEL = 0.95  # of every interval
TAIL = 0.1  # of CVaR: the mean of the worst tenth
KEPT = 0.8  # of the nominal return: below it a policy no longer counts as holding
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

Record = dict[str, Any]


class Episodes(NamedTuple):
    """Outcomes of episodes; every field (E,), or (P, E) for each of P points."""

    returns: np.ndarray  # float64, undiscounted
    early: np.ndarray  # bool: the task itself ended the episode, and no time limit: at a fall, or at a goal
    broken: np.ndarray  # bool: the physics diverged

    def at(self, index: Any) -> Episodes:
        """Return the outcomes of one point, or of some."""
        return Episodes(*(column[index] for column in self))

    def failed(self, limit: float) -> np.ndarray:
        """Return which diverged, or ended early with a return below `limit`: whether an end is bad, the return says."""
        failed: np.ndarray = self.broken | (self.early & (self.returns < limit))
        return failed

    def counts(self, limit: float) -> dict[str, np.ndarray]:
        """Return how many of the last axis ended early, of these with a return below `limit`, diverged, or are `low`.

        `low` are those that neither ended early nor diverged, and yet returned less than `limit`.
        """
        low = self.returns < limit
        kinds = {"ended_early": self.early, "ended_early_low": self.early & ~self.broken & low}
        kinds |= {"diverged": self.broken, "low": ~(self.early | self.broken) & low}
        return {name: kind.sum(-1) for name, kind in kinds.items()}


def ended_early(sample: Record) -> int:
    """Return how many episodes of a sample the task itself ended; files of before it had this name have `fell`."""
    return int(sample["ended_early"] if "ended_early" in sample else sample["fell"])


# --- means ------------------------------------------------------------------------------------------------------------


def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution.

    Exact for one and two degrees of freedom, else by the expansion around the normal quantile of Abramowitz and Stegun,
    26.7.5: within 0.2 % of the truth for the levels used here.
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) * math.sqrt(2 / (4 * probability * (1 - probability)))
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** (k + 1) for k, term in enumerate(terms))


def mean_interval(returns: np.ndarray, level: float = LEVEL) -> Interval | None:
    """Return Student's interval of the mean of episodes (E,); None for one episode, whose spread is unknown."""
    episodes = len(returns)
    if episodes < 2:
        return None
    margin = t_quantile((1 + level) / 2, episodes - 1) * float(returns.std(ddof=1)) / math.sqrt(episodes)
    return Interval(float(returns.mean()) - margin, float(returns.mean()) + margin)


def skewness_shift(returns: np.ndarray, level: float = LEVEL) -> float:
    """Return by how much skewed returns (E,) move the ends of Student's interval: s γ (1 + 2 z²) / (6 E).

    The first correction of Cornish and Fisher to the studentised mean (Hall 1992, The Bootstrap and Edgeworth
    Expansion, section 3.5). The sample's own skewness γ is below √E, so the shift never exceeds a few standard errors.
    """
    spread = float(returns.std())
    if spread == 0.0:
        return 0.0
    skewness = float((((returns - returns.mean()) / spread) ** 3).mean())
    z = NormalDist().inv_cdf((1 + level) / 2)
    return spread * skewness * (1 + 2 * z**2) / (6 * len(returns))


def threshold(nominal: float, kept: float = KEPT) -> float:
    """Return the return below which a policy no longer holds: the nominal one less a fifth of its magnitude."""
    return nominal - (1 - kept) * abs(nominal)


def summary(episodes: Episodes, limit: float) -> Record:
    """Return a sample (E,) as plain values: mean with its interval, tail, quantiles, the counts of `Episodes`."""
    returns = episodes.returns
    interval = mean_interval(returns)
    return {
        "episodes": len(returns),
        "mean": float(returns.mean()),
        "interval": None if interval is None else list(interval),
        "std": float(returns.std()),
        "cvar": float(cvar(returns, TAIL)),
        "quantiles": np.quantile(returns, QUANTILES).tolist(),
        **{name: int(count) for name, count in episodes.counts(limit).items()},
    }


def sample(episodes: Episodes, limit: float) -> Record:
    """Return a summary with every return."""
    return summary(episodes, limit) | {"returns": episodes.returns.tolist()}


# --- how far a parameter may go ---------------------------------------------------------------------------------------


class Radius(NamedTuple):
    """How far a parameter may go from its nominal value in one direction before the return falls below a limit."""

    value: float  # where the mean crosses the limit; the end of what was tried where it never does
    distance: float  # from the nominal value
    crossed: bool
    interval: Interval | None  # of the distance; None for a single episode per point


def robust_radius(
    values: np.ndarray,
    returns: np.ndarray,
    nominal: float,
    nominal_returns: np.ndarray,
    *,
    up: bool,
    generator: np.random.Generator,
    resamples: int = 1_000,
) -> Radius | None:
    """Return the radius of a curve: values (P,), returns (P, E) from the same E seeds, nominal returns (N,).

    Between tried values the mean is taken as linear. The interval resamples the seeds, and the nominal episodes, whose
    mean decides the limit. None where nothing was tried on that side.
    """
    beyond = values > nominal if up else values < nominal
    if not beyond.any():
        return None
    outward = np.flatnonzero(beyond)[:: 1 if up else -1]
    distances = np.concatenate([[0.0], np.abs(values[outward] - nominal)])
    distance, crossed = _crossing(distances, returns[outward].mean(1)[None], nominal_returns.mean()[None])
    where = nominal + (1 if up else -1) * float(distance[0])
    interval = None
    if returns.shape[1] > 1:
        columns = generator.integers(returns.shape[1], size=(resamples, returns.shape[1]))
        rows = generator.integers(len(nominal_returns), size=(resamples, len(nominal_returns)))
        means = returns[outward][:, columns].mean(2).T  # (resamples, P')
        drawn, _ = _crossing(distances, means, nominal_returns[rows].mean(1))
        interval = Interval(*np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist())
    return Radius(where, float(distance[0]), bool(crossed[0]), interval)


def _crossing(distances: np.ndarray, means: np.ndarray, nominal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (R,) distances at which curves (R, P) fall below the limits of their nominal means (R,), and if they do.

    `distances` (P + 1,) ascend from 0, the nominal value.
    """
    limit = nominal - (1 - KEPT) * np.abs(nominal)
    curves = np.concatenate([nominal[:, None], means], 1)
    below = curves < limit[:, None]
    crossed, first = below.any(1), np.maximum(below.argmax(1), 1)
    rows = np.arange(len(curves))
    before, after = curves[rows, first - 1], curves[rows, first]
    share = np.divide(before - limit, before - after, out=np.zeros_like(limit), where=before > after)
    at = distances[first - 1] + share * (distances[first] - distances[first - 1])
    return np.where(crossed, at, distances[-1]), crossed


# --- between policies -------------------------------------------------------------------------------------------------


class Rank(NamedTuple):
    """A place among policies, 1 the best, with its interval."""

    rank: int
    low: int
    high: int


def ranks(
    samples: Mapping[str, np.ndarray],
    statistic: Any = np.mean,
    *,
    generator: np.random.Generator,
    resamples: int = 1_000,
) -> dict[str, Rank]:
    """Return the place of each policy by `statistic(values, axis=-1)` of its episodes (E,), the largest first.

    The interval resamples every policy's episodes; ties share the better place.
    """
    point = np.array([statistic(values, axis=-1) for values in samples.values()])
    drawn = np.stack([_resampled(values, statistic, generator, resamples) for values in samples.values()])
    places = _places(drawn)  # (policies, resamples)
    low, high = np.quantile(places, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1, method="nearest")
    own = _places(point[:, None])[:, 0]
    found = zip(samples, own, low, high, strict=True)
    return {name: Rank(int(rank), int(min(a, rank)), int(max(b, rank))) for name, rank, a, b in found}


def _resampled(values: np.ndarray, statistic: Any, generator: np.random.Generator, resamples: int) -> np.ndarray:
    drawn: np.ndarray = statistic(values[generator.integers(len(values), size=(resamples, len(values)))], axis=-1)
    return drawn


def _places(values: np.ndarray) -> np.ndarray:
    """Return (K, R): in each column, one more than how many values lie above."""
    places: np.ndarray = 1 + (values[None] > values[:, None]).sum(1)
    return places
