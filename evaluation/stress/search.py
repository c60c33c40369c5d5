"""The worst point of an uncertainty set: a grid, CMA-ES from its worst cells, and two rounds of fresh episodes.

The least of many noisy means is too low: it is the luck of its episodes as much as the point. So the search only
proposes: its worst points are measured again from seeds that no choice has seen, which name the worst; and what is
reported of that one is measured from seeds that no choice has seen either, so that its mean is unbiased. How much lower
a point that was not tried may lie is read off a surface through all that were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from surefoot.agents.iwocs.search import cma_search
from surefoot.envs import UncertaintySet
from surefoot.evaluation.statistics import Interval
from surefoot.evaluation.stress.plan import CHOOSING, FINALISTS, STARTS, SetPlan
from surefoot.evaluation.stress.statistics import LEVEL, Episodes, mean_interval, skewness_shift
from surefoot.evaluation.stress.surface import Surface, candidates, draw_leasts, fit
from surefoot.evaluation.uncertainty_grid import worlds

Play = Callable[[np.ndarray, Sequence[int]], Episodes]  # points (J, d), a reset seed each -> outcomes (J,)
# Reset seeds of each part, from the first seed on: parts that must not know of each other share none.
SEEDS = {
    "nominal": 0,
    "choosing": 100_000,
    "finalists": 200_000,
    "worst": 300_000,
    "average": 400_000,
    "moment": 500_000,
}
APART = 0.25  # of the box: two starts of CMA-ES are at least so far from each other, in the largest coordinate
DRAWS = 1_000  # of the surface, for the interval
# Of those draws: the lower end can be wrong in two ways, so each has half of the error; and draws of one fitted surface
# spread less than they should, since its hyper-parameters are uncertain too. Checked by benchmarks/stress_coverage.py.
REACH = 0.005
DISTINCT = 0.02  # of the box: finalists that are nearer are one


class Tried(NamedTuple):
    """Points of a box (P, d) with the mean returns (P,) that so many episodes (P,) gave there."""

    points: np.ndarray
    means: np.ndarray
    episodes: np.ndarray

    @classmethod
    def none(cls, dims: int) -> Tried:
        """Return no points yet, of so many parameters."""
        return cls(np.empty((0, dims)), np.empty(0), np.empty(0, np.int64))

    def plus(self, points: np.ndarray, played: Episodes) -> Tried:
        """Return these and points with the outcomes (P, E) there."""
        counts = np.full(len(points), played.returns.shape[1])
        columns = (points, played.returns.mean(1), counts)
        return Tried(*(np.concatenate(pair) for pair in zip(self, columns, strict=True)))


class Worst(NamedTuple):
    """The worst point found, and what fresh seeds say of it."""

    point: np.ndarray  # (d,)
    episodes: Episodes  # (E,), of seeds that chose nothing
    interval: Interval | None  # of the least mean return in the box
    chosen_at: float  # the mean that it was chosen with, on the seeds of the finalists
    least: float  # the lowest mean of the search, which is too low
    points: int  # tried before the finalists
    finalists: np.ndarray  # (F, d)


def reset_seeds(part: str, count: int, first: int) -> list[int]:
    """Return the reset seeds of a part of a stress test whose first seed is `first`."""
    return [first + SEEDS[part] + i for i in range(count)]


def crossed(play: Play, points: np.ndarray, seeds: Sequence[int]) -> Episodes:
    """Return the outcomes (P, E) of an episode from each of E reset seeds at each of the points (P, d)."""
    played = play(np.repeat(points, len(seeds), axis=0), list(seeds) * len(points))
    return Episodes(*(column.reshape(len(points), len(seeds)) for column in played))


def find_worst(play: Play, box: UncertaintySet, plan: SetPlan, tried: Tried, *, seed: int) -> Worst:
    """Return the worst point of a box, starting from the points that curves and maps have tried already."""
    generator = np.random.default_rng(seed)
    choosing = reset_seeds("choosing", CHOOSING, seed)
    if plan.grid:
        points = worlds(box, plan.grid, seed)
        tried = tried.plus(points, crossed(play, points, choosing[:1]))
    tried = _evolve(play, box, plan, tried, choosing, seed)
    first = _surface(tried, box)
    tried = _follow_surface(play, box, plan, tried, first, choosing, generator)
    finalists = _finalists(_surface(tried, box, first), box, generator)
    second = crossed(play, finalists, reset_seeds("finalists", plan.finalist_seeds, seed))
    point = finalists[second.returns.mean(1).argmin()]
    episodes = crossed(play, point[None], reset_seeds("worst", plan.worst, seed))
    everything = tried.plus(finalists, second).plus(point[None], episodes)
    interval = _interval(episodes.at(0), _surface(everything, box), generator)
    least, chosen_at = float(tried.means.min()), float(second.returns.mean(1).min())
    return Worst(point, episodes.at(0), interval, chosen_at, least, len(tried.points), finalists)


def _interval(episodes: Episodes, surface: Surface, generator: np.random.Generator) -> Interval | None:
    """Return the interval of the least mean return in the box.

    Its upper end is that of the worst point found, since no least lies above a point. Its lower end is that one's too,
    with half of the error, or that of the least values that the surface through all points may have, where these reach
    lower. Both ends of the point's go further where its returns are skewed that way.
    """
    returns = episodes.returns
    found, lower = mean_interval(returns), mean_interval(returns, (1 + LEVEL) / 2)
    if found is None or lower is None:
        return None
    reach = float(np.quantile(draw_leasts(surface, DRAWS, generator).values, REACH))
    low = lower.low + min(0.0, skewness_shift(returns, (1 + LEVEL) / 2))
    return Interval(min(low, reach), found.high + max(0.0, skewness_shift(returns)))


def _surface(tried: Tried, box: UncertaintySet, like: Surface | None = None) -> Surface:
    return fit((tried.points - box.low) / (box.high - box.low), tried.means, tried.episodes, like)


def _finalists(surface: Surface, box: UncertaintySet, generator: np.random.Generator) -> np.ndarray:
    """Return the points (F, d) where the surface through all that was tried is lowest, tried themselves or not."""
    unit, means = candidates(surface, generator)
    return _lowest(box.low + unit * (box.high - box.low), means, box, FINALISTS, DISTINCT)


def _evolve(play: Play, box: UncertaintySet, plan: SetPlan, tried: Tried, seeds: Sequence[int], seed: int) -> Tried:
    """Search on by CMA-ES from the worst cells, all starts side by side."""
    width = 1 / max(plan.map_side, 2) if plan.pairs else 1 / plan.curve_points
    searches = [
        cma_search(
            box.low,
            box.high,
            seed=seed + i,
            population=plan.population,
            generations=plan.generations,
            start=start,
            sigma=width,
        )
        for i, start in enumerate(_lowest(tried.points, tried.means, box, STARTS, APART))
    ]
    while not all(search.done for search in searches):
        asked = [search.ask().numpy() for search in searches]
        played = crossed(play, np.concatenate(asked), seeds)
        tried = tried.plus(np.concatenate(asked), played)
        for search, values in zip(searches, np.split(played.returns.mean(1), len(searches)), strict=True):
            search.tell(torch.from_numpy(values))
    return tried


def _follow_surface(
    play: Play,
    box: UncertaintySet,
    plan: SetPlan,
    tried: Tried,
    surface: Surface,
    seeds: Sequence[int],
    generator: np.random.Generator,
) -> Tried:
    """Search on where the surface through all that was tried may be lowest: the leasts of draws of it (Thompson)."""
    for _ in range(plan.rounds):
        unit = draw_leasts(surface, plan.round_points, generator).points
        points = box.low + unit * (box.high - box.low)
        tried = tried.plus(points, crossed(play, points, seeds[:1]))
        surface = _surface(tried, box, surface)
    return tried


def _lowest(points: np.ndarray, means: np.ndarray, box: UncertaintySet, count: int, apart: float) -> np.ndarray:
    """Return up to `count` points (K, d) with the lowest means, no two nearer than `apart` of the box."""
    unit = (points - box.low) / (box.high - box.low)
    kept: list[int] = []
    for i in np.argsort(means, kind="stable").tolist():
        if all(np.abs(unit[i] - unit[j]).max() >= apart for j in kept):
            kept.append(i)
        if len(kept) == count:
            break
    chosen: np.ndarray = points[kept]
    return chosen
