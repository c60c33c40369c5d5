"""Actions that are held for several steps of a task."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym


class ActionRepeat(gym.Wrapper):
    """Every action for `repeats` steps of the task, fewer where the episode ends before; the reward is their sum.

    Observation, flags and info are those of the last of these steps, so a time limit inside counts the task's own.
    """

    def __init__(self, env: gym.Env, repeats: int):
        super().__init__(env)
        self.repeats = repeats

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self.repeats):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info


def repeats_of(env: gym.Env) -> int:
    """Return for how many steps of a task an action of an environment is held."""
    count = 1
    while isinstance(env, gym.Wrapper):
        count *= env.repeats if isinstance(env, ActionRepeat) else 1
        env = env.env
    return count
