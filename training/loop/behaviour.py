"""Data by the behaviour policy that a task of ours documents: recorded anew for each run, the same for the same seed.

The combination lock's is the ε-greedy expert of HNPG's experiments (docs/derivations/hnpg.md §8.4); a finite task of H
steps has one by dynamic programming: the best action, but with chance ε = 1/H a uniform one. Recording 20,000 episodes
takes seconds, so nothing is cached and nothing can be stale; `surefoot data collect behaviour OUT.hdf5` writes the same
to a file.
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
from surefoot.offline_data.sources import BEHAVIOUR

NUM_ENVS = 5_000  # episodes recorded side by side


def behaviour_data(config: DataConfig, env: EnvConfig, *, seed: int) -> Transitions:
    """Return the data of `config.source` = "behaviour:EPISODES" or "behaviour:EPISODES:ε", recorded on the CPU.

    Raises `ValueError` where the source names no number of episodes, ε is no probability, or the task documents no
    behaviour.
    """
    count, _, chance = str(config.source).removeprefix(BEHAVIOUR).partition(":")
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(f"--data.source is {config.source!r}; expected {BEHAVIOUR}EPISODES, such as {BEHAVIOUR}20000")
    data = record_behaviour(env, int(count), seed=seed, epsilon=_epsilon(chance, config) if chance else None)
    return data.subsample(config.fraction, torch.Generator().manual_seed(seed))


def _epsilon(text: str, config: DataConfig) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise ValueError(f"--data.source is {config.source!r}; ε, the probability of a uniform action, must be in [0, 1]")


def record_behaviour(
    env: EnvConfig, episodes: int, *, seed: int, epsilon: float | None = None, progress: bool = False
) -> Transitions:
    """Return whole episodes of the task's own behaviour policy; `epsilon` None is the documented one."""
    envs: Any = make_vec(replace(env, num_envs=min(episodes, NUM_ENVS)))
    horizon, act = steps_of_behaviour(envs, env.id), _behaviour(envs)
    chance = documented_epsilon(envs) if epsilon is None else epsilon
    generator = torch.Generator().manual_seed(seed)
    waves = -(-episodes // envs.num_envs)
    steps = waves * envs.num_envs * horizon
    data = collect(
        lambda obs: act(chance, generator),
        envs,
        steps,
        seed=seed,
        source=f"{env.id} behaviour",
        progress=progress,
    )
    envs.close()
    return data.rows(torch.arange(episodes * horizon))


def steps_of_behaviour(envs: Any, env_id: str) -> int:
    """Return how many steps an episode of a task's own behaviour policy takes; `ValueError` where it documents none."""
    horizon: int | None = getattr(envs, "horizon", None)
    if horizon is None or not (hasattr(envs, "behaviour") or hasattr(envs, "tabular")):
        envs.close()
        raise ValueError(f"{env_id} documents no behaviour policy; record a run with `surefoot data collect` instead")
    return horizon


def documented_epsilon(envs: Any) -> float:
    """Return the probability ε of uniform actions in a task's own behaviour policy."""
    epsilon: float = envs.behaviour_epsilon if hasattr(envs, "behaviour_epsilon") else 1 / envs.horizon
    return epsilon


def _behaviour(envs: Any) -> Callable[[float, torch.Generator], Tensor]:
    """Return what acts for an ε and a generator, in every environment, step by step from the reset on."""
    if hasattr(envs, "behaviour"):
        own: Callable[[float, torch.Generator], Tensor] = envs.behaviour
        return own
    return _table_behaviour(envs)


def _table_behaviour(envs: Any) -> Callable[[float, torch.Generator], Tensor]:
    """Return the ε-greedy optimum of a finite task, whose episodes all take H steps."""
    best = optimal_values(TabularMDP(*envs.tabular()), envs.horizon).argmax(-1)  # (H, S)
    steps = itertools.cycle(range(envs.horizon))

    def act(epsilon: float, generator: torch.Generator) -> Tensor:
        chosen = best[next(steps), envs.state]
        random = torch.randint(int(envs.single_action_space.n), chosen.shape, generator=generator)
        return torch.where(torch.rand(chosen.shape, generator=generator) < epsilon, random, chosen)

    return act
