"""Gymnasium's Pendulum-v1 for N copies at a time: the pattern for batched tensor tasks (see `tensor_env.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.envs.tensor_env import State, TensorEnv

MAX_SPEED, MAX_TORQUE, DT, GRAVITY, MASS, LENGTH = 8.0, 2.0, 0.05, 10.0, 1.0, 1.0


class Arithmetic(NamedTuple):
    """The three functions whose last bit depends on the library."""

    sin: Callable[[Tensor], Tensor]
    cos: Callable[[Tensor], Tensor]
    square: Callable[[Tensor], Tensor]


TORCH = Arithmetic(torch.sin, torch.cos, torch.square)
# What Gymnasium calls: NumPy's ufuncs, and `**` of NumPy *scalars*, which is libm's pow. torch.sin differs from np.sin
# in one number of 700, x*x from pow(x, 2) in one of 1000. Slow, and therefore only for double precision on a CPU.
NUMPY = Arithmetic(
    lambda x: torch.from_numpy(np.sin(x.numpy())),
    lambda x: torch.from_numpy(np.cos(x.numpy())),
    lambda x: torch.from_numpy(np.array([value**2 for value in x.numpy()])),
)


class Pendulum(TensorEnv):
    """State: angle (0 is upright) and angular velocity, both (N,). Actions (N, 1) in [-1, 1] are torque / 2.
    Motion and reward: docs/derivations/h2o.md eq. (8.3).

    In float64 on a CPU, observations before rounding and rewards equal those of Pendulum-v1 to the last bit, given the
    same state and actions of the same dtype. Mass and length can be set, one value per environment
    (`uncertainty.Uncertain`).
    """

    physics_factors = ("gravity",)
    param_names = ("mass", "length")
    low, high, nominal = np.array([0.5, 0.7]), np.array([1.5, 1.3]), np.array([MASS, LENGTH])

    def __init__(self, num_envs: int = 1, *, dtype: torch.dtype = torch.float32, **kwargs: Any):
        numpy_dtype: Any = np.float64 if dtype == torch.float64 else np.float32
        high = np.array([1.0, 1.0, MAX_SPEED], numpy_dtype)
        super().__init__(
            gym.spaces.Box(-high, high, dtype=numpy_dtype), gym.spaces.Box(-1.0, 1.0, (1,)), num_envs, **kwargs
        )
        self.dtype = dtype
        self.math = NUMPY if dtype == torch.float64 and self.device.type == "cpu" else TORCH
        self.gravity = GRAVITY * self.physics.gravity
        self.mass: float | Tensor = MASS
        self.length: float | Tensor = LENGTH

    def set_params(self, values: Tensor) -> None:
        """Give every environment its mass and length, (N, 2), until the next call; they belong to no saved state."""
        self.mass, self.length = values.to(self.device, self.dtype).unbind(-1)

    def draw_state(self) -> State:
        """Angle uniform in [-π, π], velocity in [-1, 1]."""
        unit = torch.rand(2, self.num_envs, generator=self.generator, device=self.device, dtype=self.dtype)
        return (2 * unit[0] - 1) * math.pi, 2 * unit[1] - 1

    def advance(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        angle, speed = state
        torque = (MAX_TORQUE * action[:, 0]).clamp(-MAX_TORQUE, MAX_TORQUE)
        wrapped = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        cost = self.math.square(wrapped) + 0.1 * self.math.square(speed) + 0.001 * self.math.square(torque)
        push = 3 * self.gravity / (2 * self.length) * self.math.sin(angle)
        push = push + 3.0 / (self.mass * self.length**2) * torque
        speed = (speed + push * DT).clamp(-MAX_SPEED, MAX_SPEED)
        never = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        return (angle + speed * DT, speed), -cost, never

    def observe(self, state: State) -> Tensor:
        angle, speed = state
        return torch.stack([self.math.cos(angle), self.math.sin(angle), speed], dim=-1)
