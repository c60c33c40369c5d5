"""Tasks that exist for their spaces: what they show is drawn from the space, what they take must be of it."""

from copy import deepcopy

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Sequence, Text, Tuple

VECTOR = Box(-1.0, 1.0, (2,), np.float32)
NESTED = Dict({"goal": Tuple([Discrete(3), MultiBinary(2)]), "arm": VECTOR, "camera": Box(0, 255, (2, 2, 3), np.uint8)})
OBSERVATIONS = {
    "Vector": VECTOR,
    "Bytes": Box(0, 255, (3,), np.uint8),
    "Image": Box(0, 255, (4, 4, 3), np.uint8),
    "Scalar": Box(0.0, 1.0, (), np.float64),
    "Nested": NESTED,
    "Cell": Discrete(4, start=1),
    "Cells": MultiDiscrete([3, 2]),
    "Switches": MultiBinary(3),
    "Words": Text(5),
    "Graph": Graph(VECTOR, None),
    "Many": Sequence(VECTOR),
}
ACTIONS = {
    "Force": Box(-2.0, 2.0, (1,), np.float32),
    "Matrix": Box(-2.0, 2.0, (2, 3), np.float64),
    "Parts": Dict({"turn": Box(-1.0, 1.0, (1,), np.float32), "push": Box(0.0, 9.0, (2,), np.float32)}),
    "Unbounded": Box(-np.inf, np.inf, (2,), np.float32),
    "Positive": Box(0.0, np.inf, (1,), np.float32),
    "Huge": Box(-1e10, 1e10, (1,), np.float64),
    "Number": Discrete(3, start=2),
    "Numbers": MultiDiscrete([3, 2], start=[0, 1]),
    "Buttons": MultiBinary(2),
    "TooMany": MultiDiscrete([50, 50]),
    "Hybrid": Tuple([Discrete(2), VECTOR]),
    "Letters": Text(3),
}


class Shows(gym.Env):
    """Four steps of draws from the observation space, from the task's own generator; every action earns 1."""

    def __init__(self, observation: str = "Vector", action: str = "Force", render_mode: str | None = None):
        self.observation_space, self.action_space = deepcopy(OBSERVATIONS[observation]), deepcopy(ACTIONS[action])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), (self.action_space, action)
        return self.observation_space.sample(), 1.0, False, False, {}


if "Shows-v0" not in gym.registry:
    gym.register("Shows-v0", Shows, max_episode_steps=4)
