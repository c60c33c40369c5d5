"""What an agent reaches of an objective other than the mean: the law of its discounted return, with an interval."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.distributional.dhn.policy import QuantilePolicy
from surefoot.agents.distributional.objectives import Objective, parse
from surefoot.agents.interface import Policy
from surefoot.envs import EnvConfig, make_vec
from surefoot.envs.make import native_task
from surefoot.evaluation.episodes import LANES, evaluate
from surefoot.evaluation.statistics import Interval

EPISODES = 20_000  # a CVaR of a small tau rests on few of them
FEW = 2_000  # below this a tail is not to be compared
NATIVE_LANES = 20_000  # episodes side by side in our own batched tasks
RESAMPLES = 1_000
SEED = 10_000  # away from the seeds of the evaluations during training


class Measured(NamedTuple):
    """One objective on fresh episodes of one policy."""

    objective: str
    stock: float  # c_0 the episodes started with
    promised: float  # the figure as the network saw it
    value: float  # the figure of all episodes together
    interval: Interval  # 95%, bootstrap over episodes
    returns: np.ndarray  # (E,) discounted
    lengths: np.ndarray  # (E,)


def measure_objectives(
    policy: Policy | None,
    task: EnvConfig,
    objectives: Sequence[str],
    *,
    episodes: int = EPISODES,
    seed: int,
    device: torch.device | str = "cpu",
) -> list[Measured]:
    """Return what one policy reaches of each objective, without retraining; warnings go to stderr.

    Raises:
        ValueError: the policy acts for no objective, or for one of another utility; an objective that is none.
    """
    policy, wanted = served(policy, objectives)
    if episodes < FEW:
        warn(f"{episodes} episodes say little about a tail; use at least {FEW}, better {EPISODES}")
    return [_measure(policy, task, objective, episodes, seed, device) for objective in wanted]


def served(policy: Policy | None, objectives: Sequence[str]) -> tuple[QuantilePolicy, list[Objective]]:
    """Return the policy and what it is to act for; `ValueError` where it cannot."""
    if not isinstance(policy, QuantilePolicy):
        raise ValueError("objectives are for runs of dhn: only these act for an objective chosen at evaluation")
    wanted = [parse(text) for text in objectives]
    for objective in wanted:
        policy.require_served(objective)
    return policy, wanted


def _measure(
    policy: QuantilePolicy, task: EnvConfig, objective: Objective, episodes: int, seed: int, device: torch.device | str
) -> Measured:
    lanes = min(episodes, NATIVE_LANES if native_task(task.id) else LANES)
    outer = policy.outer(start_states(task, lanes, seed, device), objective)
    warn_outside(outer.stock, policy, objective)
    player = policy.player(objective, outer.stock)
    gamma = policy.config.gamma
    result = evaluate(player, task, episodes=episodes, seed=seed, device=device, lanes=lanes, gamma=gamma)
    figure = float(objective.measure(torch.from_numpy(result.returns)))
    interval = bootstrap(objective, result.returns)
    return Measured(objective.name, outer.stock, outer.promised, figure, interval, result.returns, result.lengths)


def start_states(task: EnvConfig, lanes: int, seed: int, device: torch.device | str) -> Tensor:
    """Return observations (N, obs) in which episodes start."""
    env = make_vec(replace(task, num_envs=lanes), device=device)
    try:
        return env.reset(seed=seed)[0]
    finally:
        env.close()


def bootstrap(objective: Objective, returns: np.ndarray, level: float = 0.95) -> Interval:
    """Return the percentile bootstrap interval over episodes of the objective's figure.

    A resample is a draw of how often each distinct return occurs: the same, and small where there are few of them.
    """
    values, counts = np.unique(returns, return_counts=True)
    generator = np.random.default_rng(0)
    atoms = torch.from_numpy(values)
    figures = []
    for _ in range(RESAMPLES):
        drawn = generator.multinomial(len(returns), counts / len(returns))
        figures.append(float(objective.measure(atoms, torch.from_numpy(drawn / len(returns)))))
    low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def warn_outside(stock: float, policy: QuantilePolicy, objective: Objective) -> None:
    """Say so where an objective starts from a stock that no episode of the training started with."""
    low, high = policy.config.stock_range
    if policy.config.stock and not low <= stock <= high:
        warn(
            f"{objective.name} starts from the stock {stock:g}, outside of the trained range [{low:g}, {high:g}]: "
            "what the network says there was never learned; train with a wider --agent.stock-range"
        )


def warn(text: str) -> None:
    print(f"surefoot: warning: {text}", file=sys.stderr)


# --- what comes out ---------------------------------------------------------------------------------------------------


def plain(measured: Measured) -> dict[str, Any]:
    """Return the figures as plain values."""
    low, high = measured.interval
    return {
        "objective": measured.objective,
        "stock": measured.stock,
        "promised": measured.promised,
        "value": measured.value,
        "interval": [low, high],
        "episodes": len(measured.returns),
        "mean_return": float(measured.returns.mean()),
        "mean_length": float(measured.lengths.mean()),
    }
