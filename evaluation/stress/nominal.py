"""The nominal points of uncertainty sets: which of them are one, and what a policy does there.

Sets may give nominal values of their own. What a policy does in a set is judged against the set's own nominal point,
not that of another set; sets whose nominal points are the same dynamics share its episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from surefoot.envs import EnvConfig, Parameter, UncertaintySet, nominal_params
from surefoot.evaluation.stress.search import Play, crossed
from surefoot.evaluation.stress.statistics import Episodes, Record, sample, threshold


class NominalPoint(NamedTuple):
    """How a set's nominal dynamics differ from those of the task as it is."""

    values: tuple[tuple[str, float], ...] = ()  # sorted by name; none: nothing is disturbed
    recompute_constants: bool = False  # as the set's, where there are values: with them the same values move otherwise
    scale_inertia: bool = False


class Nominal(NamedTuple):
    """The policy at a nominal point."""

    episodes: Episodes  # (E,)
    limit: float  # the return below which it no longer holds
    point: NominalPoint = NominalPoint()
    of: str = ""  # the first set with this nominal point


def nominal_point(task: EnvConfig, box: UncertaintySet, centre: np.ndarray) -> NominalPoint:
    """Return the nominal point of a set whose nominal values are `centre` (d,).

    Raises:
        ValueError: as `nominal_params`.
    """
    given = [(p, value) for p, value in zip(box.parameters, centre.tolist(), strict=True) if p.nominal is not None]
    own = _task_values(task, box, [p for p, _ in given])
    values = [(p.name, value) for (p, value), there in zip(given, own, strict=True) if value != there]
    return NominalPoint(tuple(sorted(values)), box.recompute_constants, box.scale_inertia) if values else NominalPoint()


def _task_values(task: EnvConfig, box: UncertaintySet, parameters: Sequence[Parameter]) -> list[float]:
    """Return what the task has of itself; NaN where a `*` is over values that differ, which no single value equals."""
    if not parameters:
        return []
    try:
        bare = replace(box, parameters=tuple(p._replace(nominal=None) for p in parameters))
        return list(nominal_params(task, bare).tolist())
    except ValueError:  # one of them has no value of itself
        one_by_one = [[p] for p in parameters] if len(parameters) > 1 else []
        return [value for one in one_by_one for value in _task_values(task, box, one)] or [np.nan]


def measure_nominals(
    sets: Sequence[UncertaintySet],
    players: Sequence[tuple[Play, np.ndarray]],
    points: Sequence[NominalPoint],
    seeds: Sequence[int],
    tell: Callable[[str], None],
) -> list[Nominal]:
    """Return an episode from each reset seed at the nominal point of each set; sets that share one share its episodes.

    `players` are what plays in each set, and its nominal values (d,).
    """
    found: dict[NominalPoint, Nominal] = {}
    for one, (play, centre), point in zip(sets, players, points, strict=True):
        if point not in found:
            episodes = crossed(play, centre[None], seeds).at(0)
            mean = float(episodes.returns.mean())
            found[point] = Nominal(episodes, threshold(mean), point, one.name)
            whose = f" of {one.name}" if len(set(points)) > 1 else ""
            tell(f"nominal{whose}: {len(seeds)} episodes, mean return {mean:.4g}")
    return [found[point] for point in points]


def plain(nominal: Nominal) -> Record:
    """Return the limit, and a summary with every return, the values that differ from the task's, and of which set."""
    found = sample(nominal.episodes, nominal.limit) | {"at": dict(nominal.point.values), "of": nominal.of}
    return {"limit": nominal.limit, "nominal": found}
