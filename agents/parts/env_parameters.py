"""Environment parameters scaled to [−1, 1], and transitions with the parameters of their step.

docs/derivations/iwocs.md eq. (8.5).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.agents.interface import Batch, UncertainEnv
from surefoot.agents.parts.replay import Ring


class BatchWithParameters(NamedTuple):
    """As `Batch`, and the parameters that were in force in the step."""

    obs: Tensor  # (B, obs)
    action: Tensor  # (B, act)
    reward: Tensor  # (B,)
    next_obs: Tensor  # (B, obs)
    terminated: Tensor  # (B,)
    parameters: Tensor  # (B, d), in [-1, 1]

    @property
    def transitions(self) -> Batch:
        return Batch(*self[:5])


class ParameterScaling:
    """The map between parameters (…, d) and [−1, 1]^d."""

    def __init__(self, env: UncertainEnv) -> None:
        self.low, self.high = env.low, env.high

    @property
    def dims(self) -> int:
        return len(self.low)

    def params(self, scaled: Tensor) -> Tensor:
        """Return low + (x + 1)(high − low)/2 of x in [−1, 1]."""
        return self.low + (scaled + 1) * (self.high - self.low) / 2

    def scaled(self, params: Tensor) -> Tensor:
        """Return the inverse, float32."""
        return (2 * (params - self.low) / (self.high - self.low) - 1).float()


def replay_with_parameters(
    capacity: int, dims: tuple[int, int, int], generator: torch.Generator, device: torch.device
) -> Ring[BatchWithParameters]:
    """Return an empty replay for transitions with parameters; `dims`: observation, action and parameters."""
    obs_dim, action_dim, parameter_dim = dims
    return Ring(
        BatchWithParameters, [obs_dim, action_dim, None, obs_dim, None, parameter_dim], capacity, generator, device
    )
