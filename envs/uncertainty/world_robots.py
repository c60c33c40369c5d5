"""Worlds of MuJoCo Warp behind a queue of episodes: those that begin at the same time begin together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from surefoot.envs.config import EnvConfig
from surefoot.envs.make import episode_limit, make_single
from surefoot.envs.parameters import UncertaintySet
from surefoot.envs.uncertainty.robots import Moved
from surefoot.envs.warp.worlds import Worlds


class WorldRobots:
    """`num_envs` worlds; all are stepped together, also those whose episodes are over.

    Raises:
        ValueError: as `Worlds`.
    """

    def __init__(
        self, config: EnvConfig, uncertainty: UncertaintySet, num_envs: int, device: str | torch.device = "cpu"
    ):
        env = make_single(replace(config, physics=replace(config.physics, parameters=())))
        self.worlds = Worlds(env, config, uncertainty, num_envs, device, episode_limit(config))
        assert self.worlds.rows.parameters is not None  # there is a set
        self.spaces, self.parameters = self.worlds.spaces, self.worlds.rows.parameters
        self._actions = torch.zeros((num_envs, *(self.spaces[1].shape or ())), device=self.worlds.device)

    def begin(self, indices: np.ndarray, values: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
        obs: np.ndarray = self.worlds.begin(indices, values, seeds).numpy(force=True)
        begun: np.ndarray = obs[indices]
        return begun

    def advance(self, indices: np.ndarray, actions: np.ndarray) -> Moved:
        busy = np.zeros(len(self._actions), bool)
        busy[indices] = True
        self._actions.zero_()
        self._actions[torch.from_numpy(indices)] = torch.from_numpy(actions).to(self._actions)
        moved = self.worlds.advance(self._actions, busy)
        obs, reward, *flags = (column.numpy(force=True)[indices] for column in moved[:5])
        return Moved(obs, reward.astype(np.float64), *flags)

    def close(self) -> None:
        """Nothing is held open."""
