"""A tiny task and tiny data, so that an update takes a millisecond."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import torch

from surefoot.agents.interface import Batch, Setting, Spaces
from surefoot.envs.termination import never

OBS, ACT = 3, 2


class DriftEnv:
    """Environments of s' = s + 0.1·(a, 0); every seventh step ends an episode, by a time-out."""

    def __init__(self, num_envs: int = 1, device: str | torch.device = "cpu") -> None:
        self.num_envs, self.device = num_envs, device
        self.single_observation_space, self.single_action_space = make_spaces()
        self.state, self.elapsed = torch.zeros(num_envs, OBS, device=device), 0

    def reset(self, *, seed=None):
        self.state, self.elapsed = torch.zeros(self.num_envs, OBS, device=self.device), 0
        return self.state, {}

    def step(self, actions):
        final = self.state + 0.1 * torch.nn.functional.pad(actions, (0, OBS - ACT))
        self.elapsed += 1
        truncated = torch.full((self.num_envs,), self.elapsed % 7 == 0, device=self.device)
        self.state = torch.where(truncated[:, None], 0.0, final)
        terminated = torch.zeros_like(truncated)
        return self.state, -final.square().sum(-1), terminated, truncated, {"final_obs": final}

    def state_dict(self):
        return {"state": self.state, "elapsed": self.elapsed}

    def load_state_dict(self, state):
        self.state, self.elapsed = state["state"], state["elapsed"]

    def close(self):
        pass


class Data(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.obs)


def make_spaces() -> Spaces:
    return Spaces(gym.spaces.Box(-np.inf, np.inf, (OBS,), np.float32), gym.spaces.Box(-1.0, 1.0, (ACT,), np.float32))


def make_batch(rows: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    obs, next_obs = torch.randn(2, rows, OBS, generator=generator)
    action = torch.rand(rows, ACT, generator=generator) * 2 - 1
    reward = torch.randn(rows, generator=generator)
    terminated = (torch.rand(rows, generator=generator) < 0.3).float()
    return Batch(obs, action, reward, next_obs, terminated)


def make_data(rows: int = 64, seed: int = 0) -> Data:
    return Data(**make_batch(rows, seed)._asdict())


def make_setting(seed: int = 0, *, num_envs: int = 1, data: Data | None = None) -> Setting:
    device = torch.device("cpu")
    env = DriftEnv(num_envs)
    return Setting(make_spaces(), seed, device, env=env, data=data or make_data(), termination=never)


def small(config, **changes):
    """A config with small networks and an early start, whichever of these fields it has."""
    wanted = {
        "hidden": (8, 8),
        "classifier_hidden": (8, 8),
        "rollout_steps": 1,
        "learning_starts": 4,
        "random_steps": 2,
    }
    wanted |= {"batch_size": 8, "real_batch_size": 4, "sim_batch_size": 6, "classifier_batch_size": 5}
    wanted |= {"model_hidden": (8, 8), "model_decay": (0.0, 0.0, 0.0), "model_epochs": 2, "rollout_starts": 16}
    wanted |= {"ensemble_size": 2, "elites": 1, "real_ratio": 0.25}
    has = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **({k: v for k, v in wanted.items() if k in has} | changes))
