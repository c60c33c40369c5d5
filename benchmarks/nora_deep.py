"""Deep NORA and NOAH* where exploration is hard, with and without their bonus and recorded data.

    python benchmarks/nora_deep.py [--jobs deep-sea-20 lock-8 …] [--seeds 3] [--processes 2]

Reference measurements: docs/derivations/nora.md §12.5.

A job is a preset of nora-deep with changes; its seeds run as processes of one thread. Each job replaces its own entry
of benchmarks/results/nora_deep.json and leaves the others. A success is an episode that gets what V* is made of: the
treasure, or the last step of the code.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from record import record_job

from surefoot import agents
from surefoot.agents.interface import Setting, Spaces
from surefoot.envs import make_single, make_vec, spaces_of
from surefoot.training.config.presets import load_preset
from surefoot.training.config.run import RunConfig
from surefoot.training.loop.behaviour import behaviour_data

NAME = "nora_deep"
SUCCESS = 0.9  # returns are at most 0.99 and 1, and at most 0.1 without success


@dataclass(frozen=True)
class Job:
    """A preset and what is changed of it."""

    preset: str
    episodes: int
    agent: dict[str, Any] | None = None
    source: str | None = None  # of recorded data, in place of the preset's; "" for none


JOBS = {
    "deep-sea-20": Job("deep-sea-20", 400),
    "lock-8": Job("lock-8", 400),
    "lock-8-hybrid": Job("lock-8-hybrid", 400),
    "lock-10-noah-star": Job("lock-10-noah-star", 150),
    "lock-10-noah-star-uniform": Job("lock-10-noah-star", 150, source="behaviour:50:1"),
    "lock-10-noah-star-none": Job("lock-10-noah-star", 150, source=""),
    "deep-sea-20-no-bonus": Job("deep-sea-20", 400, {"bonus_weight": 0.0}),
    "deep-sea-20-dqn": Job("deep-sea-20", 400),
    "deep-sea-10": Job("deep-sea-10", 200),
    "deep-sea-10-ensemble": Job("deep-sea-10-ensemble", 200),
    "deep-sea-10-cold-start": Job("deep-sea-10", 200, {"warm_start": False}),
    "lock-8-no-bonus": Job("lock-8", 400, {"bonus_weight": 0.0}),
}


@dataclass
class Options:
    """What to run."""

    jobs: tuple[str, ...] = tuple(JOBS)
    """Names of `JOBS`."""
    seeds: int = 3
    processes: int = 2
    """Seeds trained at once."""


def play(config: RunConfig, episodes: int) -> dict[str, Any]:
    """Return the return of every episode, and how often the critic was refreshed."""
    data = behaviour_data(config.data, config.env, seed=config.seed) if config.data.source else None
    setting = Setting(Spaces(*spaces_of(config.env)), config.seed, torch.device("cpu"), make_vec(config.env), data)
    agent: Any = agents.get("nora-deep").make_agent(config.agent, setting)
    returns = [float(agent.step().episodes[0].episode_return[0]) for _ in range(episodes)]
    return {"returns": returns, "refreshes": agent.refreshes}


def play_dqn(config: RunConfig, episodes: int) -> dict[str, Any]:
    """Return the same of Stable-Baselines3's DQN: ε from 1 to 0.05 over the first half, one update per step."""
    from stable_baselines3 import DQN

    horizon = config.agent.horizon
    env = gym.wrappers.RecordEpisodeStatistics(make_single(config.env), buffer_length=episodes)
    model = DQN(
        "MlpPolicy",
        env,
        seed=config.seed,
        device="cpu",
        learning_rate=1e-3,
        learning_starts=100,
        train_freq=1,
        target_update_interval=200,
        exploration_fraction=0.5,
        gamma=1.0,
        batch_size=256,
        replay_buffer_kwargs={"handle_timeout_termination": False},  # the time limit is the end here, too
    )
    model.learn(episodes * horizon)
    return {"returns": [float(total) for total in env.return_queue], "refreshes": 0}


def run(name: str, seed: int) -> dict[str, Any]:
    """Return the figures of one seed of a job."""
    torch.set_num_threads(1)
    job, began = JOBS[name], time.process_time()
    config = load_preset("nora-deep", job.preset)
    data = config.data if job.source is None else replace(config.data, source=job.source or None)
    config = replace(config, agent=replace(config.agent, **(job.agent or {})), data=data, seed=seed)
    played = (play_dqn if name.endswith("-dqn") else play)(config, job.episodes)
    returns = np.array(played["returns"])
    hits = np.flatnonzero(returns > SUCCESS)
    print(name, seed, hits[:1] + 1, returns[-20:].mean().round(3), played["refreshes"], flush=True)
    return {
        "first_success": int(hits[0]) + 1 if len(hits) else None,
        "last20": round(float(returns[-20:].mean()), 4),
        "refreshes": played["refreshes"],
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def main(options: Options) -> None:
    began = time.perf_counter()
    seeds = list(range(options.seeds))
    with get_context("spawn").Pool(options.processes) as pool:
        for name in options.jobs:
            rows = pool.starmap(run, [(name, seed) for seed in seeds])
            figures = {key: [row[key] for row in rows] for key in rows[0]} | {"episodes": JOBS[name].episodes}
            record_job(NAME, name, figures, began=began, seeds=seeds)


if __name__ == "__main__":
    main(tyro.cli(Options))
