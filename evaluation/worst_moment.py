"""An adversary that chooses when: the step of an episode at which a disturbance hurts a policy most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.envs import BatchedPerturbedEnvs, EnvConfig, Parameter, UncertaintySet, point
from surefoot.envs.quantities import WHOLE_EPISODE
from surefoot.evaluation.statistics import Interval
from surefoot.evaluation.stress.statistics import mean_interval


class WorstMoment(NamedTuple):
    """What a search found; returns are undiscounted means over the same reset seeds."""

    onset: int  # step from which the values hold
    mean: float  # of the seeds that chose it: biased low, being the least of many
    fresh: float  # of seeds that did not
    interval: Interval | None  # of the mean of the fresh ones; None for a single episode
    nominal: float  # of those fresh seeds without the disturbance
    tried: dict[int, float]  # mean return by onset
    episodes: int  # that were played in all


def timed(uncertainty: UncertaintySet, longest: int) -> UncertaintySet:
    """Return a set with `onset` (from 0 to `longest` steps) and `duration`, where it does not have them."""
    onset, duration = Parameter("onset", 0.0, float(longest), 0.0), Parameter("duration", 0.0, float(WHOLE_EPISODE))
    new = [one for one in (onset, duration) if one.name not in uncertainty.param_names]
    return replace(uncertainty, parameters=(*uncertainty.parameters, *new))


def worst_moment(
    act: Callable[[Tensor], Tensor],
    config: EnvConfig,
    uncertainty: UncertaintySet,
    values: Mapping[str, float],
    *,
    duration: int = WHOLE_EPISODE,
    moments: int = 16,
    episodes: int = 5,
    seed: int = 10_000,
    device: torch.device | str = "cpu",
) -> WorstMoment:
    """Search for the onset at which `values` (name → value, the others nominal) cost a policy most.

    At most `moments` onsets over the longest nominal episode, then both neighbours of the worst at half the distance,
    down to single steps. All onsets meet the same `episodes` reset seeds; the worst is measured again from others.

    Raises:
        ValueError: fewer than one moment, episode or step; an unknown parameter; as `play`.
    """
    for name, count in (("moments", moments), ("episodes", episodes), ("duration", duration)):
        if count < 1:
            raise ValueError(f"{name} is {count}; a search for the worst moment needs at least 1")
    timed_set = timed(uncertainty, WHOLE_EPISODE)
    envs = BatchedPerturbedEnvs(config, timed_set, device=device, num_envs=config.num_envs)
    seeds, fresh_seeds = ([first + i for i in range(episodes)] for first in (seed, seed + episodes))
    disturbed = point(timed_set, envs.nominal, {"duration": duration, **values})

    def returns(onsets: list[int], of: list[int]) -> np.ndarray:
        points = np.repeat(disturbed[None], len(onsets), axis=0)
        points[:, timed_set.param_names.index("onset")] = onsets
        return envs.play(act, points, of).returns

    def means(onsets: list[int]) -> list[float]:
        return list(returns(onsets, seeds).mean(1).tolist())

    longest = int(envs.play(act, envs.nominal[None], seeds).lengths.max())
    step = max(-(-longest // moments), 1)
    first = list(range(0, longest, step))
    tried = dict(zip(first, means(first), strict=True))
    while step > 1:
        step = -(-step // 2)
        worst = min(tried, key=lambda onset: tried[onset])
        near = [onset for onset in (worst - step, worst + step) if 0 <= onset < longest and onset not in tried]
        tried |= dict(zip(near, means(near), strict=True)) if near else {}
    worst = min(tried, key=lambda onset: tried[onset])
    fresh = returns([worst], fresh_seeds)[0]
    nominal = float(envs.play(act, envs.nominal[None], fresh_seeds).returns.mean())
    played = (len(tried) + 3) * episodes
    return WorstMoment(worst, tried[worst], float(fresh.mean()), mean_interval(fresh), nominal, tried, played)
