"""QR-DQN and DηN on two games of MinAtar beside SB3-contrib's QR-DQN, and QR-DQN on CartPole-v1.

    python benchmarks/minatar_games.py [--jobs cartpole/qr-dqn/0 breakout/dhn/0 …] [--runs runs/minatar]

A job is TASK/AGENT/SEED. On CartPole-v1 the preset `cartpole` is trained for 50,000 steps and evaluated for 300
episodes, as RL Baselines3 Zoo does, which publishes 500 ± 0. On MinAtar the presets `minatar` are trained for 500,000
steps; SB3-contrib's QR-DQN has the same network, step size, replay, exploration and number of updates. All are
evaluated for 300 episodes: mean return, and the worst quarter of the discounted returns. What is recorded is not run
again; a job of ours that was stopped goes on from its last checkpoint, one of SB3-contrib starts anew.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from record import record_job, results_of
from torch import Tensor, nn
from trained import origin, train_to_the_end

from surefoot.agents.distributional.objectives import parse
from surefoot.envs import EnvConfig
from surefoot.envs.make import make_single
from surefoot.evaluation.episodes import Act, evaluate, make_act
from surefoot.evaluation.policy_files import load_policy
from surefoot.training.config.presets import load_preset
from surefoot.training.config.run import RunConfig

NAME = "minatar"
GAMES = {"breakout": "MinAtar/Breakout-v1", "asterix": "MinAtar/Asterix-v1"}  # of 4 channels both
EPISODES, SEED, TAIL = 300, 10_000, "cvar(0.25)"


@dataclass
class Options:
    """What to run."""

    jobs: tuple[str, ...] = (
        *(f"cartpole/qr-dqn/{seed}" for seed in range(3)),
        *(f"{game}/{agent}/{seed}" for seed in range(3) for game in GAMES for agent in ("qr-dqn", "dhn", "sb3")),
    )
    """TASK/AGENT/SEED."""
    runs: Path = Path("runs/minatar")
    """Folder of the run folders."""
    steps: int | None = None
    """Environment steps; None: those of the preset."""


def configuration(task: str, agent: str, seed: int, steps: int | None) -> RunConfig[Any]:
    """Return the run of a job."""
    base = load_preset(agent, "cartpole" if task == "cartpole" else "minatar")
    env = base.env if task == "cartpole" else replace(base.env, id=GAMES[task])
    return replace(base, env=env, seed=seed, steps=steps or base.steps, device="cpu", keep_checkpoints=1)


def ours(job: str, runs: Path, steps: int | None) -> dict[str, Any]:
    """Train the policy of a job, from where it stopped if it did, and return what its last policy achieves."""
    task, agent, seed = job.split("/")
    config, folder = configuration(task, agent, int(seed), steps), runs / job.replace("/", "-")
    meta = train_to_the_end(job, folder, agent, config)
    figures = achieved(make_act(load_policy(folder).policy), config.env, config.agent.gamma)
    return {"steps": config.steps, **figures, **origin(meta)}


def achieved(act: Act, env: EnvConfig, gamma: float) -> dict[str, float]:
    """Return mean and deviation of the return, and the tail of the discounted return."""
    found = evaluate(act, env, episodes=EPISODES, seed=SEED, gamma=gamma)
    tail = float(parse(TAIL).measure(torch.from_numpy(found.discounted)))
    numbers = {"mean": found.returns.mean(), "std": found.returns.std(), "least": found.returns.min(), "tail": tail}
    return {name: round(float(number), 3) for name, number in numbers.items()}


class Channels(nn.Module):
    """MinAtar's convolution for SB3-contrib, as `ImageTorso` has it."""

    def __init__(self, space: gym.Space[Any], width: int) -> None:
        super().__init__()
        assert space.shape is not None
        self.features_dim = width
        self.layers = nn.Sequential(
            nn.Unflatten(1, (space.shape[0] // 100, 10, 10)),
            nn.Conv2d(space.shape[0] // 100, 16, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 8 * 8, width),
            nn.ReLU(),
        )

    def forward(self, obs: Tensor) -> Tensor:
        features: Tensor = self.layers(obs)
        return features


def theirs(job: str, steps: int | None) -> dict[str, Any]:
    """Train SB3-contrib's QR-DQN with the numbers of `qr-dqn/minatar`, and return what it achieves."""
    from sb3_contrib import QRDQN
    from stable_baselines3.common.vec_env import DummyVecEnv

    task, _, seed = job.split("/")
    config = configuration(task, "qr-dqn", int(seed), steps)
    agent, started = config.agent, time.perf_counter()
    envs = DummyVecEnv([lambda: make_single(config.env)] * config.env.num_envs)
    envs.seed(int(seed))
    model = QRDQN(
        "MlpPolicy",
        envs,
        learning_rate=lambda left: agent.lr * max(agent.final_lr, 1 - (1 - left) * (1 - agent.final_lr)),
        buffer_size=agent.replay_capacity,
        learning_starts=agent.learning_starts,
        batch_size=agent.batch_size,
        gamma=agent.gamma,
        train_freq=1,
        gradient_steps=int(agent.updates_per_step * config.env.num_envs),
        target_update_interval=int(agent.target_update_interval / agent.updates_per_step),
        exploration_fraction=min(1.0, agent.exploration_steps / config.steps),
        exploration_final_eps=agent.final_epsilon,
        policy_kwargs={
            "n_quantiles": agent.quantiles,
            "net_arch": [],
            "features_extractor_class": Channels,
            "features_extractor_kwargs": {"width": agent.hidden[0]},
            "optimizer_kwargs": {"eps": agent.adam_eps},
        },
        seed=int(seed),
        device="cpu",
    )
    model.learn(config.steps)
    minutes = round((time.perf_counter() - started) / 60, 2)

    def act(obs: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(model.predict(obs.numpy(), deterministic=True)[0]))

    return {"steps": config.steps, **achieved(act, config.env, agent.gamma), "minutes": minutes}


def main(options: Options) -> None:
    began = time.perf_counter()
    torch.set_num_threads(1)
    options.runs.mkdir(parents=True, exist_ok=True)
    for job in options.jobs:
        if job in results_of(NAME):
            continue
        figures = theirs(job, options.steps) if "/sb3/" in job else ours(job, options.runs, options.steps)
        seeds = {int(known.rpartition("/")[2]) for known in (*results_of(NAME), job)}
        record_job(NAME, job, figures, began=began, seeds=sorted(seeds))


if __name__ == "__main__":
    main(tyro.cli(Options))
