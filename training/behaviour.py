"""Data by the behaviour policy that a task of ours documents: recorded anew for each run, the same for the same seed.

The combination lock's is the ε-greedy expert of HNPG's experiments. Recording 20,000 episodes takes seconds, so nothing
is cached and nothing can be stale; `surefoot data collect behaviour OUT.hdf5` writes the same to a file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from surefoot.envs import EnvConfig, make_vec
from surefoot.offline_data import DataConfig, Transitions, collect

BEHAVIOUR = "behaviour:"
LANES = 5_000  # episodes recorded side by side


def behaviour_data(config: DataConfig, env: EnvConfig, *, seed: int) -> Transitions:
    """Return the data of `config.source` = "behaviour:EPISODES" in the task `env`, recorded on the CPU.

    Raises `ValueError` where the source names no number of episodes or the task documents no behaviour policy.
    """
    count = str(config.source).removeprefix(BEHAVIOUR)
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(f"data.source is {config.source!r}; expected {BEHAVIOUR}EPISODES, such as {BEHAVIOUR}20000")
    data = record_behaviour(env, int(count), seed=seed)
    return data.subsample(config.fraction, torch.Generator().manual_seed(seed))


def record_behaviour(
    env: EnvConfig, episodes: int, *, seed: int, epsilon: float | None = None, progress: bool = False
) -> Transitions:
    """Return whole episodes of the task's own behaviour policy; `epsilon` None is the task's documented share."""
    lanes: Any = make_vec(replace(env, num_envs=min(episodes, LANES)))
    if not hasattr(lanes, "behaviour"):
        lanes.close()
        raise ValueError(f"{env.id} documents no behaviour policy; record a run with `surefoot data collect` instead")
    share = lanes.behaviour_epsilon if epsilon is None else epsilon
    generator = torch.Generator().manual_seed(seed)
    waves = -(-episodes // lanes.num_envs)
    steps = waves * lanes.num_envs * lanes.horizon
    data = collect(
        lambda obs: lanes.behaviour(share, generator),
        lanes,
        steps,
        seed=seed,
        source=f"{env.id} behaviour",
        progress=progress,
    )
    lanes.close()
    return data.rows(torch.arange(episodes * lanes.horizon))
