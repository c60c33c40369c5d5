"""A task whose returns can be worked out by hand, and run folders with policies that were never trained."""

import csv
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from surefoot import agents
from surefoot.agents.interface import Spaces
from surefoot.agents.sac import SACConfig
from surefoot.envs import EnvConfig, spaces_of
from surefoot.training import run_folder
from surefoot.training.config import RunConfig


class Scripted(gym.Env):
    """Reset with seed s: s % 3 + 2 steps, step t pays s + action. A reset without a seed starts a trap of one step."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, endless=False):
        self.endless = endless

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.pay, self.left = (1e6, 1) if seed is None else (seed, seed % 3 + 2)
        return self._obs(), {}

    def step(self, action):
        self.left -= 1
        ended = self.left == 0 and not self.endless
        return self._obs(), self.pay + float(action[0]), ended and self.pay % 2 == 0, ended and self.pay % 2 == 1, {}

    def _obs(self):
        return np.array([self.pay, self.left], np.float32)


gym.register("ScriptedReturns-v0", Scripted)
PENDULUM = EnvConfig("Pendulum-v1")


@pytest.fixture
def make_run(tmp_path):
    """Return a function that writes a run folder of SAC on a task; the seed decides its (random) policy and curve."""

    def make(name, seed=0, env=PENDULUM, **changes):
        config = RunConfig(replace(SACConfig(hidden=(8,)), **changes), env, seed=seed)
        spec, folder = agents.get("sac"), tmp_path / name
        run_folder.create(folder, "sac", config, None)
        spaces = Spaces(*spaces_of(env))
        policy = spec.make_policy(config.agent, spaces)
        generator = np.random.default_rng(seed)
        for value in policy.state_dict().values():
            value.copy_(value.new_tensor(generator.normal(size=tuple(value.shape)).astype(np.float32)))
        path = run_folder.checkpoint_path(folder, "policy", 100)
        run_folder.save_policy(path, "sac", config, spaces, 100, policy)
        write_curve(folder, [100, 200], lambda step: step + 10.0 * seed)
        return folder

    return make


def write_curve(folder, steps, value):
    """Write evaluations.csv with two episodes an evaluation, 1 above and 1 below the value, and metrics.csv."""
    with (folder / "evaluations.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "env_steps", "updates", "episode", "episode_return", "length", "score"])
        rows.writerows([s, s, s, i, value(s) + 2 * i - 1, 200, ""] for s in steps for i in range(2))
    with (folder / "metrics.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "critic_loss"])
        rows.writerows([s, value(s) / 100] for s in steps)
