"""Tiny tasks with parameters, and a setting to train in them."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import torch
from tiny import ACT, OBS, make_setting, make_spaces

LOW, HIGH, NOMINAL = torch.tensor([0.0]).double(), torch.tensor([10.0]).double(), np.array([4.0])


class Payoff:
    """Environments of one-step episodes that pay r(a, w), w in [−1, 1] for parameters from 0 to 10;
    `agents.UncertainEnv`.

    `limit`: episodes last so many steps, in each of which the first of `ACT` actions pays; the environments keep the
    parameters of all steps in `steps`, those of all episodes in `episodes`.
    """

    episode_limit = 1

    def __init__(self, payoff, num_envs: int = 1, limit: int = 1) -> None:
        self.payoff, self.num_envs, self.limit = payoff, num_envs, limit
        self.single_observation_space, self.single_action_space = make_spaces()
        self.low, self.high = LOW, HIGH
        self.params = self.staged = torch.full((num_envs, 1), 7.0).double()
        self.elapsed, self.steps, self.episodes = 0, [], []

    def set_params(self, values, *, now=False):
        self.staged = values.double().expand(self.num_envs, 1).clone()
        if now:
            self.params = self.staged

    def reset(self, *, seed=None):
        self.params, self.elapsed = self.staged, 0
        self.episodes.append(self.params)
        return torch.zeros(self.num_envs, OBS), {}

    def step(self, actions):
        self.steps.append(self.params)
        w = (self.params[:, 0] / 5 - 1).float()
        reward, obs = self.payoff(actions[:, 0], w), torch.zeros(self.num_envs, OBS)
        self.elapsed += 1
        ended = torch.full((self.num_envs,), self.elapsed >= self.limit)
        if ended.all():
            self.reset()
        return obs, reward, ended, torch.zeros_like(ended), {"final_obs": obs}

    def state_dict(self):
        return {"params": self.params, "staged": self.staged, "elapsed": self.elapsed}

    def load_state_dict(self, state):
        self.params, self.staged, self.elapsed = state["params"], state["staged"], state["elapsed"]

    def close(self):
        pass


def make_uncertain(env, seed: int = 0):
    """A setting with `env` and its uncertainty set."""
    perturbed_envs = SimpleNamespace(low=LOW.numpy(), high=HIGH.numpy(), nominal=NOMINAL)
    return dataclasses.replace(make_setting(seed), env=env, perturbed_envs=perturbed_envs)


__all__ = ["ACT", "HIGH", "LOW", "NOMINAL", "OBS", "Payoff", "make_uncertain"]
