"""The worlds of a box of parameters as numbers in [−1, 1], and transitions that say which world each was made in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.agents.interface import Batch, UncertainEnv
from surefoot.agents.parts.replay import Ring


class WorldBatch(NamedTuple):
    """As `Batch`, and the parameters that were in force in the step."""

    obs: Tensor  # (B, obs)
    action: Tensor  # (B, act)
    reward: Tensor  # (B,)
    next_obs: Tensor  # (B, obs)
    terminated: Tensor  # (B,)
    world: Tensor  # (B, d), in [-1, 1]

    @property
    def transitions(self) -> Batch:
        return Batch(*self[:5])


class Box:
    """The map between parameters (…, d) and [−1, 1]^d."""

    def __init__(self, env: UncertainEnv) -> None:
        self.low, self.high = env.low, env.high

    @property
    def dims(self) -> int:
        return len(self.low)

    def params(self, world: Tensor) -> Tensor:
        """Return low + (x + 1)(high − low)/2 of x in [−1, 1]."""
        return self.low + (world + 1) * (self.high - self.low) / 2

    def world(self, params: Tensor) -> Tensor:
        """Return what `params` maps to these, float32."""
        return (2 * (params - self.low) / (self.high - self.low) - 1).float()


def world_replay(
    capacity: int, dims: tuple[int, int, int], generator: torch.Generator, device: torch.device
) -> Ring[WorldBatch]:
    """Return an empty replay for transitions with worlds; `dims` are those of observation, action and world."""
    obs_dim, action_dim, world_dim = dims
    return Ring(WorldBatch, [obs_dim, action_dim, None, obs_dim, None, world_dim], capacity, generator, device)
