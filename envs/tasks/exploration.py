"""Tasks on which undirected exploration fails, small enough that every value is known exactly.

RiverSwim, DeepSea, the diabolical combination lock, a bandit whose gap shrinks with the rounds, forest management. All
are tabular MDPs (`tabular()`), take `horizon` steps, and declare in `value_range` the range of their sums of rewards.
docs/derivations/nora.md §9.1, §9.2, §9.3, §9.4 and §9.6.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from surefoot.envs.tasks.combination_lock import DEAD, draw_codes, hadamard, observation_width, rotated_view
from surefoot.envs.tasks.finite import FiniteEnv, Outcomes, require, sum_range
from surefoot.envs.tensor_env import State


class RiverSwim(FiniteEnv):
    """Swim right against the stream to the far bank, which pays 1 per step; resting at the near bank pays 0.005.

    Strehl and Littman 2008. Actions: 0 left, which always succeeds, 1 right.
    """

    horizon: int

    def __init__(self, num_envs: int = 1, *, states: int = 6, horizon: int = 20, **kwargs: Any):
        require("states", states, states >= 2, "at least 2")
        require("horizon", horizon, horizon >= 1, "at least 1")
        super().__init__(river_swim(states), num_envs, horizon=horizon, **kwargs)

    @property
    def value_range(self) -> tuple[Tensor, Tensor]:
        """Least and largest sum of rewards from each step on, (H,) each."""
        return sum_range(self.horizon, 0.0, 1.0, self.device)


def river_swim(states: int) -> Outcomes:
    """Return the table (1, S, 2, 3); the outcomes of right are back, stay and ahead."""
    here = torch.arange(states)
    next_state = torch.stack([here - 1, here, here + 1], -1).clamp(0, states - 1)[:, None].repeat(1, 2, 1)
    probability = torch.tensor([[1.0, 0.0, 0.0], [0.05, 0.6, 0.35]], dtype=torch.float64).repeat(states, 1, 1)
    probability[0, 1] = torch.tensor([0.0, 0.4, 0.6], dtype=torch.float64)
    probability[-1, 1] = torch.tensor([0.4, 0.6, 0.0], dtype=torch.float64)
    reward = torch.zeros_like(probability)
    reward[0, 0], reward[-1, 1] = 0.005, 1.0
    start = F.one_hot(torch.tensor(0), states).double()
    return Outcomes(start, next_state[None], probability[None], reward[None])


class DeepSea(FiniteEnv):
    """Dive N steps; only N times right reaches the treasure, +1, and each right costs 0.01/N on the way.

    Osband et al. 2019. The state is the column. Which of the two actions means right is a bit of each cell, drawn from
    `task_seed`. With `cells` the observation is one-hot of the N² cells (zero after the last step), else of the column.
    """

    horizon: int

    def __init__(self, num_envs: int = 1, *, size: int = 10, task_seed: int = 0, cells: bool = False, **kwargs: Any):
        require("size", size, size >= 1, "at least 1")
        self.size, self.cells = size, cells
        self.right = torch.randint(2, (size, size), generator=torch.Generator().manual_seed(task_seed))
        space = gym.spaces.Box(0.0, 1.0, (size * size if cells else size,), np.float32)
        super().__init__(deep_sea(self.right), num_envs, horizon=size, observation_space=space, **kwargs)

    @property
    def value_range(self) -> tuple[Tensor, Tensor]:
        """Least and largest sum of rewards of an episode, at every step, (N,) each."""
        high = torch.ones(self.size, dtype=torch.float64, device=self.device)
        return -0.01 * high, high

    def draw_state(self) -> State:
        (column,) = super().draw_state()
        return column, torch.zeros_like(column)

    def advance(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        (column,), reward, terminated = super().advance(state, action)
        return (column, state[1] + 1), reward, terminated

    def observe(self, state: State) -> Tensor:
        column, row = state
        if not self.cells:
            return F.one_hot(column, self.size).float()
        return F.one_hot(row * self.size + column, (self.size + 1) * self.size)[:, : self.size**2].float()

    def decode(self, obs: Tensor) -> Tensor:
        """Return the column (…) that observations show; after the last step, where cells show nothing, 0."""
        return obs[..., : self.size**2 if self.cells else self.size].argmax(-1) % self.size


def deep_sea(right: Tensor) -> Outcomes:
    """Return the table (N, N, 2, 1) of the actions (N, N) that mean right, by row and column."""
    size, column = len(right), torch.arange(len(right))[:, None]
    goes_right = torch.arange(2) == right[..., None]  # (N, N, 2)
    next_state = torch.where(goes_right, (column + 1).clamp(max=size - 1), (column - 1).clamp(min=0))
    reward = -0.01 / size * goes_right.double()
    reward[-1, -1] += goes_right[-1, -1]
    start = F.one_hot(torch.tensor(0), size).double()
    return Outcomes(start, next_state[..., None], torch.ones_like(reward)[..., None], reward[..., None])


class DiabolicalLock(FiniteEnv):
    """One wrong action of H shuts this lock for ever; the right code pays 1 at its end, a wrong action a bait of 0.05.

    States: 0 and 1 good, 2 dead. The good ones change places at random, and each has a code of its own, drawn from
    `code_seed`. The bait is 0.1 or 0, with equal chance. Without `noise` the state is observed one-hot; with it as
    rotated, noisy features: Hadamard/√D · (one-hot state, one-hot step, each entry with noise of that deviation).
    """

    horizon: int

    def __init__(
        self,
        num_envs: int = 1,
        *,
        horizon: int = 8,
        actions: int = 4,
        code_seed: int = 0,
        noise: float | None = None,
        **kwargs: Any,
    ):
        require("horizon", horizon, horizon >= 1, "at least 1")
        require("actions", actions, actions >= 2, "at least 2")
        require("noise", noise or 0.0, (noise or 0.0) >= 0, "at least 0, or nothing for one-hot states")
        self.noise, self.codes = noise, draw_codes(horizon, code_seed, actions)[:2].T  # (H, 2)
        width, space = observation_width(horizon), None
        if noise is not None:
            space = gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        super().__init__(lock(self.codes, actions), num_envs, horizon=horizon, observation_space=space, **kwargs)
        self._rotation = (hadamard(width) / math.sqrt(width)).to(self.device)

    @property
    def value_range(self) -> tuple[Tensor, Tensor]:
        """Least and largest sum of rewards from each step on, (H,) each."""
        high = torch.ones(self.horizon, dtype=torch.float64, device=self.device)
        return torch.zeros_like(high), high

    def draw_state(self) -> State:
        (latent,) = super().draw_state()
        return latent, torch.zeros_like(latent), self._draw_noise()

    def advance(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        (latent,), reward, terminated = super().advance(state, action)
        return (latent, state[1] + 1, self._draw_noise()), reward, terminated

    def observe(self, state: State) -> Tensor:
        if self.noise is None:
            return super().observe(state)
        return rotated_view(state, self._rotation)

    def decode(self, obs: Tensor) -> Tensor:
        """Return the state (…) that observations show; noisy ones by the largest of its coordinates rotated back."""
        return super().decode(obs if self.noise is None else obs[..., : len(self._rotation)] @ self._rotation)

    def _draw_noise(self) -> Tensor:
        """Noise (N, H + 3) of this visit's observation; it is part of the state, so that `observe` draws nothing."""
        if self.noise is None:
            return torch.zeros(self.num_envs, 0, device=self.device)
        shape = (self.num_envs, self.horizon + 3)
        return self.noise * torch.randn(shape, generator=self.generator, device=self.device)


def lock(codes: Tensor, actions: int) -> Outcomes:
    """Return the table (H, 3, A, 2) of code words (H, 2): which good state follows, or which bait is paid."""
    horizon = len(codes)
    right = F.pad(F.one_hot(codes, actions).bool(), (0, 0, 0, 1))  # (H, 3, A); dead has none
    next_state = torch.where(right[..., None], torch.arange(2), DEAD)
    reward = torch.zeros(horizon, 3, actions, 2, dtype=torch.float64)
    reward[:, :2, :, 0] = 0.1
    reward[right] = 0.0
    reward[-1, right[-1]] = 1.0
    start = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    return Outcomes(start, next_state, torch.full_like(reward, 0.5), reward)


class GapBandit(FiniteEnv):
    """One step, A arms that pay 1 with chance 1/2, the last with `gap` more; no gap: √(A/rounds), the hardest one."""

    horizon: int

    def __init__(
        self, num_envs: int = 1, *, actions: int = 8, gap: float | None = None, rounds: int = 1000, **kwargs: Any
    ):
        require("actions", actions, actions >= 2, "at least 2")
        require("rounds", rounds, rounds >= 1, "at least 1")
        self.gap = math.sqrt(actions / rounds) if gap is None else gap
        require("gap", self.gap, 0 <= self.gap <= 0.5, "in [0, 0.5] (without a gap it is √(actions/rounds))")
        super().__init__(gap_bandit(actions, self.gap), num_envs, horizon=1, **kwargs)

    @property
    def value_range(self) -> tuple[Tensor, Tensor]:
        """Least and largest reward, (1,) each."""
        return sum_range(1, 0.0, 1.0, self.device)


def gap_bandit(actions: int, gap: float) -> Outcomes:
    """Return the table (1, 1, A, 2) of arms that pay 0 or 1."""
    wins = torch.full((1, 1, actions), 0.5, dtype=torch.float64)
    wins[..., -1] += gap
    probability = torch.stack([1 - wins, wins], -1)
    next_state = torch.zeros_like(probability).long()
    return Outcomes(torch.ones(1).double(), next_state, probability, torch.arange(2.0).double().expand_as(probability))


class Forest(FiniteEnv):
    """Let a forest grow (0) or cut it (1): an old one pays 4 per step to keep, 2 to cut; a fire makes it age 0 again.

    Chades et al. 2014, as in Tan and Xu, arXiv 2403.09701. The first age is uniform.
    """

    horizon: int

    def __init__(self, num_envs: int = 1, *, states: int = 4, fire: float = 0.1, horizon: int = 20, **kwargs: Any):
        require("states", states, states >= 2, "at least 2")
        require("fire", fire, 0 <= fire <= 1, "in [0, 1]")
        require("horizon", horizon, horizon >= 1, "at least 1")
        super().__init__(forest(states, fire), num_envs, horizon=horizon, **kwargs)

    @property
    def value_range(self) -> tuple[Tensor, Tensor]:
        """Least and largest sum of rewards from each step on, (H,) each."""
        return sum_range(self.horizon, 0.0, 4.0, self.device)


def forest(states: int, fire: float) -> Outcomes:
    """Return the table (1, S, 2, 2); the outcomes are back to age 0, and a year older."""
    next_state = torch.zeros(1, states, 2, 2, dtype=torch.int64)
    next_state[0, :, 0, 1] = torch.arange(1, states + 1).clamp(max=states - 1)
    probability = torch.tensor([[fire, 1 - fire], [1.0, 0.0]], dtype=torch.float64).repeat(1, states, 1, 1)
    reward = torch.zeros_like(probability)
    reward[0, 1:, 1], reward[0, -1, 0], reward[0, -1, 1] = 1.0, 4.0, 2.0
    return Outcomes(torch.full((states,), 1 / states, dtype=torch.float64), next_state, probability, reward)
