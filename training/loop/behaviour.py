"""Data by the behaviour policy that a task of ours documents: recorded anew for each run, the same for the same seed.

The combination lock's is the ε-greedy expert of HNPG's experiments; a finite task of H steps has one by dynamic
programming: the best action, but with chance ε = 1/H a uniform one. Recording 20,000 episodes takes seconds, so nothing
is cached and nothing can be stale; `surefoot data collect behaviour OUT.hdf5` writes the same to a file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from surefoot.agents.parts.tabular import TabularMDP, optimal_values
from surefoot.envs import EnvConfig, make_vec
from surefoot.offline_data import DataConfig, Transitions, collect

BEHAVIOUR = "behaviour:"
LANES = 5_000  # episodes recorded side by side


def behaviour_data(config: DataConfig, env: EnvConfig, *, seed: int) -> Transitions:
    """Return the data of `config.source` = "behaviour:EPISODES" or "behaviour:EPISODES:ε", recorded on the CPU.

    Raises `ValueError` where the source names no number of episodes, ε is no share, or the task documents no behaviour.
    """
    count, _, share = str(config.source).removeprefix(BEHAVIOUR).partition(":")
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(f"data.source is {config.source!r}; expected {BEHAVIOUR}EPISODES, such as {BEHAVIOUR}20000")
    data = record_behaviour(env, int(count), seed=seed, epsilon=_share(share, config) if share else None)
    return data.subsample(config.fraction, torch.Generator().manual_seed(seed))


def _share(text: str, config: DataConfig) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise ValueError(f"data.source is {config.source!r}; ε, the share of uniform actions, must be in [0, 1]")


def record_behaviour(
    env: EnvConfig, episodes: int, *, seed: int, epsilon: float | None = None, progress: bool = False
) -> Transitions:
    """Return whole episodes of the task's own behaviour policy; `epsilon` None is the task's documented share."""
    lanes: Any = make_vec(replace(env, num_envs=min(episodes, LANES)))
    act = _behaviour(lanes, env.id)
    share = documented_epsilon(lanes) if epsilon is None else epsilon
    generator = torch.Generator().manual_seed(seed)
    waves = -(-episodes // lanes.num_envs)
    steps = waves * lanes.num_envs * lanes.horizon
    data = collect(
        lambda obs: act(share, generator),
        lanes,
        steps,
        seed=seed,
        source=f"{env.id} behaviour",
        progress=progress,
    )
    lanes.close()
    return data.rows(torch.arange(episodes * lanes.horizon))


def documented_epsilon(lanes: Any) -> float:
    """Return the share ε of uniform actions in a task's own behaviour."""
    return lanes.behaviour_epsilon if hasattr(lanes, "behaviour_epsilon") else 1 / lanes.horizon


def _behaviour(lanes: Any, env_id: str) -> Callable[[float, torch.Generator], Tensor]:
    """Return what acts for a share ε and a generator, in every lane, a step after the other from the reset on."""
    if hasattr(lanes, "behaviour"):
        return lanes.behaviour
    if hasattr(lanes, "tabular") and lanes.horizon is not None:
        return _table_behaviour(lanes)
    lanes.close()
    raise ValueError(f"{env_id} documents no behaviour policy; record a run with `surefoot data collect` instead")


def _table_behaviour(lanes: Any) -> Callable[[float, torch.Generator], Tensor]:
    """Return the ε-greedy optimum of a finite task, whose lanes all take H steps an episode."""
    best = optimal_values(TabularMDP(*lanes.tabular()), lanes.horizon).argmax(-1)  # (H, S)
    clock = itertools.cycle(range(lanes.horizon))

    def act(epsilon: float, generator: torch.Generator) -> Tensor:
        chosen = best[next(clock), lanes.state]
        random = torch.randint(int(lanes.single_action_space.n), chosen.shape, generator=generator)
        return torch.where(torch.rand(chosen.shape, generator=generator) < epsilon, random, chosen)

    return act
