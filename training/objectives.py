"""What an agent reaches of an objective other than the mean: the law of its discounted return, with an interval."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from surefoot.agents.dhn import QuantilePolicy
from surefoot.agents.interface import Policy
from surefoot.agents.parts.objectives import Objective, parse
from surefoot.envs import EnvConfig, make_vec
from surefoot.envs.make import native_task
from surefoot.training.checkpoint import write_atomically
from surefoot.training.evaluation import LANES, evaluate
from surefoot.training.run_folder import load_policy
from surefoot.training.statistics import Interval

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


def table(title: str, measured: Sequence[Measured]) -> Table:
    """Return one row an objective, narrow enough for a terminal of 80 columns."""
    caption = "95% bootstrap interval over episodes; mean of the discounted return"
    shown = Table(title=title, caption=caption, box=SIMPLE_HEAD)
    for name in ("objective", "start", "promised", "reached", "mean", "steps"):
        shown.add_column(name, justify="left" if name == "objective" else "right", no_wrap=True)
    for m in measured:
        low, high = m.interval
        reached = f"{m.value:.3f} [{low:.3f}, {high:.3f}]"
        means = f"{m.returns.mean():.3f}", f"{m.lengths.mean():.1f}"
        shown.add_row(m.objective, f"{m.stock:.2f}", f"{m.promised:.3f}", reached, *means)
    return shown


def draw(
    policy: Policy | None, task: EnvConfig, measured: Sequence[Measured], *, law: Path, paths: Path, seed: int
) -> list[Path]:
    """Draw the laws of the returns and, where the task is a map, the paths; return the pictures written."""
    from surefoot.training.law_plots import grid_paths, map_of, return_laws  # matplotlib takes half a second

    pictures = [return_laws(measured, law)]
    if map_of(task):
        pictures.append(grid_paths(cast(QuantilePolicy, policy), task, measured, paths, seed=seed))
    return pictures


def report(run: Path, folders: dict[str, Path], device: torch.device) -> None:
    """Measure what each run's configuration asks for; print a table, write objectives.json and pictures to `run`."""
    rows: list[dict[str, Any]] = []
    for label, folder in folders.items():
        loaded = load_policy(folder, device=device)
        settings = loaded.config.eval
        task = replace(loaded.config.env, physics=settings.physics)
        counts: dict[str, Any] = {"episodes": settings.objective_episodes, "seed": SEED, "device": device}
        measured = measure_objectives(loaded.policy, task, settings.objectives, **counts)
        name = label.replace("/", "-")
        places = {kind: run / "plots" / f"{kind}-{name}.png" for kind in ("law", "paths")}
        draw(loaded.policy, task, measured, **places, seed=SEED)
        rows += [{"run": label, **plain(m)} for m in measured]
        Console().print(table(f"{label}, {task.id}", measured))
    text = json.dumps(rows, indent=2) + "\n"
    write_atomically(run / "objectives.json", lambda file: file.write(text.encode()))
