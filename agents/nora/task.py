"""What the exact agents require of a task: a finite MDP of H steps, whose values and clip range are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from surefoot.agents.interface import Budget, Plan
from surefoot.agents.nora.linear_critic import Features
from surefoot.agents.nora.tabular_critic import Range
from surefoot.agents.parts.budget import counted
from surefoot.agents.parts.tabular import TabularMDP

SLACK = 1e-6  # float32 rewards may exceed the range by this much


class Task(Protocol):
    """N environments of a finite MDP, such as `surefoot/DeepSea-v0`; every episode takes `horizon` steps."""

    num_envs: int
    horizon: int
    time_aware: bool

    @property
    def value_range(self) -> tuple[Tensor, Tensor]: ...  # (H,) each, least and largest sum of rewards from h on
    @property
    def state(self) -> Tensor: ...  # (N,) index
    def tabular(self) -> Any: ...  # the fields of a TabularMDP
    def decode(self, obs: Tensor) -> Tensor: ...  # the state's index of observations
    def reset(self, *, seed: int | None = None) -> tuple[Tensor, dict[str, Any]]: ...
    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def require_exact(env: Any) -> Task:
    """Return the task; `ValueError` unless it is a finite MDP with a horizon with time-aware observations."""
    if not hasattr(env, "tabular"):
        raise ValueError(
            "nora's exact critics need tabular MDPs such as surefoot/DeepSea-v0, RiverSwim-v0, DiabolicalLock-v0, "
            "LinearMDP-v0, Tetris-v0; this task is not one"
        )
    if env.horizon is None:
        raise ValueError("this task has no horizon, and nora learns from episodes of H steps; set --env.kwargs horizon")
    if not env.time_aware:
        raise ValueError("a finite-horizon policy needs time-aware observations: pass --env.time-aware")
    task: Task = env
    return task


def range_of(env: Task, reward_range: tuple[float, float] | None) -> Range:
    """Return the clip range: the task's own, or what rewards in `reward_range` can sum up to from each step on."""
    if reward_range is not None:
        left = torch.arange(env.horizon, 0, -1, dtype=torch.float64)
        return Range(reward_range[0] * left, reward_range[1] * left)
    if not hasattr(env, "value_range"):
        raise ValueError("this task declares no value_range; pass --agent.reward-range LOW HIGH, of one step's reward")
    low, high = (torch.as_tensor(bound, dtype=torch.float64) for bound in env.value_range)
    if low.shape != (env.horizon,) or high.shape != (env.horizon,) or bool((low >= high).any()):
        raise ValueError(f"value_range is {low.tolist()}, {high.tolist()}; expected {env.horizon} pairs low < high")
    return Range(low, high)


def require_within(reward: Tensor, bounds: Range, what: str) -> None:
    """Raise `ValueError` where rewards (H, …) sum up, from some step on, to what the clip range does not hold."""
    total = reward.double().flip(0).cumsum(0).flip(0).flatten(1)  # (H, …)
    outside = (total < bounds.low[:, None] - SLACK) | (total > bounds.high[:, None] + SLACK)
    if bool(outside.any()):
        h, i = (int(index) for index in outside.nonzero()[0])
        raise ValueError(
            f"{what}: rewards from step {h + 1} on sum to {float(total[h, i]):g}, outside of the clip range "
            f"[{float(bounds.low[h]):g}, {float(bounds.high[h]):g}]; correct --agent.reward-range or the task"
        )


def checked_features(env: Any, states: int, actions: int) -> tuple[Callable[[Tensor], Features], tuple[int, int]]:
    """Return the features of state indices, and blocks and width of Λ; `ValueError` unless they fit the table."""
    if not hasattr(env, "features"):
        raise ValueError("--agent.critic linear needs a task with features, such as surefoot/LinearMDP-v0 or Tetris-v0")
    if hasattr(env, "block_features"):
        blocks = int(env.blocks.max()) + 1
        features: Callable[[Tensor], Features] = lambda state: Features(*env.block_features(state))  # noqa: E731
    else:
        blocks, features = 1, lambda state: _one_block(env.features(state))
    values, block = features(torch.arange(states, device=_device(env)))
    shape = tuple(values.shape)
    if shape[:-1] != (states, actions) or tuple(block.shape) != (states, actions):
        raise ValueError(f"features of all states are {shape}; expected ({states}, {actions}, d)")
    longest = float(values.norm(dim=-1).max())
    if not longest <= 1 + SLACK:
        raise ValueError(
            f"the longest feature vector has norm {longest:g}; the bonus is made for at most 1: scale them"
        )
    return features, (blocks, shape[-1])


def _one_block(values: Tensor) -> Features:
    return Features(values.double(), torch.zeros(values.shape[:-1], dtype=torch.int64, device=values.device))


def _device(env: Any) -> torch.device:
    return TabularMDP(*env.tabular()).start.device


# --- how long a run is -----------------------------------------------------------------------------------------------


def derive(config: Any, budget: Budget) -> Any:
    """Return the config with T the episodes of the run, where it is needed and not given."""
    if config.episodes is not None or not config.needs_episodes or (horizon := budget.episode_length()) is None:
        return config
    return replace(config, episodes=-(-budget.steps // horizon))


def plan(config: Any, budget: Budget) -> Plan:
    """Return what will run: whole episodes, none after the T that the constants are computed for."""
    horizon = budget.episode_length()
    if horizon is None:
        return Plan(budget.steps, None, ())  # a task that `require_exact` refuses
    episodes = -(-budget.steps // horizon)
    if config.needs_episodes and (config.episodes or 0) < episodes:
        raise ValueError(
            f"--agent.episodes is {config.episodes}, but the run has {episodes} episodes (--steps {budget.steps} of "
            f"{horizon} each), and the bonus is computed for the former; start a run with --agent.episodes {episodes}, "
            "or None: as many as the run has"
        )
    return Plan(episodes * horizon, episodes, (f"{counted(episodes, 'episode')} of {horizon} steps",))
