"""MinAtar's games (package `minatar`, extra `benchmarks`): 10 × 10 cells by channels of zeros and ones, as one vector.

Young and Tian, *MinAtar: an Atari-inspired testbed for thorough and reproducible reinforcement learning experiments*,
arXiv 1903.03176. `MinAtar/GAME-v0` has all 6 actions, `-v1` those that the game uses.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

NAMESPACE = "MinAtar/"


def register_games() -> None:
    """Let Gymnasium find the games, which it does not look for itself.

    Raises:
        ImportError: the package is missing.
    """
    try:
        from minatar.gym import register_envs  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ImportError(f'MinAtar cannot be imported ({error}): pip install "surefoot[benchmarks]"') from error
    if f"{NAMESPACE}Breakout-v1" not in gym.registry:
        register_envs()


def is_minatar(env: gym.Env) -> bool:
    """Whether a task is a game of MinAtar."""
    return env.spec is not None and env.spec.id.startswith(NAMESPACE) and len(env.observation_space.shape or ()) == 3


class FlattenedChannels(gym.ObservationWrapper[np.ndarray, Any, np.ndarray], gym.utils.RecordConstructorArgs):
    """Images (10, 10, C) of booleans as vectors (C·100,) of zeros and ones, one channel after the other.

    An episode is a function of `np_random` at its reset and of its actions: the game's own generator is seeded from it,
    and the last action, which may stick, is forgotten.
    """

    def __init__(self, env: gym.Env):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        size = int(np.prod(env.observation_space.shape or ()))
        self.observation_space = gym.spaces.Box(0.0, 1.0, (size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            self.unwrapped.np_random = gym.utils.seeding.np_random(seed)[0]
        game: Any = self.get_wrapper_attr("game")
        game.last_action = 0
        return super().reset(seed=int(self.np_random.integers(2**31)), options=options)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.moveaxis(observation, -1, 0).astype(np.float32).ravel()
