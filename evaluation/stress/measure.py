"""A stress test of one policy: nominal, one parameter at a time, pairs, the worst point, the tail; as plain values.

What comes out is what `surefoot stress` writes as JSON; its page, the model card and the tables are made of that alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import torch

from surefoot.envs import BatchedPerturbedEnvs, EnvConfig, UncertaintySet, nominal_params, play
from surefoot.envs.model_parameters import round_half_up
from surefoot.envs.quantities import quantity_of
from surefoot.envs.uncertainty.probe import indistinct, inert
from surefoot.evaluation.episodes import Act
from surefoot.evaluation.stress.nominal import Nominal, measure_nominals, nominal_point, plain
from surefoot.evaluation.stress.plan import LEAST, MOST_PAIRS, SetPlan, make_plan
from surefoot.evaluation.stress.plays import Plays
from surefoot.evaluation.stress.search import SEEDS, Play, Tried, Worst, crossed, find_worst, reset_seeds
from surefoot.evaluation.stress.statistics import (
    KEPT,
    LEVEL,
    TAIL,
    Episodes,
    Record,
    mean_interval,
    robust_radius,
    sample,
)
from surefoot.evaluation.worst_moment import timed, worst_moment

PROBED = 5  # values of a parameter that are compared, to see whether it changes anything
SEED = 10_000  # the first reset seed: away from those of evaluations during training


def stress(
    act: Act,
    task: EnvConfig,
    sets: Sequence[UncertaintySet],
    *,
    budget: int,
    seed: int = SEED,
    moment: int = 0,
    device: torch.device | str = "cpu",
    tell: Callable[[str], None] = lambda line: None,
    keep: Callable[[Record], None] = lambda found: None,
    plays: Plays | None = None,
) -> Record:
    """Return everything that `budget` episodes of a policy say of it in a task and its uncertainty sets.

    Each set is judged against its own nominal point. `limit` and `nominal` are those of the first set; a set with
    another nominal point has its own.

    `act` maps (N, obs) to (N, act) in [-1, 1]; `task.num_envs` episodes run side by side. `tell` receives a line per
    part, `keep` what was found so far. `moment`: also search for the step from which the worst point of each set hurts
    most when it lasts so many steps, with episodes beyond the budget; 0: not. The same arguments give the same numbers.
    `plays` are those of a call that was stopped, which this one takes over where the nominal episodes, which it plays
    anew, come out the same; they grow as it goes on.

    Raises:
        ValueError: too small a budget, a set that does not fit the task, actions that are not finite.
    """
    _require_moment(task, sets, moment)
    players = [player(act, task, one, device) for one in sets]
    points = [nominal_point(task, one, centre) for one, (_, centre) in zip(sets, players, strict=True)]
    plan = make_plan(budget, sets, nominals=len(set(points)))
    nominals = measure_nominals(sets, players, points, reset_seeds("nominal", plan.nominal, seed), tell)
    plays = _trusted(plays, nominals, tell)
    about = {"env": asdict(task), "seed": seed, "budget": budget, **plain(nominals[0])}
    found: list[Record] = []

    def all_of(*more: Record) -> Record:
        return {**about, "sets": [*found, *more], "method": _method(seed, moment)}

    keep(all_of())
    for one, share, nominal, (play_in, centre) in zip(sets, plan.sets, nominals, players, strict=True):
        played = plays.remembered(play_in, repr((task, one, device))), centre
        own = {} if nominal is nominals[0] else plain(nominal)

        def keep_part(part: Record, own: Record = own) -> None:
            keep(all_of(part | own))

        found.append(_labelled(act, task, one, share, nominal, played, seed, moment, device, tell, keep_part) | own)
        keep(all_of())
    return all_of()


def _require_moment(task: EnvConfig, sets: Sequence[UncertaintySet], moment: int) -> None:
    """Raise `ValueError` for a disturbance of so many steps, or in a set, that cannot be within an episode."""
    if moment < 0:
        raise ValueError(f"the worst moment is searched for a disturbance of {moment} steps; it must last at least 1")
    for one in sets if moment else ():
        BatchedPerturbedEnvs(task, timed(one, moment), num_envs=1)


def _trusted(plays: Plays | None, nominals: Sequence[Nominal], tell: Callable[[str], None]) -> Plays:
    """Return plays that are this policy's, none of an earlier call whose nominal episodes were others."""
    plays = plays or Plays()
    if not plays.trust_if([one.episodes for one in nominals]):
        tell("an earlier test that was stopped had other nominal episodes: nothing is taken from it")
    return plays


def _method(seed: int, moment: int) -> Record:
    """Return what all figures depend on, besides the episodes."""
    seeds = {part: seed + offset for part, offset in SEEDS.items() if moment or part != "moment"}
    return {"kept": KEPT, "level": LEVEL, "tail": TAIL, "seeds": seeds}


def player(
    act: Act, task: EnvConfig, box: UncertaintySet, device: torch.device | str = "cpu"
) -> tuple[Play, np.ndarray]:
    """Return what plays a policy at points of a set, and the nominal point (d,)."""

    def outcomes(points: np.ndarray, seeds: Sequence[int]) -> Episodes:
        played = play(act, task, box, points, seeds, num_envs=task.num_envs, device=device)
        return Episodes(played.returns, played.terminated, played.broken)

    return outcomes, nominal_params(task, box)


# --- one uncertainty set ----------------------------------------------------------------------------------------------


def _labelled(
    act: Act,
    task: EnvConfig,
    box: UncertaintySet,
    plan: SetPlan,
    nominal: Nominal,
    played: tuple[Play, np.ndarray],
    seed: int,
    moment: int,
    device: torch.device | str,
    tell: Callable[[str], None],
    keep: Callable[[Record], None],
) -> Record:
    """Return what a set of a task came to, which of its parameters change nothing, and when its worst point hurts."""
    found = stress_set(played[0], box, played[1], plan, nominal, seed=seed, tell=tell, keep=keep)
    if moment:
        found["worst_moment"] = _moment(act, task, box, found["worst"]["at"], moment, seed, device)
        tell(f"{box.name}: worst moment, from step {found['worst_moment']['onset']} on")
    return found | {"without_effect": idle_parameters(task, box)}


def _moment(
    act: Act,
    task: EnvConfig,
    box: UncertaintySet,
    at: Record,
    duration: int,
    seed: int,
    device: torch.device | str,
) -> Record:
    """Return when the worst point of a set hurts most, where it holds for `duration` steps of an episode only."""
    values = {name: value for name, value in at.items() if name not in ("onset", "duration")}
    settings = {"duration": duration, "episodes": LEAST, "seed": seed + SEEDS["moment"]}
    found = worst_moment(act, task, box, values, **settings, device=device)
    tried = {str(onset): mean for onset, mean in sorted(found.tried.items())}
    return {
        "at": values,
        "duration": duration,
        "onset": found.onset,
        "mean": found.fresh,
        "interval": found.interval and list(found.interval),
        "nominal": found.nominal,
        "mean_when_chosen": found.mean,
        "tried": tried,
        "episodes_per_onset": LEAST,
        "episodes": found.episodes,
    }


def idle_parameters(task: EnvConfig, box: UncertaintySet) -> list[str]:
    """Return the parameters of a set of any size that change nothing in a hundred random steps."""
    axes = _ticks(box, PROBED)
    return inert(box, axes, indistinct(task, box, axes))


def stress_set(
    play: Play,
    box: UncertaintySet,
    centre: np.ndarray,
    plan: SetPlan,
    nominal: Nominal,
    *,
    seed: int,
    tell: Callable[[str], None] = lambda line: None,
    keep: Callable[[Record], None] = lambda found: None,
) -> Record:
    """Return curves, maps, average and worst case of a policy in a set whose nominal point is `centre` (d,).

    `tell` receives a line, and `keep` what was found so far, after each part.
    """
    axes = curve_values(box, plan)
    parameters = zip(box.parameters, centre.tolist(), strict=True)
    ranges = [{"name": p.name, "low": p.low, "high": p.high, "nominal": value} for p, value in parameters]
    found: Record = {"name": box.name, "parameters": ranges, "episodes": plan.episodes(len(axes))}
    found["curves"], tried = _curves(play, box, centre, plan, nominal, axes, seed)
    tell(f"{box.name}: curves of {len(axes)} parameters")
    keep(found)
    maps, more = _maps(play, box, centre, plan, _chosen_pairs(found["curves"]), nominal.limit, seed)
    tried = _inside(box, Tried(*(np.concatenate(both) for both in zip(tried, more, strict=True))))
    left_out = [list(pair) for pair in combinations(box.param_names, 2) if not _drawn(pair, maps)]
    found |= {"maps": maps, "pairs_left_out": left_out}
    if maps:
        tell(f"{box.name}: maps of {len(maps)} pairs")
        keep(found)
    worst = find_worst(play, box, plan, tried, seed=seed)
    found["worst"] = _worst(box, worst, nominal.limit)
    tell(f"{box.name}: worst mean return {worst.episodes.returns.mean():.4g}")
    keep(found)
    found["average"] = sample(_average(play, box, plan, seed), nominal.limit)
    return found


def _worst(box: UncertaintySet, worst: Worst, limit: float) -> Record:
    return {
        "at": _at(box, worst.point),
        "points_searched": worst.points,
        "lowest_of_search": worst.least,
        "mean_when_chosen": worst.chosen_at,
        "finalists": [_at(box, point) for point in worst.finalists],
        **sample(worst.episodes, limit),
        "interval": worst.interval and list(worst.interval),
    }


def curve_values(box: UncertaintySet, plan: SetPlan) -> list[np.ndarray]:
    """Return the values of each parameter's curve, both ends of its range among them."""
    return _ticks(box, plan.curve_points)


def _ticks(box: UncertaintySet, count: int) -> list[np.ndarray]:
    """Return evenly spaced values of every parameter; whole numbers where it counts something, maybe one twice.

    That whole number is the one that is in force there (`round_half_up`); where it lies beyond the range, the end of
    the range stands for it.
    """
    even = [(p, np.linspace(p.low, p.high, count)) for p in box.parameters]
    return [_whole(values).clip(p.low, p.high) if _is_whole(p.name) else values for p, values in even]


def _whole(values: np.ndarray) -> np.ndarray:
    return np.array([float(round_half_up(value)) for value in values.tolist()])


def _is_whole(name: str) -> bool:
    quantity = quantity_of(name)
    return quantity is not None and quantity.whole


def _at(box: UncertaintySet, point: np.ndarray) -> dict[str, float]:
    return dict(zip(box.param_names, point.tolist(), strict=True))


def _inside(box: UncertaintySet, tried: Tried) -> Tried:
    """Return the points that lie in the box: the nominal value of a parameter need not."""
    inside = ((tried.points >= box.low) & (tried.points <= box.high)).all(1)
    return Tried(*(column[inside] for column in tried))


def _curves(
    play: Play,
    box: UncertaintySet,
    centre: np.ndarray,
    plan: SetPlan,
    nominal: Nominal,
    axes: Sequence[np.ndarray],
    seed: int,
) -> tuple[list[Record], Tried]:
    """Return the curve of every parameter, the others nominal, and the points that were tried."""
    points = np.repeat(centre[None], len(axes) * plan.curve_points, axis=0).reshape(len(axes), plan.curve_points, -1)
    for k, axis in enumerate(axes):
        points[k, :, k] = axis
    flat = points.reshape(-1, len(centre))
    played = crossed(play, flat, reset_seeds("choosing", plan.curve_seeds, seed))
    parts = [played.at(slice(k * plan.curve_points, (k + 1) * plan.curve_points)) for k in range(len(axes))]
    named = zip(box.param_names, axes, centre.tolist(), parts, strict=True)
    curves = [_curve(name, axis, middle, part, nominal, seed) for name, axis, middle, part in named]
    return curves, Tried.none(len(centre)).plus(flat, played)


def _curve(name: str, axis: np.ndarray, middle: float, part: Episodes, nominal: Nominal, seed: int) -> Record:
    intervals = [mean_interval(row) for row in part.returns]
    radii: Record = {}
    for side in ("down", "up"):
        generator = np.random.default_rng(seed)
        settings: Any = {"up": side == "up", "generator": generator}
        radius = robust_radius(axis, part.returns, middle, nominal.episodes.returns, **settings)
        radii[side] = None if radius is None else radius._asdict()
    return {
        "parameter": name,
        "nominal": middle,
        "values": axis.tolist(),
        "mean": part.returns.mean(1).tolist(),
        "interval": [None if one is None else list(one) for one in intervals],
        "episodes": part.returns.shape[1],
        **{name: counts.tolist() for name, counts in part.counts(nominal.limit).items()},
        "radius": radii,
    }


def _chosen_pairs(curves: Sequence[Record]) -> list[tuple[int, int]]:
    """Return the pairs of parameters to map: those of the three whose curves go lowest."""
    worst = sorted(range(len(curves)), key=lambda k: min(curves[k]["mean"]))[:MOST_PAIRS]
    return list(combinations(sorted(worst), 2))


def _drawn(pair: tuple[str, str], maps: Sequence[Record]) -> bool:
    return any(tuple(one["axes"]) == pair for one in maps)


def _maps(
    play: Play,
    box: UncertaintySet,
    centre: np.ndarray,
    plan: SetPlan,
    pairs: Sequence[tuple[int, int]],
    limit: float,
    seed: int,
) -> tuple[list[Record], Tried]:
    """Return a map of mean returns over each pair, the other parameters nominal, and the points that were tried."""
    nothing = Tried.none(len(centre))
    if not pairs:
        return [], nothing
    ticks = _ticks(box, plan.map_side)
    points = np.concatenate([_slice(centre, ticks, pair) for pair in pairs])
    played = crossed(play, points, reset_seeds("choosing", plan.map_seeds, seed))
    counts = (played.failed(limit).sum(1), played.early.sum(1), played.broken.sum(1))
    shape = (len(pairs), plan.map_side, plan.map_side)
    drawn = zip(pairs, *(column.reshape(shape) for column in (played.returns.mean(1), *counts)), strict=True)
    maps = [
        {
            "axes": {box.param_names[k]: ticks[k].tolist() for k in pair},
            "nominal": centre[list(pair)].tolist(),
            "mean": mean.tolist(),
            "failed": failed.tolist(),
            "ended_early": early.tolist(),
            "diverged": broken.tolist(),
            "episodes": plan.map_seeds,
        }
        for pair, mean, failed, early, broken in drawn
    ]
    return maps, nothing.plus(points, played)


def _slice(centre: np.ndarray, ticks: Sequence[np.ndarray], pair: tuple[int, int]) -> np.ndarray:
    """Return the points (side², d) of a plane through the nominal point, the second parameter changing faster."""
    first, second = pair
    plane = np.stack(np.meshgrid(ticks[first], ticks[second], indexing="ij"), -1).reshape(-1, 2)
    points = np.repeat(centre[None], len(plane), axis=0)
    points[:, [first, second]] = plane
    return points


def _average(play: Play, box: UncertaintySet, plan: SetPlan, seed: int) -> Episodes:
    """Return one episode at each of some points drawn uniformly from the box, each with a reset seed of its own."""
    unit = np.random.default_rng(seed).random((plan.average, len(box.parameters)))
    points = box.low + unit * (box.high - box.low)
    return play(points, reset_seeds("average", plan.average, seed))
