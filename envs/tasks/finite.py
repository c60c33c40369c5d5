"""A finite MDP as N environments: every outcome of every action is in a table, and a step draws one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from surefoot.envs.tensor_env import State, TensorEnv


class Outcomes(NamedTuple):
    """What can follow every action; the first axis is the step, of length H, or 1 where every step is alike."""

    start: Tensor  # (S,) probabilities
    next_state: Tensor  # (H or 1, S, A, K) int64
    probability: Tensor  # (H or 1, S, A, K)
    reward: Tensor  # (H or 1, S, A, K)


class Trajectories(NamedTuple):
    """One episode of every environment; `reward` is float64."""

    state: Tensor  # (H + 1, N)
    action: Tensor  # (H, N)
    reward: Tensor  # (H, N)


class FiniteEnv(TensorEnv):
    """The environment of a table of `Outcomes` (float64). The state is an index; a subclass may `observe` more.

    With a horizon every episode has that many steps and is truncated there; a table that differs by step needs one.
    An episode terminates on entering a state that is marked `terminal` (S,). Observations are one-hot, (N, S).

    `parts` are rewards beside the reward, by name, tables as that of the reward: each is in the info of a step, (N,).
    """

    def __init__(
        self,
        outcomes: Outcomes,
        num_envs: int = 1,
        *,
        horizon: int | None = None,
        terminal: Tensor | None = None,
        parts: Mapping[str, Tensor] | None = None,
        observation_space: gym.Space[Any] | None = None,
        **kwargs: Any,
    ):
        steps, states, actions, self._outcomes = outcomes.reward.shape
        if steps > 1 and steps != horizon:
            raise ValueError(f"the table has {steps} steps, the horizon is {horizon}; they must agree")
        space = observation_space or gym.spaces.Box(0.0, 1.0, (states,), np.float32)
        limit = min(filter(None, (horizon, kwargs.pop("max_episode_steps", None))), default=None)
        super().__init__(space, gym.spaces.Discrete(actions), num_envs, max_episode_steps=limit, **kwargs)
        self.horizon = horizon
        self.outcomes = Outcomes(*(field.to(self.device) for field in outcomes))
        self._start = _cumulative(self.outcomes.start)
        self._chances = _cumulative(self.outcomes.probability).flatten(0, 2)  # (H·S·A, K)
        self._next_state, self._reward = (field.flatten() for field in self.outcomes[1:4:2])
        self.parts = {name: table.to(self.device) for name, table in (parts or {}).items()}
        self._terminal = torch.zeros(states, dtype=torch.bool) if terminal is None else terminal
        self._terminal = self._terminal.to(self.device)
        if self._terminal.shape != (states,) or self._terminal.dtype != torch.bool:
            raise ValueError(f"terminal must be {states} booleans, one a state, not {tuple(self._terminal.shape)}")
        if (starts := (self.outcomes.start > 0) & self._terminal).any():
            raise ValueError(f"state {int(starts.int().argmax())} is terminal, but an episode can start in it")

    def tabular(self) -> Outcomes:
        """Return the tabular MDP, from which exact values are computed; a terminal state stays, and pays nothing."""
        return absorbing(self.outcomes, self._terminal)

    def vector_tabular(self) -> Outcomes:
        """Return the tabular MDP with the vector of `parts` as the reward, (H or 1, S, A, K, m)."""
        tables = (absorbing(self.outcomes._replace(reward=part), self._terminal) for part in self.parts.values())
        return self.tabular()._replace(reward=torch.stack([table.reward for table in tables], -1))

    def state_index(self, state: State) -> Tensor:
        """Return the index (N,) of each environment's state."""
        return state[0]

    def decode(self, obs: Tensor) -> Tensor:
        """Return the index (…) of the state that one-hot observations (…, S or more) show."""
        return obs[..., : len(self.outcomes.start)].argmax(-1)

    @property
    def state(self) -> Tensor:
        """The index (N,) of the state each environment is in now."""
        return self.state_index(self._state)

    def draw_state(self) -> State:
        return (self._draw(self._start.expand(self.num_envs, -1)),)

    def advance(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        steps, states, actions, outcomes = self.outcomes.reward.shape
        step = self._elapsed_steps if steps > 1 else torch.zeros_like(self._elapsed_steps)
        row = (step * states + state[0]) * actions + action
        cell = row * outcomes + self._draw(self._chances[row])
        successor = self._next_state[cell]
        if self.parts:
            self.extra_info = {name: part.flatten()[cell].float() for name, part in self.parts.items()}
        return (successor,), self._reward[cell].float(), self._terminal[successor]

    def observe(self, state: State) -> Tensor:
        return F.one_hot(state[0], len(self.outcomes.start)).float()

    def play(self, policy: Tensor) -> Trajectories:
        """Play one whole episode in every environment i, by the policy (H, S, A) in row i of `policy` (N, H, S, A).

        The same distribution as that many steps, from other random numbers and without observations. The environments
        stay where they are. Raises `ValueError` where episodes do not all take H steps.
        """
        horizon = self.horizon
        if horizon is None or horizon != self._limit or self._terminal.any():
            raise ValueError(f"only episodes that all take the task's {horizon} steps can be played at once")
        states, actions = policy.shape[2:]
        chances = policy.movedim(-1, 0).cumsum(0)[:-1].movedim(2, 0).flatten(2).transpose(1, 2)  # (H, N·S, A − 1)
        uniform = self._uniform(2 * horizon + 1)  # (2H + 1, N, 1)
        steps, first = len(self.outcomes.reward), states * torch.arange(self.num_envs, device=self.device)
        visited, rows, cells = [(uniform[-1] >= self._start).sum(-1)], [], []
        for h in range(horizon):
            action = (uniform[h] >= chances[h].index_select(0, first + visited[h])).sum(-1)
            rows.append(visited[h] * actions + action)
            cell = rows[h] + h % steps * states * actions
            if self._outcomes > 1:
                drawn = uniform[horizon + h] >= self._chances.index_select(0, cell)
                cell = cell * self._outcomes + drawn.sum(-1)
            cells.append(cell)
            visited.append(self._next_state.index_select(0, cell))
        return Trajectories(torch.stack(visited), torch.stack(rows) % actions, self._reward[torch.stack(cells)])

    def _draw(self, cumulative: Tensor) -> Tensor:
        """Return the index (N,) drawn from each row of cumulative probabilities (N, K)."""
        return (self._uniform(1)[0] >= cumulative).sum(-1)

    def _uniform(self, draws: int) -> Tensor:
        """Return (draws, N, 1) uniform numbers."""
        shape = (draws, self.num_envs, 1)
        return torch.rand(shape, generator=self.generator, device=self.device, dtype=torch.float64)


def absorbing(outcomes: Outcomes, terminal: Tensor) -> Outcomes:
    """Return the table in which `terminal` states (S,) lead to themselves and pay nothing, whatever their rows say."""
    if not terminal.any():
        return outcomes
    place, itself = terminal[:, None, None], torch.arange(len(terminal), device=terminal.device)[:, None, None]
    return outcomes._replace(
        next_state=torch.where(place, itself, outcomes.next_state), reward=outcomes.reward.masked_fill(place, 0.0)
    )


def sum_range(horizon: int, low: float, high: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the least and the largest sum of rewards from each step on, (H,) each, of rewards in [low, high]."""
    left = torch.arange(horizon, 0, -1, dtype=torch.float64, device=device)
    return low * left, high * left


def require(name: str, value: float, holds: bool, requirement: str) -> None:
    """Raise `ValueError` for a keyword argument of a task that is out of its range."""
    if not holds:
        raise ValueError(f"--env.kwargs {name} must be {requirement}, got {value}")


def _cumulative(probability: Tensor) -> Tensor:
    """Return cumulative sums that end in exactly 1: a draw never falls past the last possible outcome."""
    total = probability.cumsum(-1)
    return total / total[..., -1:]
