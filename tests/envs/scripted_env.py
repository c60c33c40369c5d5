"""A task whose every number is known: odd episodes terminate at step 3, even ones are truncated at step 2."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np


class Scripted(gym.Env):
    """Observation [episode, step] (both from 0 and 1), reward = step + 10 * action."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}
    episode = 0

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def render(self):
        return np.full((1, 1, 3), self.steps, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action):
        self.steps += 1
        terminated = self.episode % 2 == 1 and self.steps == 3
        truncated = self.episode % 2 == 0 and self.steps == 2
        return self._obs(), float(self.steps + 10 * action[0]), terminated, truncated, {}

    def _obs(self):
        return np.array([self.episode, self.steps], np.float32)


if "Scripted-v0" not in gym.registry:
    gym.register("Scripted-v0", Scripted)
