"""What is deployed of DηN: greedy for an objective, from a stock that the outer search chose.

docs/derivations/distributional.md §7.2 and §7.7.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor, nn

from surefoot.agents.distributional.dhn.equations import (
    DHNConfig,
    beside,
    clamped,
    elapsed_scale,
    law_of,
    scores,
)
from surefoot.agents.distributional.dhn.network import QuantileNetwork
from surefoot.agents.distributional.objectives import next_stock
from surefoot.agents.distributional.vector import Vector
from surefoot.agents.distributional.vectors import AnyObjective, VectorObjective, parse_any
from surefoot.agents.interface import Spaces
from surefoot.agents.parts.on_policy import require_time_aware
from surefoot.agents.parts.random import make_generator

Stock = float | tuple[float, ...]  # of several rewards one for each

STARTS = 64  # start states over which the outer search takes its mean


GRID = 401  # stocks at which the outer search looks (at least 201, §7.7)


class QuantilePolicy(nn.Module):
    """Greedy for an objective: the network, what it was trained for, and the search for a stock to start with."""

    def __init__(self, config: DHNConfig, spaces: Spaces, generator: torch.Generator) -> None:
        super().__init__()
        obs_dim, actions, self.first = dims(spaces)
        if config.horizon is not None:
            require_time_aware(spaces)
        self.config = config
        self.objective = parse_any(config.objective)
        self.net = QuantileNetwork(obs_dim, actions, config, generator)

    def greedy(self, obs: Tensor, stock: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best actions (B,), counted from 0, and the network's outputs (B, N) at clamped stocks (B,)."""
        head = self.net(obs, stock)
        law, z = law_of(head, self.config), elapsed_scale(obs, self.config)
        action = scores(law, stock, self.objective, z).argmax(-1)
        return action, chosen(head, action)

    def act(self, obs: Tensor, *, explore: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Return the first actions (N,) of episodes that start in obs (N, obs); `stateful` continues with them."""
        return self.stateful(explore=explore, generator=generator)(obs)

    @torch.no_grad()
    def choose(self, obs: Tensor, stock: Tensor, epsilon: float, generator: torch.Generator | None) -> Tensor:
        """Return actions (N,), counted from 0: ε-greedy for the trained objective."""
        greedy, _ = self.greedy(obs, stock)
        if epsilon == 0:
            return greedy
        anything = torch.randint(self.net.actions, greedy.shape, generator=generator, device=greedy.device)
        explores = torch.rand(greedy.shape, generator=generator, device=greedy.device) < epsilon
        return torch.where(explores, anything, greedy)

    @torch.no_grad()
    def outer(self, obs: Tensor, objective: AnyObjective | None = None) -> Outer:
        """Return the initial stock, one for all start states (S, obs), and its predicted value: eq. (7.14)."""
        objective = objective or self.objective
        low, high = self.config.stock_range if self.config.stock else (0.0, 0.0)
        if objective.stock is None:
            grid = torch.linspace(low, high, GRID, device=obs.device)
        else:
            grid = torch.tensor([plain_stock(objective.stock)], device=obs.device)
        states, counts = obs[:STARTS].unique(dim=0, return_counts=True)
        at_each = [self.expected_utility(state.expand(len(grid), -1), grid, objective) for state in states]
        predicted = objective.pooled(grid, torch.stack(at_each), counts / counts.sum())
        best = predicted.argmin() if objective.outer == "min" else predicted.argmax()
        return Outer(plain_stock(grid[best].tolist()), float(predicted[best]), grid, predicted)

    def expected_utility(self, obs: Tensor, stock: Tensor, objective: AnyObjective) -> Tensor:
        """Return E f(c + Z(s, c, a)) (B,) of the greedy action in states that episodes start in."""
        law = law_of(self.greedy(obs, clamped(stock, self.config))[1], self.config)
        return objective.expected(stock[:, None] + law.values, law.weights)

    def require_served(self, objective: AnyObjective) -> None:
        """Raise `ValueError` unless the network was trained for the utility of this objective."""
        if not same_utility(self.objective, objective):
            raise ValueError(
                f"this network was trained for {self.objective.name}, whose utility is another than that of "
                f"{objective.name}; choose one of the same utility (cvar serves every tau and shortfall(b), target "
                f"every g), or train with --agent.objective {objective.name!r}"
            )

    def stateful(
        self,
        objective: AnyObjective | None = None,
        stock: Stock | None = None,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> StockPolicy:
        """Return a stateful policy for an objective, from an initial stock; None: the trained objective, the best
        stock.

        The best stock is searched for at the first call, over its first 64 rows of start states, and then kept, also
        by `reset`: another number of environments, and another task, may find another. A policy of its own for each
        task, or a `stock`, as `measure_objectives` gives one, does not depend on what came first.

        `explore`: with the ε that training ends with.
        """
        return StockPolicy(self, objective or self.objective, stock, self.config.final_epsilon * explore, generator)


class Outer(NamedTuple):
    """What the search over the initial stock found."""

    stock: Stock  # c_0
    predicted: float  # the objective there, by the network's estimate
    grid: Tensor  # (C,) where it looked; of m rewards (1, m)
    figures: Tensor  # (C,)


class StockPolicy:
    """A policy with the stock of every environment, which `observe` updates from the rewards."""

    needs_rewards = True

    def __init__(
        self,
        policy: QuantilePolicy,
        objective: AnyObjective,
        start: Stock | None,
        epsilon: float,
        generator: torch.Generator | None,
    ) -> None:
        policy.require_served(objective)
        if start is not None and not all(map(math.isfinite, start if isinstance(start, tuple) else (start,))):
            raise ValueError(f"the stock to start with is {start}; it must be a finite number")
        self.policy, self.objective, self.start = policy, objective, start
        self.rewards = policy.config.rewards  # names of what `observe` takes; none: the reward
        self.epsilon, self.generator = epsilon, generator
        self.stock: Tensor | None = None  # (N,), of m rewards (N, m)

    def reset(self) -> None:
        """Begin new episodes in all environments at the next call."""
        self.stock = None

    def __call__(self, obs: Tensor) -> Tensor:
        """Return actions (N,) for obs (N, obs)."""
        if self.start is None:
            self.start = self.policy.outer(obs, self.objective).stock
        if self.stock is None:
            self.stock = self.fresh(obs)
        return self.policy.choose(obs, self.stock, self.epsilon, self.generator) + self.policy.first

    def fresh(self, like: Tensor) -> Tensor:
        """Return the stocks (N,), of m rewards (N, m), that episodes in N environments start with."""
        assert self.start is not None
        start = torch.tensor(self.start, dtype=like.dtype, device=like.device)
        return clamped(start.expand(len(like), *start.shape).clone(), self.policy.config)

    def observe(self, reward: Tensor, ended: Tensor) -> None:
        """Take in the rewards (N,) of a step, of m rewards (N, m), and which episodes ended (N,) in it.

        Raises:
            ValueError: one reward where the policy is for several.
        """
        assert self.stock is not None, "rewards come after actions"
        if reward.shape != self.stock.shape:
            raise ValueError(f"this policy takes the rewards {', '.join(self.rewards)} of a step, not their sum alone")
        config = self.policy.config
        following = clamped(next_stock(self.stock, reward.to(self.stock), config.gamma), config)
        self.stock = torch.where(beside(ended, following), self.fresh(following), following)


def plain_stock(stock: Any) -> Stock:
    """Return a stock, or a vector or list of them, as plain numbers."""
    several = stock.entries if isinstance(stock, Vector) else stock
    return tuple(map(float, several)) if isinstance(several, (list, tuple)) else float(several)


def same_utility(one: AnyObjective, other: AnyObjective) -> bool:
    """Return whether two utilities are the same up to a positive factor."""
    if isinstance(one, VectorObjective) and isinstance(other, VectorObjective):
        return one.utility is other.utility and len(one.stock.entries) == len(other.stock.entries)
    if isinstance(one, VectorObjective) or isinstance(other, VectorObjective):
        return False
    if one.aversion is not None or other.aversion is not None:  # e^(λx) may be more than a float holds
        return one.aversion == other.aversion
    points = torch.linspace(-5.0, 5.0, 41, dtype=torch.float64)
    first, second = (u / u.abs().amax() for u in (each.utility(points) for each in (one, other)))
    return torch.allclose(first, second)


def chosen(head: Tensor, action: Tensor) -> Tensor:
    """Return the outputs (B, N) for the actions (B,), int64."""
    return head.gather(1, action[:, None, None].expand(-1, 1, head.shape[-1])).squeeze(1)


def dims(spaces: Spaces) -> tuple[int, int, int]:
    """Return the width of an observation, the number of actions and the first one's; `ValueError` for other spaces."""
    if not isinstance(spaces.action, gym.spaces.Discrete):
        raise ValueError(f"this agent needs Discrete actions, not {spaces.action}; choose another --env.id")
    if not isinstance(spaces.observation, gym.spaces.Box) or len(spaces.observation.shape) != 1:
        raise ValueError(f"this agent needs one-dimensional Box observations, not {spaces.observation}")
    return spaces.observation.shape[0], int(spaces.action.n), int(spaces.action.start)


def make_policy(config: DHNConfig, spaces: Spaces, generator: torch.Generator | None = None) -> QuantilePolicy:
    """Return a policy for the spaces."""
    return QuantilePolicy(config, spaces, generator or make_generator(0, "networks"))
