"""Objectives other than the mean, measured: the distribution of discounted returns, with an interval.

A tail is that of all episodes together: docs/derivations/distributional.md pitfall 10.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot import agents
from surefoot.agents.distributional.vectors import AnyObjective, parse_any
from surefoot.agents.interface import ObjectivePolicy, Policy
from surefoot.envs import EnvConfig, make_vec
from surefoot.envs.make import native_task
from surefoot.evaluation.episodes import NUM_ENVS, EvalResult, divergence, evaluate
from surefoot.evaluation.statistics import Interval

EPISODES = 20_000  # a CVaR of a small tau rests on few of them
FEW = 2_000  # below this a tail is not to be compared (pitfall 11)
BATCHED_NUM_ENVS = 20_000  # episodes side by side in our own batched tasks
RESAMPLES = 1_000
SEED = 10_000  # away from the seeds of the evaluations during training
STARTS = 9  # over the trained range, at which a search by episodes looks, beside the start that the network prefers
APART = 100_000_000  # from the seeds of the episodes that are reported to those of the search


class Measured(NamedTuple):
    """One objective on fresh episodes of one policy."""

    objective: str
    stock: float | tuple[float, ...]  # c_0 the episodes started with; of m rewards one for each
    predicted: float  # by the network
    value: float  # achieved, over all episodes together
    interval: Interval | None  # 95%, bootstrap over episodes; None of one, which has no spread
    returns: np.ndarray  # (E,) discounted; of m rewards (E, m)
    lengths: np.ndarray  # (E,)
    forecast: Interval | None = None  # 95%, of a prediction that comes from other episodes, not from the network
    by_episodes: bool = False  # whether it does; of one episode it has no interval

    @property
    def misjudged(self) -> bool:
        """Whether the prediction, or all of its own interval, lies outside of the interval of what was achieved.

        Not where one episode alone says what was achieved, or was predicted: any other would differ.
        """
        if self.interval is None or (self.by_episodes and self.forecast is None):
            return False
        if self.forecast is None:
            return outside(self.predicted, self.interval)
        return not (self.forecast.low <= self.interval.high and self.interval.low <= self.forecast.high)


def measure_objectives(
    policy: Policy | None,
    task: EnvConfig,
    objectives: Sequence[str],
    *,
    episodes: int = EPISODES,
    seed: int,
    device: torch.device | str = "cpu",
    search_episodes: int | None = None,
) -> list[Measured]:
    """Return what one policy achieves for each objective, without retraining; warnings go to stderr.

    With `search_episodes` the initial stock of an objective that is searched for is the one from which that many
    episodes are best, and what is predicted comes from as many others from there: docs/derivations/distributional.md
    §7.7.

    Raises:
        ValueError: the policy acts for no objective, or for one of another utility; an objective that is none.
    """
    chosen, wanted = served(policy, objectives)
    if episodes < FEW:
        warn(f"{episodes} episodes are few for a tail; use at least {FEW}, better {EPISODES}")
    return [_measure(chosen, task, objective, episodes, seed, device, search_episodes) for objective in wanted]


def served(policy: Policy | None, objectives: Sequence[str]) -> tuple[ObjectivePolicy, list[AnyObjective]]:
    """Return the policy and its objectives; `ValueError` where it cannot act for them."""
    if not isinstance(policy, ObjectivePolicy):
        able = ", ".join(name for name in agents.REGISTRY if agents.get(name).goal == "objective")
        raise ValueError(f"objectives are for runs of {able}: only these act for an objective chosen at evaluation")
    wanted = [parse_any(text) for text in objectives]
    for objective in wanted:
        policy.require_served(objective)
    return policy, wanted


def _measure(
    policy: ObjectivePolicy,
    task: EnvConfig,
    objective: AnyObjective,
    episodes: int,
    seed: int,
    device: torch.device | str,
    search_episodes: int | None,
) -> Measured:
    most = BATCHED_NUM_ENVS if native_task(task.id) else NUM_ENVS

    def play(stock: Any, count: int, first: int) -> EvalResult:
        """Return what episodes from an initial stock come to."""
        plays: dict[str, Any] = {"episodes": count, "seed": first, "device": device, "num_envs": min(count, most)}
        return evaluate(policy.stateful(objective, stock), task, gamma=policy.config.gamma, **plays)

    outer, forecast = policy.outer(start_states(task, min(episodes, most), seed, device), objective), None
    by_episodes = search_episodes is not None and objective.outer is not None
    stock, predicted = outer.stock, outer.predicted
    if by_episodes:
        assert search_episodes is not None
        first = (seed + APART) % 2**31  # a seed may be the largest there is
        stock = best_of(objective, _starts(policy, stock), search_episodes, first, play)
        other = play(stock, search_episodes, first + search_episodes).discounted
        predicted, forecast = float(objective.measure(torch.from_numpy(other))), bootstrap(objective, other)
    warn_outside(stock, policy, objective)
    result = play(stock, episodes, seed)
    if line := divergence(int(result.broken.sum()), episodes):
        warn(f"{objective.name}: {line}")
    returns = result.discounted
    figure, interval = float(objective.measure(torch.from_numpy(returns))), bootstrap(objective, returns)
    return Measured(objective.name, stock, predicted, figure, interval, returns, result.lengths, forecast, by_episodes)


def _starts(policy: ObjectivePolicy, preferred: float) -> list[float]:
    """Return the initial stocks that a search by episodes compares."""
    low, high = policy.config.stock_range
    return [preferred, *np.linspace(low, high, STARTS).tolist()]


def best_of(
    objective: AnyObjective, starts: Sequence[float], episodes: int, seed: int, play: Callable[..., EvalResult]
) -> float:
    """Return the initial stock from which episodes are best: not by its figure −c_0 + …, but by their own returns.

    All starts play from the same reset seeds. The best of several figures is too high as an estimate, so what is
    predicted has to come from other episodes.
    """
    figures = [float(objective.measure(torch.from_numpy(play(stock, episodes, seed).discounted))) for stock in starts]
    return starts[int(np.argmax(figures))]


def start_states(task: EnvConfig, num_envs: int, seed: int, device: torch.device | str) -> Tensor:
    """Return observations (N, obs) in which episodes start."""
    env = make_vec(replace(task, num_envs=num_envs), device=device)
    try:
        return env.reset(seed=seed)[0]
    finally:
        env.close()


def bootstrap(objective: AnyObjective, returns: np.ndarray, level: float = 0.95) -> Interval | None:
    """Return the percentile bootstrap interval over episodes of the objective's figure; None of a single one.

    A resample is a draw of how often each distinct return occurs: the same, and small where there are few of them.
    """
    if len(returns) < 2:
        return None
    values, counts = np.unique(returns, return_counts=True, axis=0)
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


def warn_outside(stock: float | tuple[float, ...], policy: ObjectivePolicy, objective: AnyObjective) -> None:
    """Warn where an objective starts from a stock that no episode of the training started with."""
    low, high = policy.config.stock_range
    stocks = stock if isinstance(stock, tuple) else (stock,)
    if policy.config.stock and not low <= min(stocks) <= max(stocks) <= high:
        warn(
            f"{objective.name} starts from the stock {', '.join(f'{one:g}' for one in stocks)}, outside of the trained "
            f"range [{low:g}, {high:g}]: the network's estimates there were never trained; train with a wider "
            "--agent.stock-range"
        )


def written(figure: Any, digits: int) -> str:
    """Return a number, or one for each of several rewards, with so many decimals."""
    return ", ".join(f"{one:.{digits}f}" for one in np.atleast_1d(figure))


def with_interval(measured: Measured, gap: str = " ") -> str:
    """Return what was achieved and its interval, where it has one."""
    ends = "" if measured.interval is None else "{}[{:.3f}, {:.3f}]".format(gap, *measured.interval)
    return f"{measured.value:.3f}{ends}"


def warn(text: str) -> None:
    print(f"surefoot: warning: {text}", file=sys.stderr)


# --- what comes out ---------------------------------------------------------------------------------------------------


def plain(measured: Measured) -> dict[str, Any]:
    """Return the figures as plain values."""
    return {
        "objective": measured.objective,
        "stock": list(measured.stock) if isinstance(measured.stock, tuple) else measured.stock,
        "predicted": measured.predicted,
        "predicted_by": "episodes" if measured.by_episodes else "network",
        "value": measured.value,
        "interval": None if measured.interval is None else list(measured.interval),
        "misjudged": measured.misjudged,
        "episodes": len(measured.returns),
        "mean_return": measured.returns.mean(0).tolist(),
        "mean_length": float(measured.lengths.mean()),
    }
