"""DηN on its four grids, QR-DQN, and DηN with a wrong stock.

What should come out: docs/derivations/distributional.md E29 to E33. Presets of configs/dhn, 20,000 evaluation episodes
per figure. One network per seed gives all rows of a task.

    python benchmarks/dhn.py [--jobs fork crossing …] [--seeds 3]

Each job replaces its own entry of benchmarks/results/dhn.json and leaves the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import tyro
from record import record_job

from surefoot.agents.distributional.dhn import agent as dhn
from surefoot.agents.distributional.dhn.agent import DHN
from surefoot.agents.distributional.dhn.equations import DHNConfig
from surefoot.agents.distributional.dhn.policy import QuantilePolicy
from surefoot.agents.distributional.objectives import parse
from surefoot.agents.interface import Setting, Spaces
from surefoot.envs import EnvConfig, make_vec, spaces_of
from surefoot.evaluation.objectives import Measured, measure_objectives
from surefoot.training.config.presets import load_preset

NAME = "dhn"
TAUS = (1, 0.75, 0.5, 0.25, 0.1)
STARTS = (-6, -4, -2, -1, -0.5, 0, 0.5, 1, 2, 4, 6)  # c_0 (§9.5); the target is −c_0
EPISODES, SEED = 20_000, 10_000
JUNCTION, GOOD, BET = (1, 2), 0, 1  # FORK's cell and its two exits: up, down


@dataclass
class Options:
    """What to run."""

    jobs: tuple[str, ...] = ("fork", "crossing", "pantry", "drain", "pantry-wrong-stock", "mean")
    seeds: int = 3


def trained(config: DHNConfig, task: EnvConfig, steps: int, seed: int) -> QuantilePolicy:
    """Return the policy after so many environment steps."""
    env = make_vec(task)
    agent = DHN(config, Setting(Spaces(*spaces_of(task)), seed, torch.device("cpu"), env))
    while agent.env_steps < steps:
        agent.step()
    env.close()
    return agent.policy


def of_preset(name: str, seed: int) -> tuple[QuantilePolicy, EnvConfig]:
    run = load_preset("dhn", name)
    return trained(run.agent, run.env, run.steps, seed), run.env


def measured(policy: QuantilePolicy, task: EnvConfig, objectives: list[str]) -> list[Measured]:
    return measure_objectives(policy, task, objectives, episodes=EPISODES, seed=SEED)


def tails(name: str, seed: int) -> dict[str, Any]:
    """Return, a τ, what was predicted and achieved, of the same network, with length, mean and CVaR at 1/4."""
    policy, task = of_preset(name, seed)
    rows = {}
    for tau, m in zip(TAUS, measured(policy, task, [f"cvar({tau})" for tau in TAUS]), strict=True):
        quarter = float(parse("cvar(0.25)").measure(torch.from_numpy(m.returns)))
        numbers = (m.value, m.predicted, m.stock, float(m.returns.mean()), quarter, float(m.lengths.mean()))
        keys = ("achieved", "predicted", "stock", "mean", "cvar_quarter", "length")
        rows[str(tau)] = dict(zip(keys, (round(x, 4) for x in numbers), strict=True))
    return {"tau": rows} | ({"exits": exits(policy, task)} if name == "fork" else {})


@torch.no_grad()
def exits(policy: QuantilePolicy, task: EnvConfig) -> list[list[Any]]:
    """Return the greedy move at FORK's junction over the stock, as [from stock, move] where it changes."""
    cells = make_vec(replace(task, num_envs=1)).cells  # type: ignore[union-attr]
    grid = torch.linspace(-5.0, 1.0, 601)
    obs = torch.nn.functional.one_hot(torch.tensor(cells.index(JUNCTION)), len(cells)).float().expand(len(grid), -1)
    names = {GOOD: "G", BET: "B"}
    moves = [names.get(action, "?") for action in policy.greedy(obs, grid)[0].tolist()]
    changes = [0, *(i for i in range(1, len(moves)) if moves[i] != moves[i - 1])]
    return [[round(float(grid[i]), 2), moves[i]] for i in changes]


def targets(policy: QuantilePolicy, task: EnvConfig) -> dict[str, Any]:
    """Return the mean of E|c_0 + G| over the targets, and the slope of the mean return against the target."""
    rows = measured(policy, task, [f"target({-c})" for c in STARTS])
    errors, means = [-m.value for m in rows], [float(m.returns.mean()) for m in rows]
    slope = float(np.polyfit([-c for c in STARTS], means, 1)[0])
    by_stock = {str(c): round(error, 4) for c, error in zip(STARTS, errors, strict=True)}
    return {"error": round(float(np.mean(errors)), 4), "slope": round(slope, 4), "by_stock": by_stock}


def set_point(name: str, seed: int) -> dict[str, Any]:
    return targets(*of_preset(name, seed))


def wrong_stock(name: str, seed: int) -> dict[str, Any]:
    """Return the same with c' = c + r in the learner; the target is that of the true return."""
    right = dhn.next_stock
    dhn.next_stock = lambda stock, reward, gamma: stock + reward
    try:
        run = load_preset("dhn", "pantry")
        config = replace(run.agent, exploration_steps=12_000, decay_steps=24_000)
        return targets(trained(config, run.env, 24_000, seed), run.env)
    finally:
        dhn.next_stock = right


def mean(name: str, seed: int) -> dict[str, Any]:
    """Return the mean return on FORK of DηN for the mean, with a stock, and of QR-DQN."""
    run = load_preset("qr-dqn", "demo")
    figures = {}
    for label, stock in (("dhn", True), ("qr-dqn", False)):
        config = replace(run.agent, stock=stock, stock_range=(-5.0, 1.0))
        (m,) = measured(trained(config, run.env, run.steps, seed), run.env, ["mean"])
        figures[label] = round(m.value, 4)
    return figures


JOBS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "fork": tails,
    "crossing": tails,
    "pantry": set_point,
    "drain": set_point,
    "pantry-wrong-stock": wrong_stock,
    "mean": mean,
}


def main(options: Options) -> None:
    began = time.perf_counter()
    torch.set_num_threads(1)
    for job in options.jobs:
        runs = []
        for seed in range(options.seeds):
            started = time.process_time()
            runs.append(JOBS[job](job, seed))
            runs[-1]["cpu_seconds"] = round(time.process_time() - started, 1)
            print(job, seed, runs[-1], flush=True)
        record_job(NAME, job, runs, began=began, seeds=list(range(options.seeds)))


if __name__ == "__main__":
    main(tyro.cli(Options))
