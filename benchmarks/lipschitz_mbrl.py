"""The variants of Lipschitz MBRL at equal steps and updates (docs/derivations/lipschitz_mbrl.md §14.1), and the sweep
of the defaults.

    python benchmarks/lipschitz_mbrl.py [--jobs pendulum/sd/0 pendulum/rr/0 …] [--again]
    python benchmarks/lipschitz_mbrl.py --device cuda --cudagraph --jobs hopper/pe/0 --steps 30000 --evaluate-every 1000

A job is TASK/SETTING/SEED: a preset of mbpo, a variant with or without changes, a seed. Jobs that have a result are
skipped unless --again; each adds its own entry to benchmarks/results/lipschitz_mbrl_TASK.json and leaves the
others, so that several of these processes can share the work. InvertedPendulum stops at the second evaluation in a row
that has nothing but 1000.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from record import STARTED, record_job, results_of

from surefoot import agents
from surefoot.agents.interface import Setting, Spaces
from surefoot.agents.lipschitz_mbrl.smoothing import slope
from surefoot.envs import make_vec, spaces_of
from surefoot.envs.termination import termination_of
from surefoot.evaluation.episodes import evaluate, make_act
from surefoot.training.config.presets import load_preset
from surefoot.training.config.run import RunConfig

VARIANTS = ("sd", "rr", "sn", "sp", "pe", "de")
SEEDS = (0, 1, 2, 3, 4)
MEASURED = ("value_aware_error", "value_aware_error_relative", "lip_local", "lip_local_p99", "lip_upper", "lip_ball")
MORE = ("model_holdout_mse", "model_error", "q", "q_std", "action_gap", "rollout_mean_length")
SOLVED = 1000.0
SETTINGS: dict[str, dict[str, Any]] = {
    **{variant: {"variant": variant} for variant in VARIANTS},
    **{f"rr-radius-{x}": {"variant": "rr", "perturbation_radius": x} for x in (0.02, 0.05, 0.2)},
    **{f"rr-weight-{x}": {"variant": "rr", "robust_weight": x} for x in (0.01, 0.03, 0.3, 1.0)},
    **{f"sn-bound-{x}": {"variant": "sn", "spectral_bound": x} for x in (1.0, 2.0, 3.0, 5.0)},
    "sd-nll-mean": {"variant": "sd", "model_output": "nll_mean"},
    "rr-nll-mean": {"variant": "rr", "model_output": "nll_mean"},
    "rr-uniform": {"variant": "rr", "attack": "uniform"},
    "rr-policy-reference": {"variant": "rr", "reference": "policy"},
    "rr-l2": {"variant": "rr", "norm": "2"},
}
SWEEP = tuple(setting for setting in SETTINGS if setting not in (*VARIANTS, "sn-bound-3.0"))  # 3 is Pendulum's own
DEFAULT_JOBS = (
    *(f"pendulum/{variant}/{seed}" for seed in SEEDS for variant in VARIANTS),
    *(
        f"inverted-pendulum/{setting}/{seed}"
        for seed in SEEDS[:2]
        for setting in (*VARIANTS, "sn-bound-3.0", "sn-bound-5.0")
    ),
    "inverted-pendulum/pe/2",
    *(f"pendulum/{setting}/{seed}" for seed in SEEDS for setting in SWEEP),
)


@dataclass
class Options:
    """What to run."""

    jobs: tuple[str, ...] = DEFAULT_JOBS
    """TASK/SETTING/SEED."""
    again: bool = False
    """Run also what has a result."""
    steps: int | None = None
    """Environment steps; None: the preset's."""
    evaluate_every: int | None = None
    """Environment steps between two evaluations; None: the preset's."""
    minutes: float = float("inf")
    """A job that has taken so long ends there; its entry has how far it came."""
    device: str = "cpu"
    """Where to train."""
    compile: bool = False
    """Wrap the updates in torch.compile."""
    cudagraph: bool = False
    """Replay the updates as CUDA graphs."""


def configure(job: str, options: Options) -> RunConfig:
    """Return what a job trains with."""
    task, setting, seed = job.split("/")
    config = load_preset("mbpo", task)
    return replace(
        config,
        agent=replace(config.agent, **SETTINGS[setting]),
        seed=int(seed),
        steps=options.steps or config.steps,
        eval=replace(config.eval, every=options.evaluate_every or config.eval.every),
        device=options.device,
        compile=options.compile,
        cudagraph=options.cudagraph,
    )


def run(job: str, options: Options) -> dict[str, Any]:
    """Train one job and return its figures."""
    config, task = configure(job, options), job.split("/")[0]
    torch.set_num_threads(1)
    agent, rows, began = make_agent(config), defaultdict(list), time.process_time()
    deadline = time.perf_counter() + 60 * options.minutes
    seconds: dict[str, float] = defaultdict(float)
    epochs = 0.0
    returns: list[float] = []
    while agent.env_steps < config.steps and time.perf_counter() < deadline:
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
    figures |= {"device": STARTED["hardware"]["gpu"] if agent.device.type == "cuda" else "cpu"}
    figures |= {"compile": options.compile, "cudagraph": options.cudagraph}
    spent = {phase: round(value, 2) for phase, value in seconds.items()}
    cpu = round(time.process_time() - began, 1)
    figures |= {"steepest_q": steepest_q(agent), "cpu_seconds": cpu, "seconds": spent, "model_epochs": int(epochs)}
    return figures | rows


def make_agent(config: RunConfig) -> Any:
    device = torch.device(config.device)
    setting = Setting(
        Spaces(*spaces_of(config.env)),
        config.seed,
        device,
        make_vec(config.env, device=device),
        compile=config.compile,
        cudagraph=config.cudagraph,
        termination=termination_of(config.env),
    )
    return agents.get("mbpo").make_agent(config.agent, setting)


def mean_return(agent: Any, config: RunConfig) -> float:
    held_out = {"episodes": config.eval.episodes, "seed": config.eval.seed}
    result = evaluate(make_act(agent.policy), config.env, **held_out, device=config.device)
    return round(float(result.returns.mean()), 3)


def steepest_q(agent: Any) -> float:
    """Return the largest ‖∇_(s,a) Q_j‖₂ over all transitions of D_env: in the variant sn, β³ is to bound it."""
    rows = agent.replay.everything()
    points, critic = torch.cat([rows.obs, rows.action], -1), agent.nets.critic
    split = [agent.obs_dim, agent.action_dim]
    _, gradient = slope(lambda x: critic(*x.split(split, -1), frozen=True), points.expand(2, -1, -1))
    return round(float(gradient.norm(dim=-1).max()), 4)


def main(options: Options) -> None:
    for job in options.jobs:
        name = f"lipschitz_mbrl_{job.split('/')[0].replace('-', '_')}"
        if job in results_of(name) and not options.again:
            continue
        began = time.perf_counter()
        figures = run(job, options)
        figures["minutes"] = round((time.perf_counter() - began) / 60, 2)
        seeds = sorted({int(one.rpartition("/")[2]) for one in (*results_of(name), job)})
        record_job(name, job, figures, began=began, seeds=seeds)


if __name__ == "__main__":
    main(tyro.cli(Options))
