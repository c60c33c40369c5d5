"""Aggregate scores and their intervals over runs, after Agarwal et al. 2021 (arXiv 2108.13264).

A run (one training seed) is the unit of replication: episodes of one run show how noisy that policy is, not how the
method varies. Strata are tasks; runs are resampled within their task, never across.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A percentile interval."""

    low: float
    high: float


def iqm(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the interquartile mean along `axis`: the mean without the lowest and the highest `floor(n / 4)` values."""
    ordered = np.sort(values, axis=axis)
    n = ordered.shape[axis]
    means: np.ndarray = np.take(ordered, range(n // 4, n - n // 4), axis=axis).mean(axis=axis)
    return means


def stratified_bootstrap(
    strata: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray] = iqm,
    *,
    generator: np.random.Generator,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval | None:
    """Return the percentile bootstrap interval of `statistic` over the pooled runs of all strata.

    `strata` holds one (runs,) array per task; `statistic(values, axis=...)` is `iqm`, `np.mean`, `np.median` or alike.
    None when a stratum has a single run: its spread is unknown, and resampling it would claim that it is zero.
    """
    if min(len(runs) for runs in strata) < 2:
        return None
    values = statistic(np.concatenate(_resampled(strata, generator, resamples), axis=1), axis=1)  # (resamples,)
    return Interval(*np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist())


def _resampled(strata: Sequence[np.ndarray], generator: np.random.Generator, resamples: int) -> list[np.ndarray]:
    """Return one (resamples, runs) array per task: its runs drawn with replacement."""
    return [np.asarray(runs)[generator.integers(len(runs), size=(resamples, len(runs)))] for runs in strata]


class Comparison(NamedTuple):
    """A statistic of two methods and its interval; None where a task has a single run of either."""

    value: float
    interval: Interval | None


def probability_of_improvement(
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    *,
    generator: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2_000,
) -> Comparison:
    """Return the probability that a run of ours scores above a run of theirs on the same task, averaged over tasks.

    Both hold one (runs,) array per task, in the same order. Ties count half, as in Mann and Whitney's U (Agarwal et
    al., section 4.3). The runs of both methods are resampled, each within its task.
    """

    def over_tasks(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
        wins = [_fraction_of_wins(x, y) for x, y in zip(ours, theirs, strict=True)]
        fractions: np.ndarray = np.mean(wins, axis=0)
        return fractions

    value = float(over_tasks([np.asarray(x)[None] for x in ours], [np.asarray(y)[None] for y in theirs])[0])
    if min(len(runs) for runs in [*ours, *theirs]) < 2:
        return Comparison(value, None)
    drawn = over_tasks(_resampled(ours, generator, resamples), _resampled(theirs, generator, resamples))
    return Comparison(value, Interval(*np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]).tolist()))


def _fraction_of_wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (S,): in each row, the fraction of the pairs of x (S, n) and y (S, m) in which x is above."""
    difference = x[:, :, None] - y[:, None, :]
    fractions: np.ndarray = ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(1, 2))
    return fractions


def performance_profile(runs: np.ndarray, thresholds: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return (T,) which fraction of the runs (R,) lies above each of the thresholds (Agarwal et al., section 4.2)."""
    above = np.expand_dims(runs, 0) > thresholds.reshape(-1, *[1] * np.ndim(runs))
    fractions: np.ndarray = above.mean(axis=axis)
    return fractions


def cvar(values: np.ndarray, level: float, axis: int = -1) -> np.ndarray:
    """Return the mean of the worst fraction `level` of the values along `axis`, each as probable as the others."""
    ordered = np.sort(np.moveaxis(np.asarray(values, dtype=np.float64), axis, -1))
    count = ordered.shape[-1]
    worst = level * count  # how many values that is, the last of them perhaps in part
    weights = np.clip(worst - np.arange(count), 0, 1)
    means: np.ndarray = ordered @ weights / worst
    return means
