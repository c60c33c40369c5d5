"""Aggregate scores and their intervals over runs, after Agarwal et al. 2021 (arXiv 2108.13264).

A run (one training seed) is the unit of replication: episodes of one run say how noisy that policy is, not how the
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
    return np.take(ordered, range(n // 4, n - n // 4), axis=axis).mean(axis=axis)


def stratified_bootstrap(
    strata: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray] = iqm,
    *,
    generator: np.random.Generator,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval | None:
    """Return the percentile bootstrap interval of `statistic` over the pooled runs of all strata.

    `strata` holds one (runs,) array a task; `statistic(values, axis=...)` is `iqm`, `np.mean`, `np.median` or alike.
    None when a stratum has a single run: its spread is unknown, and resampling it would claim that it is zero.
    """
    if min(len(runs) for runs in strata) < 2:
        return None
    resampled = [np.asarray(runs)[generator.integers(len(runs), size=(resamples, len(runs)))] for runs in strata]
    values = statistic(np.concatenate(resampled, axis=1), axis=1)  # (resamples,)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
