"""Small finite MDPs with time-aware observations, and NORA at play in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from surefoot import agents
from surefoot.agents.interface import Setting, Spaces
from surefoot.agents.parts.tabular import TabularMDP
from surefoot.envs.tasks.finite import FiniteEnv, Outcomes


class Random(FiniteEnv):
    """A random MDP, one table per step, or `alike`; rewards in [0, 1]. Features, where asked for, are one-hot."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        sizes: tuple[int, int, int] = (5, 3, 4),
        seed: int = 0,
        alike: bool = False,
        **kwargs: Any,
    ):
        start, *table = random_mdp(sizes, seed)
        outcomes = Outcomes(start, *(field[:1] if alike else field for field in table))
        super().__init__(outcomes, num_envs, horizon=sizes[2], time_aware=True, **kwargs)

    @property
    def value_range(self) -> tuple[Tensor, Tensor]:
        left = torch.arange(self.horizon, 0, -1).double()
        return 0 * left, left

    def features(self, state: Tensor) -> Tensor:
        states, actions = self.outcomes.reward.shape[1:3]
        cell = state[..., None] * actions + torch.arange(actions)
        return torch.nn.functional.one_hot(cell, states * actions).double()

    def decode(self, obs: Tensor) -> Tensor:
        return obs[..., : len(self.outcomes.start)].argmax(-1)


def random_mdp(sizes: tuple[int, int, int], seed: int) -> TabularMDP:
    """Return an MDP of S states, A actions, H steps with dense transitions and rewards that are 0 or 1."""
    states, actions, horizon = sizes
    generator = torch.Generator().manual_seed(seed)
    shape = (horizon, states, actions, states)
    weight = torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)
    start = torch.nn.functional.one_hot(torch.tensor(0), states).double()
    reward = torch.randint(2, shape, generator=generator).double()
    next_state = torch.arange(states).expand(shape).contiguous()
    return TabularMDP(start, next_state, weight / weight.sum(-1, keepdim=True), reward)


def make(env: Any, *, seed: int = 0, data: Any = None, **changes: Any) -> Any:
    """Return NORA in an environment."""
    spec = agents.get("nora")
    spaces = Spaces(env.single_observation_space, env.single_action_space)
    config = replace(spec.default, **({"episodes": 100} | changes))
    return spec.make_agent(config, Setting(spaces, seed, torch.device("cpu"), env, data))


def play(agent: Any, episodes: int) -> Any:
    """Return the agent after so many episodes."""
    for _ in range(episodes):
        agent.step()
    return agent
