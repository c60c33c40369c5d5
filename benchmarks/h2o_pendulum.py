"""H2O against its parts where simulator and reality disagree: Pendulum, 3 seeds (docs/derivations/h2o.md §11.2).

Real: g = 10. Simulator (a): g = 5. Simulator (b): g = −10, where doing nothing is optimal in the simulator and worst in
reality. Data: the first 3000 transitions of a SAC run in the real task.

    python benchmarks/h2o_pendulum.py [--seeds 0 1 2] [--steps 8000] [--workers 2]
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import tyro
from record import record

from surefoot.agents.h2o import H2O, H2OConfig
from surefoot.agents.interface import Agent, Setting, Spaces
from surefoot.agents.sac import SAC, SACConfig
from surefoot.envs import EnvConfig, Physics, make_vec, spaces_of
from surefoot.evaluation.episodes import evaluate
from surefoot.offline_data import Transitions

REAL = EnvConfig(id="Pendulum-v1")
SIMULATORS = {"a": Physics(gravity=0.5), "b": Physics(gravity=-1.0)}
SHARED: dict[str, Any] = {
    "hidden": (64, 64),
    "gamma": 0.95,
    "policy_lr": 1e-3,
    "critic_lr": 1e-3,
    "alpha_lr": 1e-3,
    "log_std_offset": -1.0,
    "learn_log_std_affine": False,
    "last_layer_gain": None,
    "rollout_steps": 1,
    "learning_starts": 500,
    "random_steps": 0,
}
H2O_BASE = H2OConfig(
    **SHARED,
    real_batch_size=64,
    sim_batch_size=64,
    classifier_batch_size=128,
    classifier_hidden=(64, 64),
    classifier_lr=1e-3,
)
SAC_BASE = SACConfig(**SHARED, batch_size=128)
METHODS = {
    "h2o": H2O_BASE,
    "sac-mix": replace(H2O_BASE, importance_weights=False, regulariser_weight=0.0),
    "weights-only": replace(H2O_BASE, regulariser_weight=0.0),
    "regulariser-only": replace(H2O_BASE, importance_weights=False),
    "sac-sim": replace(SAC_BASE, entropy_in_target=True),
}


def make_setting(env: EnvConfig, seed: int, data: Transitions | None = None) -> Setting:
    return Setting(Spaces(*spaces_of(env)), seed, torch.device("cpu"), make_vec(env), data)


def real_data(seed: int, rows: int = 3000) -> Transitions:
    """Return the first transitions of a SAC run in the real task: poor data."""
    agent = SAC(SAC_BASE, make_setting(REAL, seed + 100))
    while len(agent.replay) < rows:
        agent.step()
    batch = agent.replay.unpack(agent.replay.rows[:rows])
    arrays = {name: value.numpy() for name, value in batch._asdict().items()}
    return Transitions.from_arrays(**arrays, truncated=np.arange(rows) % 200 == 199, source="Pendulum-v1, SAC")


def evaluations(
    agent: Agent, simulator: EnvConfig, steps: int, every: int = 2000
) -> Iterator[tuple[float, float, dict[str, float]]]:
    """Yield return in reality, return in the own simulator, and the last 500 updates' means, every 2000 steps."""
    done, recent = 0, []
    while done < steps:
        progress = agent.step()
        done += progress.env_steps
        if progress.metrics:
            recent = [*recent[-499:], progress.metrics]
        if progress.env_steps and done % every == 0:
            means = {name: float(torch.stack([m[name] for m in recent]).mean()) for name in recent[-1]}
            yield *(measure(agent, env) for env in (REAL, simulator)), means


def measure(agent: Agent, env: EnvConfig) -> float:
    return float(evaluate(agent.act, env, episodes=10, seed=1000).returns.mean())


def run(job: tuple[str, str, int, int]) -> dict[str, Any]:
    """Train one method in one simulator with one seed."""
    method, simulator, seed, steps = job
    torch.set_num_threads(1)
    env = replace(REAL, physics=SIMULATORS[simulator])
    data = real_data(seed)
    config = METHODS[method]
    agent = (SAC if method == "sac-sim" else H2O)(config, make_setting(env, seed, data))
    real, sim, means = zip(*evaluations(agent, env, steps), strict=True)
    logged = {name: round(means[-1][name], 4) for name in ("gap", "importance_weight") if name in means[-1]}
    result = {
        "method": method,
        "simulator": simulator,
        "seed": seed,
        "real": rounded(real),
        "sim": rounded(sim),
        **logged,
    }
    print(json.dumps(result), flush=True)
    return result


def rounded(values: tuple[float, ...]) -> list[float]:
    return [round(value, 1) for value in values]


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, a simulator and method, the mean over seeds of the evaluations from 4000 steps on."""
    summary: dict[str, Any] = {}
    for simulator, method in sorted({(r["simulator"], r["method"]) for r in results}):
        rows = [r for r in results if (r["simulator"], r["method"]) == (simulator, method)]
        cell = {key: round(float(np.mean([r[key][1:] for r in rows])), 1) for key in ("real", "sim")}
        for key in ("gap", "importance_weight"):
            if key in rows[0]:
                cell[key] = round(float(np.mean([r[key] for r in rows])), 3)
        summary[f"{simulator}/{method}"] = cell
    return summary


@dataclass
class Options:
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 8000
    """Simulator steps per run; evaluated every 2000."""
    workers: int = 2
    """Runs at once, one thread each."""
    jobs: tuple[str, ...] = (
        "b/h2o",
        "b/sac-mix",
        "b/weights-only",
        "b/regulariser-only",
        "b/sac-sim",
        "a/h2o",
        "a/sac-sim",
    )
    """SIMULATOR/METHOD."""


def main(options: Options) -> None:
    began = time.perf_counter()
    jobs = [
        (method, sim, seed, options.steps)
        for sim, method in (j.split("/") for j in options.jobs)
        for seed in options.seeds
    ]
    with ProcessPoolExecutor(options.workers) as pool:
        results = list(pool.map(run, jobs))
    figures = {"steps": options.steps, "summary": summarise(results), "runs": results}
    record("h2o_pendulum", figures, began=began, seeds=list(options.seeds))


if __name__ == "__main__":
    main(tyro.cli(Options))
