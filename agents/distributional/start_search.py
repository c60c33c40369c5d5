"""The search over the initial stock c_0, where E u(c_0 + G) can be had for any c_0.

docs/derivations/distributional.md §5 and §6.6.

The figure of a start is J(c_0) = w·V(c_0) − κ₀·c_0, eq. (3.1), and the slopes of V lie between those of u: so between
two starts J stays below two lines, and where they cross above the best that is known, there is more to try.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from surefoot.agents.distributional.objectives import Objective
from surefoot.agents.distributional.task import Bracketed
from surefoot.agents.distributional.utilities import Shape

ROUNDS = 40
PER_ROUND = 16  # starts that are tried together


class Tried(NamedTuple):
    """Starts in order, bounds of their figures, and what no start can exceed (for an upper tail: need exceed)."""

    stocks: np.ndarray  # (N,)
    lower: np.ndarray  # (N,)
    upper: np.ndarray  # (N,)
    bound: float


Evaluate = Callable[[np.ndarray], Bracketed]


def search(
    objective: Objective,
    evaluate: Evaluate,
    first: np.ndarray,
    shape: Shape,
    precision: float,
    candidates: np.ndarray | None = None,
) -> Tried:
    """Return the starts that were tried, `first` and those that may still be better, until none is by `precision`.

    `candidates`: starts in order among which the largest figure is, eq. (5.3), where that is known.
    """
    tried = _figures(objective, first, evaluate(first))
    if objective.outer is None:
        return Tried(*tried, float(tried[2].max()))
    for _ in range(ROUNDS):
        if objective.outer == "min":
            new, bound = _convex(tried, precision)
        else:
            new, bound = _promising(objective, tried, shape, precision, candidates)
        if not len(new):
            break
        tried = _joined(tried, _figures(objective, new, evaluate(new)))
    return Tried(*tried, bound)


def bounded_by_all(objective: Objective, tried: Tried, every: Callable[[], Tried]) -> Tried:
    """Return starts of a given range with the bound of a search over `every` start: a better one may lie outside.

    Of an upper tail each figure bounds all policies, eq. (5.4), so that the least of a range does, too.
    """
    return tried._replace(bound=every().bound) if objective.outer == "max" else tried


def _figures(objective: Objective, stocks: np.ndarray, found: Bracketed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return stocks, objective.score(stocks, found.lower), objective.score(stocks, found.upper)


def _joined(one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    stocks, lower, upper = (np.concatenate(pair) for pair in zip(one, other, strict=True))
    stocks, order = np.unique(stocks, return_index=True)
    return stocks, lower[order], upper[order]


def _promising(
    objective: Objective,
    tried: tuple[np.ndarray, np.ndarray, np.ndarray],
    shape: Shape,
    precision: float,
    candidates: np.ndarray | None,
) -> tuple[np.ndarray, float]:
    """Return the starts between two tried ones where J may be largest, and what J is at most anywhere."""
    stocks, lower, upper = tried
    peaks, places = peaks_between(objective, stocks, upper, shape)
    if candidates is not None:
        first, last = np.searchsorted(candidates, stocks[:-1], "right"), np.searchsorted(candidates, stocks[1:]) - 1
        nearest = np.searchsorted(candidates, places).clip(first, last).clip(0)
        places = candidates[nearest]
        peaks = np.where(first <= last, peaks, -np.inf)
    best = float(lower.max())
    bound = max(best, float(peaks.max(initial=-np.inf)), float(upper.max()))
    open_cells = np.flatnonzero((peaks > best + precision) & (np.diff(stocks) > 1e-13 * (1 + np.abs(stocks[1:]))))
    chosen = open_cells[np.argsort(-peaks[open_cells])][:PER_ROUND]
    return places[chosen], bound


def peaks_between(
    objective: Objective, stocks: np.ndarray, upper: np.ndarray, shape: Shape
) -> tuple[np.ndarray, np.ndarray]:
    """Return what J is at most between neighbouring starts (N − 1,), and where."""
    weight, charge = float(objective.weight), float(objective.charge)
    rise, fall = weight * shape.largest_slope - charge, weight * shape.least_slope - charge
    gap, step = np.diff(stocks), np.diff(upper)
    with np.errstate(invalid="ignore", divide="ignore"):
        place = (step - fall * gap) / (rise - fall)  # the lines of these slopes through both ends cross there
    place = np.where(np.isfinite(place), place, gap / 2).clip(0, gap)
    peak = np.minimum(upper[:-1] + rise * place, upper[1:] - fall * (gap - place))
    if np.isfinite(shape.curvature):  # J + wκc² is convex: a chord less a parabola, largest at `middle`
        bend = weight * shape.curvature
        middle = np.clip(gap / 2 + step / (2 * bend * gap), 0, gap) if bend else np.where(step > 0, gap, 0.0)
        arch = upper[:-1] + step * middle / gap + bend * middle * (gap - middle)
        place, peak = np.where(arch < peak, middle, place), np.minimum(arch, peak)
    interior = (place > 0) & (place < gap)
    return peak, stocks[:-1] + np.where(interior, place, gap / 2)


def _convex(tried: tuple[np.ndarray, np.ndarray, np.ndarray], precision: float) -> tuple[np.ndarray, float]:
    """Return starts around the least figure, that of an upper tail: J is convex, so the minimum is next to it."""
    stocks, _, upper = tried
    k = int(upper.argmin())
    left, right = stocks[max(k - 1, 0)], stocks[min(k + 1, len(stocks) - 1)]
    if right - left <= precision:
        return np.zeros(0), float(upper[k])
    return np.linspace(left, right, PER_ROUND + 2)[1:-1], float(upper[k])
