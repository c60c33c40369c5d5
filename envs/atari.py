"""Atari games as every agent here sees a task: one vector of numbers, actions by number (extra `atari`)."""

from __future__ import annotations

import gymnasium as gym
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, ReshapeObservation

SIDE, FRAMES = 84, 4


def is_atari(env: gym.Env) -> bool:
    """Whether a task is one of the Arcade Learning Environment that shows its screen."""
    return env.spec is not None and env.spec.namespace == "ALE" and len(env.observation_space.shape or ()) == 3


def flattened_frames(env: gym.Env) -> gym.Env:
    """Return the game as DQN sees it: 4 frames of 84 x 84 greys, flattened, of which the actions skip three.

    The loss of a life is no end of an episode: a stock that continues would not be what the bootstrap takes it for.

    Raises:
        ValueError: a game that skips frames itself.
        ImportError: OpenCV is missing.
    """
    if env.spec is not None and env.spec.kwargs.get("frameskip") != 1:
        raise ValueError(f"{env.spec.id} skips frames itself; add --env.kwargs frameskip 1")
    try:
        grey = AtariPreprocessing(env, frame_skip=4, screen_size=SIDE, terminal_on_life_loss=False)
    except gym.error.DependencyNotInstalled as error:
        raise ImportError('Atari games need OpenCV: pip install "surefoot[atari]"') from error
    return ReshapeObservation(FrameStackObservation(grey, FRAMES), (FRAMES * SIDE * SIDE,))
