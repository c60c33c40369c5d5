"""The arms of Lipschitz MBRL at equal steps and updates (brief lipschitz_mbrl.md, 13.2), and the sweep of the defaults.

    python benchmarks/lipschitz_mbrl.py [--jobs pendulum/sd/0 pendulum/rr/0 …] [--again]

A job is TASK/VARIANT/SEED: a preset of mbpo, an arm with or without changes, a seed. Jobs that have a result are left
out unless asked for again; each adds its own entry to benchmarks/results/lipschitz_mbrl.json and leaves the others.
InvertedPendulum stops at the second evaluation in a row that has nothing but 1000.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from record import RESULTS, STARTED, record

from surefoot import agents
from surefoot.agents.interface import Setting, Spaces
from surefoot.agents.parts.smoothing import slope
from surefoot.envs import make_vec, spaces_of
from surefoot.envs.termination import termination_of
from surefoot.training.config import RunConfig
from surefoot.training.evaluation import acting, evaluate
from surefoot.training.presets import load_preset

NAME = "lipschitz_mbrl"
ARMS = ("sd", "rr", "sn", "sp", "pe", "de")
SEEDS = (0, 1, 2)
MEASURED = ("value_aware_error", "value_aware_error_relative", "lip_local", "lip_local_p99", "lip_upper", "lip_ball")
MORE = ("model_holdout_mse", "model_error", "q", "q_std", "action_gap", "rollout_mean_length")
SOLVED = 1000.0
VARIANTS: dict[str, dict[str, Any]] = {
    **{arm: {"arm": arm} for arm in ARMS},
    **{f"rr-epsilon-{x}": {"arm": "rr", "epsilon": x} for x in (0.02, 0.05, 0.2)},
    **{f"rr-lam-{x}": {"arm": "rr", "lam": x} for x in (0.01, 0.03, 0.3, 1.0)},
    **{f"sn-beta-{x}": {"arm": "sn", "beta": x} for x in (1.0, 2.0, 5.0)},
    "sd-nll-mean": {"arm": "sd", "model_output": "nll_mean"},
    "rr-nll-mean": {"arm": "rr", "model_output": "nll_mean"},
    "rr-uniform": {"arm": "rr", "attack": "uniform"},
    "rr-policy-reference": {"arm": "rr", "reference": "policy"},
    "rr-l2": {"arm": "rr", "norm": "2"},
}
DEFAULT_JOBS = (
    *(f"pendulum/{arm}/{seed}" for seed in SEEDS for arm in ARMS),
    *(f"inverted-pendulum/pe/{seed}" for seed in SEEDS),
    *(f"pendulum/{variant}/0" for variant in VARIANTS if variant not in ARMS),
)


@dataclass
class Options:
    """What to run."""

    jobs: tuple[str, ...] = DEFAULT_JOBS
    """TASK/VARIANT/SEED."""
    again: bool = False
    """Run also what has a result."""
    steps: int | None = None
    """Environment steps; None: the preset's."""


def run(job: str, steps: int | None = None) -> dict[str, Any]:
    """Train one job and return its figures."""
    task, variant, seed = job.split("/")
    config = load_preset("mbpo", task)
    config = replace(
        config, agent=replace(config.agent, **VARIANTS[variant]), seed=int(seed), steps=steps or config.steps
    )
    torch.set_num_threads(1)
    agent, rows, began = make_agent(config), defaultdict(list), time.process_time()
    seconds: dict[str, float] = defaultdict(float)
    epochs = 0.0
    returns: list[float] = []
    while agent.env_steps < config.steps:
        progress = agent.step()
        for name in (name for name in progress.metrics if name.startswith("seconds/")):
            seconds[name.removeprefix("seconds/")] += float(progress.metrics[name]) / 1000 * progress.env_steps
        epochs += float(progress.metrics.get("model_epochs", 0.0))
        if "lip_upper" in progress.metrics:
            rows["steps"].append(agent.env_steps - config.agent.random_steps)
            for name in (*MEASURED, *(more for more in MORE if more in progress.metrics)):
                rows[name].append(round(float(progress.metrics[name]), 5))
        if agent.env_steps % config.eval.every == 0:
            returns.append(mean_return(agent, config))
            print(job, agent.env_steps, round(returns[-1], 1), {n: rows[n][-1:] for n in MEASURED[:3]}, flush=True)
            if task == "inverted-pendulum" and returns[-2:] == [SOLVED, SOLVED]:
                break
    figures = {"env_steps": agent.env_steps, "evaluate_every": config.eval.every, "returns": returns}
    spent = {phase: round(value, 2) for phase, value in seconds.items()}
    cpu = round(time.process_time() - began, 1)
    figures |= {"steepest_q": steepest_q(agent), "cpu_seconds": cpu, "seconds": spent, "model_epochs": int(epochs)}
    return figures | rows


def make_agent(config: RunConfig) -> Any:
    setting = Setting(
        Spaces(*spaces_of(config.env)),
        config.seed,
        torch.device("cpu"),
        make_vec(config.env),
        termination=termination_of(config.env),
    )
    return agents.get("mbpo").make_agent(config.agent, setting)


def mean_return(agent: Any, config: RunConfig) -> float:
    result = evaluate(acting(agent.policy), config.env, episodes=config.eval.episodes, seed=config.eval.seed)
    return round(float(result.returns.mean()), 3)


def steepest_q(agent: Any) -> float:
    """Return the largest ‖∇_(s,a) Q_j‖₂ over all transitions of D_env: in the arm sn, β³ is to bound it."""
    rows = agent.replay.everything()
    points, critic = torch.cat([rows.obs, rows.action], -1), agent.nets.critic
    split = [agent.obs_dim, agent.action_dim]
    _, gradient = slope(lambda x: critic(*x.split(split, -1), frozen=True), points.expand(2, -1, -1))
    return round(float(gradient.norm(dim=-1).max()), 4)


def main(options: Options) -> None:
    path = RESULTS / f"{NAME}.json"
    for job in options.jobs:
        began = time.perf_counter()
        jobs = json.loads(path.read_text())["jobs"] if path.is_file() else {}
        if job in jobs and not options.again:
            continue
        figures = {**run(job, options.steps), "commit": STARTED["commit"]}
        jobs = json.loads(path.read_text())["jobs"] if path.is_file() else {}
        figures["minutes"] = round((time.perf_counter() - began) / 60, 2)
        record(NAME, {"jobs": {**jobs, job: figures}}, began=began, seeds=list(SEEDS))


if __name__ == "__main__":
    main(tyro.cli(Options))
