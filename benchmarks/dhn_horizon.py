"""DηN with a horizon against the exact optimum: BET, FORK, CROSSING and PANTRY for objectives that need γ^t.

docs/derivations/distributional.md §7.9. Presets of configs/dhn with the objective of the job, 20,000 evaluation
episodes; predicted is the network's own figure at the start that it chose.

    python benchmarks/dhn_horizon.py [--jobs "bet/entropic(0.5)" …] [--seeds 3]

Each job replaces its own entry of benchmarks/results/dhn_horizon.json and leaves the others.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from dhn import EPISODES, SEED, trained
from record import record_job

from surefoot.agents.distributional import solve
from surefoot.agents.parts.tabular import TabularMDP
from surefoot.envs import EnvConfig, make_vec
from surefoot.evaluation.objectives import measure_objectives
from surefoot.training.config.presets import load_preset
from surefoot.training.config.run import RunConfig

NAME = "dhn_horizon"
PRESETS = {  # of a task, or of one of its jobs
    "bet": "bet-mean-variance",
    "fork": "fork-probability",
    "crossing": "crossing-entropic",
    "pantry": "pantry-probability",
    "bet/probability(8)": "bet-probability",
    "crossing/mean-variance(0.5)": "crossing-mean-variance",
}
JOBS = {
    "bet": ("mean-variance(0.2)", "entropic(0.5)", "probability(8)"),
    "fork": ("mean-variance(0.2)", "entropic(1)", "probability(1.5)"),
    "crossing": ("mean-variance(0.5)", "entropic(2)", "probability(0.7)"),
    "pantry": ("mean-variance(0.2)", "entropic(1)", "probability(5)", "probability(8)"),
}


@dataclass
class Options:
    """What to run."""

    jobs: tuple[str, ...] = tuple(f"{task}/{objective}" for task, every in JOBS.items() for objective in every)
    """TASK/OBJECTIVE."""
    seeds: int = 3


def optimum(task: EnvConfig, objective: str, gamma: float, horizon: int) -> list[float]:
    """Return the value of the best policy and the bound that none exceeds."""
    env: Any = make_vec(replace(task, num_envs=1, time_aware=False))
    solution = solve(TabularMDP(*env.tabular()), objective, gamma=gamma, horizon=horizon, method="vi")
    return [round(solution.value, 4), round(solution.bound, 4)]


def preset_of(job: str) -> RunConfig[Any]:
    """Return the job's own preset, or its task's."""
    return load_preset("dhn", PRESETS.get(job, PRESETS[job.split("/", 1)[0]]))


def run(job: str, seed: int) -> dict[str, float]:
    """Train for the objective of a job, and return what was predicted and achieved."""
    objective, preset = job.split("/", 1)[1], preset_of(job)
    policy = trained(replace(preset.agent, objective=objective), preset.env, preset.steps, seed)
    (m,) = measure_objectives(policy, preset.env, [objective], episodes=EPISODES, seed=SEED)
    assert m.interval is not None
    low, high = m.interval
    numbers = {"achieved": m.value, "low": low, "high": high, "predicted": m.predicted, "stock": m.stock}
    return {name: round(float(number), 4) for name, number in numbers.items()}


def main(options: Options) -> None:
    began = time.perf_counter()
    torch.set_num_threads(1)
    for job in options.jobs:
        objective, preset = job.split("/", 1)[1], preset_of(job)
        assert preset.agent.horizon is not None
        exact = optimum(preset.env, objective, preset.agent.gamma, preset.agent.horizon)
        runs = []
        for seed in range(options.seeds):
            started = time.process_time()
            runs.append(run(job, seed))
            runs[-1]["cpu_seconds"] = round(time.process_time() - started, 1)
            print(job, exact, seed, runs[-1], flush=True)
        figures = {"exact": exact, "runs": runs}
        record_job(NAME, job, figures, began=began, seeds=list(range(options.seeds)))


if __name__ == "__main__":
    main(tyro.cli(Options))
