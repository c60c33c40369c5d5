"""Objectives other than the mean, measured: the distribution of discounted returns, with an interval.

A tail is that of all episodes together: docs/derivations/distributional.md pitfall 10.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot import agents
from surefoot.agents.distributional.objectives import Objective, parse
from surefoot.agents.interface import ObjectivePolicy, Policy
from surefoot.envs import EnvConfig, make_vec
from surefoot.envs.make import native_task
from surefoot.evaluation.episodes import NUM_ENVS, evaluate
from surefoot.evaluation.statistics import Interval

EPISODES = 20_000  # a CVaR of a small tau rests on few of them
FEW = 2_000  # below this a tail is not to be compared (pitfall 11)
BATCHED_NUM_ENVS = 20_000  # episodes side by side in our own batched tasks
RESAMPLES = 1_000
SEED = 10_000  # away from the seeds of the evaluations during training


class Measured(NamedTuple):
    """One objective on fresh episodes of one policy."""

    objective: str
    stock: float  # c_0 the episodes started with
    predicted: float  # by the network
    value: float  # achieved, over all episodes together
    interval: Interval  # 95%, bootstrap over episodes
    returns: np.ndarray  # (E,) discounted
    lengths: np.ndarray  # (E,)

    @property
    def misjudged(self) -> bool:
        """Whether the network's prediction lies outside of the interval of what was achieved."""
        return outside(self.predicted, self.interval)


def measure_objectives(
    policy: Policy | None,
    task: EnvConfig,
    objectives: Sequence[str],
    *,
    episodes: int = EPISODES,
    seed: int,
    device: torch.device | str = "cpu",
) -> list[Measured]:
    """Return what one policy achieves for each objective, without retraining; warnings go to stderr.

    Raises:
        ValueError: the policy acts for no objective, or for one of another utility; an objective that is none.
    """
    chosen, wanted = served(policy, objectives)
    if episodes < FEW:
        warn(f"{episodes} episodes are few for a tail; use at least {FEW}, better {EPISODES}")
    return [_measure(chosen, task, objective, episodes, seed, device) for objective in wanted]


def served(policy: Policy | None, objectives: Sequence[str]) -> tuple[ObjectivePolicy, list[Objective]]:
    """Return the policy and its objectives; `ValueError` where it cannot act for them."""
    if not isinstance(policy, ObjectivePolicy):
        able = ", ".join(name for name in agents.REGISTRY if agents.get(name).goal == "objective")
        raise ValueError(f"objectives are for runs of {able}: only these act for an objective chosen at evaluation")
    wanted = [parse(text) for text in objectives]
    for objective in wanted:
        policy.require_served(objective)
    return policy, wanted


def _measure(
    policy: ObjectivePolicy, task: EnvConfig, objective: Objective, episodes: int, seed: int, device: torch.device | str
) -> Measured:
    num_envs = min(episodes, BATCHED_NUM_ENVS if native_task(task.id) else NUM_ENVS)
    outer = policy.outer(start_states(task, num_envs, seed, device), objective)
    warn_outside(outer.stock, policy, objective)
    stateful = policy.stateful(objective, outer.stock)
    gamma = policy.config.gamma
    result = evaluate(stateful, task, episodes=episodes, seed=seed, device=device, num_envs=num_envs, gamma=gamma)
    returns = result.discounted
    figure, interval = float(objective.measure(torch.from_numpy(returns))), bootstrap(objective, returns)
    return Measured(objective.name, outer.stock, outer.predicted, figure, interval, returns, result.lengths)


def start_states(task: EnvConfig, num_envs: int, seed: int, device: torch.device | str) -> Tensor:
    """Return observations (N, obs) in which episodes start."""
    env = make_vec(replace(task, num_envs=num_envs), device=device)
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


def outside(predicted: float, interval: Sequence[float]) -> bool:
    """Return whether a prediction lies outside of an interval; one that is no number does."""
    low, high = interval
    return not low <= predicted <= high


def warn_outside(stock: float, policy: ObjectivePolicy, objective: Objective) -> None:
    """Warn where an objective starts from a stock that no episode of the training started with."""
    low, high = policy.config.stock_range
    if policy.config.stock and not low <= stock <= high:
        warn(
            f"{objective.name} starts from the stock {stock:g}, outside of the trained range [{low:g}, {high:g}]: "
            "the network's estimates there were never trained; train with a wider --agent.stock-range"
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
        "predicted": measured.predicted,
        "value": measured.value,
        "interval": [low, high],
        "misjudged": measured.misjudged,
        "episodes": len(measured.returns),
        "mean_return": float(measured.returns.mean()),
        "mean_length": float(measured.lengths.mean()),
    }
