"""How a budget of episodes is divided among what a stress test measures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from surefoot.envs import UncertaintySet

MOST_PAIRS = 3  # maps per set: of a larger one, those of the parameters that do most harm
STARTS = 2  # cells that CMA-ES starts from
CHOOSING = 3  # episodes per point of a search
FINALISTS = 6  # points that are measured again from fresh seeds, which choose the worst
# Shares of a set's budget. A set of one parameter has no maps, and those of one and two need no grid of their own.
SHARES = {"curves": 0.23, "maps": 0.20, "search": 0.25, "finalists": 0.08, "worst": 0.14, "average": 0.10}
# Of a set of many parameters each one's curve says more than the worst of all at once.
WIDE, WIDE_SHARES = 6, {"curves": 0.52, "maps": 0.10, "search": 0.15, "finalists": 0.05, "worst": 0.10, "average": 0.08}
ROUNDS = 3  # of points that a surface through all others proposes, after CMA-ES
LEAST = 10  # episodes behind a mean that is reported with an interval


class SetPlan(NamedTuple):
    """What is done in one uncertainty set of d parameters; a count of episodes is `…_seeds` per point."""

    curve_points: int  # per parameter
    curve_seeds: int
    pairs: int  # maps
    map_side: int
    map_seeds: int
    grid: int  # points of the whole box, one episode each, before CMA-ES
    generations: int  # of each of the STARTS
    population: int
    rounds: int
    round_points: int  # one episode each
    finalist_seeds: int
    worst: int
    average: int

    def episodes(self, dims: int) -> dict[str, int]:
        """Return the episodes of every part."""
        return {
            "curves": dims * self.curve_points * self.curve_seeds,
            "maps": self.pairs * self.map_side**2 * self.map_seeds,
            "search": self.grid
            + STARTS * self.generations * self.population * CHOOSING
            + self.rounds * self.round_points,
            "finalists": FINALISTS * self.finalist_seeds,
            "worst": self.worst,
            "average": self.average,
        }


class Plan(NamedTuple):
    """What is done at the nominal parameters, and in each set."""

    nominal: int  # episodes at each nominal point
    sets: tuple[SetPlan, ...]
    nominals: int = 1  # points; sets with nominal values of their own may have several


def make_plan(budget: int, sets: Sequence[UncertaintySet], nominals: int = 1) -> Plan:
    """Return what `budget` episodes per policy are spent on; a set's share goes with the root of its parameters.

    The sets have so many different nominal points (`stress.nominal`).

    Raises:
        ValueError: too few for every part to have its least; says how many are needed.
    """
    dims = [len(one.parameters) for one in sets]
    if plan := _fitting(budget, dims, nominals):
        return plan
    raise ValueError(
        f"--budget {budget} is too small: {len(sets)} uncertainty set{'s' * (len(sets) > 1)} of "
        f"{', '.join(map(str, dims))} parameters need {least_budget(budget, sets, nominals)} episodes; raise --budget, "
        "or name fewer --sets"
    )


def least_budget(budget: int, sets: Sequence[UncertaintySet], nominals: int = 1) -> int:
    """Return the budget, or how many episodes the sets need at least where that is more."""
    dims = [len(one.parameters) for one in sets]
    if _fitting(budget, dims, nominals):
        return budget
    return next(more for more in itertools.count(max(budget, 1)) if total(_divided(more, dims, nominals), dims) <= more)


def _fitting(budget: int, dims: Sequence[int], nominals: int) -> Plan | None:
    """Return the plan of the budget, or of the largest smaller one, that fits into its budget; None where none does.

    Parts grow by whole episodes of all their points, so that a plan can be larger than what it is made for.
    """
    for smaller in range(budget, 0, -1):
        plan = _divided(smaller, dims, nominals)
        if total(plan, dims) <= smaller:
            return plan
    return None


def _divided(budget: int, dims: Sequence[int], nominals: int) -> Plan:
    """Return a plan in which every part has its share, or its least where that is more."""
    nominal = min(100, max(LEAST, round(0.06 * budget)))
    weights = [math.sqrt(d) for d in dims]
    shares = [max(0, budget - nominals * nominal) * weight / sum(weights) for weight in weights]
    return Plan(nominal, tuple(map(_plan_set, shares, dims)), nominals)


def total(plan: Plan, dims: Sequence[int]) -> int:
    """Return the episodes of a plan for sets of so many parameters."""
    spent = sum(sum(one.episodes(d).values()) for one, d in zip(plan.sets, dims, strict=True))
    return plan.nominals * plan.nominal + spent


def _plan_set(budget: float, dims: int) -> SetPlan:
    shares = SHARES if dims <= WIDE else WIDE_SHARES
    share = {name: fraction * budget for name, fraction in shares.items()}
    pairs = min(math.comb(dims, 2), MOST_PAIRS)
    if not pairs:
        share["curves"] += share["maps"]
    curve = share["curves"] / dims
    points = _clipped(math.sqrt(curve), 5, 11)
    image = share["maps"] / max(pairs, 1)
    map_seeds = _clipped(image / 100, 1, 5)
    grid = int(share["search"] / 3) if dims > 2 else 0
    surface = share["search"] / 3
    population = 4 + int(3 * math.log(dims))
    generation = STARTS * population * CHOOSING
    return SetPlan(
        curve_points=points,
        curve_seeds=_clipped(curve / points, 3, 50),
        pairs=pairs,
        map_side=_clipped(math.sqrt(image / map_seeds), 3, 10) if pairs else 0,
        map_seeds=map_seeds if pairs else 0,
        grid=grid,
        generations=max(1, int((share["search"] - grid - surface) / generation)),
        population=population,
        rounds=ROUNDS,
        round_points=_clipped(surface / ROUNDS, 4, 100),
        finalist_seeds=_clipped(share["finalists"] / FINALISTS, 3, 100),
        worst=max(LEAST, int(share["worst"])),
        average=max(LEAST, int(share["average"])),
    )


def _clipped(value: float, low: int, high: int) -> int:
    return min(high, max(low, int(value)))
