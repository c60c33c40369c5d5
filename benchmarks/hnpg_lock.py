"""HNPG, its ablations and its baselines on the continuous combination lock (docs/derivations/hnpg.md §11).

Defaults of the paper and its code, reward mode `terminal`, 20,000 offline episodes, float32. The seeds of a job are
trained side by side on one lock and one data set; by symmetry the code words make no difference to a policy that
starts without preference, so the seeds are those of networks, exploration and sampling.

    python benchmarks/hnpg_lock.py [--jobs h5/hnpg h5/trpo …] [--seeds 5] [--iterations N]

RLPD (`h5/rlpd`, as tuned for the lock; `h5/rlpd-published`) trains one seed after the other. Its samples are cut into
iterations of 1000, too; its `on_policy_loss` is the bootstrapped loss on fresh samples, and it has no KL.

Each job replaces its own entry of benchmarks/results/hnpg_lock.json and leaves the others.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from record import record_job

from surefoot import agents
from surefoot.agents.baselines.trpo import TRPOConfig
from surefoot.agents.hnpg.agent import HNPGConfig
from surefoot.agents.interface import Agent, Progress, Setting, Spaces
from surefoot.agents.parts.episodes import SuccessConfig, SuccessMeter
from surefoot.envs import EnvConfig, make_vec, spaces_of
from surefoot.training.config.presets import load_preset
from surefoot.training.loop.behaviour import record_behaviour

NAME = "hnpg_lock"
BATCH = 1000
METHODS: dict[str, Any] = {
    "hnpg": HNPGConfig(),
    "data-actions": HNPGConfig(offline_actions="data"),
    "no-kl-test": HNPGConfig(kl_slack=None),
    "no-monte-carlo": HNPGConfig(critic_on_policy_weight=0.0),
    "critic-only": HNPGConfig(policy_on_policy_weight=math.inf),
    "trpo": TRPOConfig(),
}
RLPD_JOBS = {"rlpd": "lock-h5", "rlpd-published": "lock-h5-published"}  # H = 5 only
ITERATIONS = {"h5": 100, "h10": 170, "h15": 500, "image-h5": 400}
DEFAULT_JOBS = (
    "h5/hnpg",
    "h5/trpo",
    "h5/data-actions",
    "h5/no-monte-carlo",
    "h5/critic-only",
    "h10/hnpg",
    "h10/trpo",
    "h10/data-actions",
    "h10/critic-only",
    "h5/no-kl-test",
    "h15/hnpg",
    "image-h5/hnpg",
)


@dataclass
class Options:
    """What to run."""

    jobs: tuple[str, ...] = DEFAULT_JOBS
    """hHORIZON/METHOD; `image-h5/METHOD` is the image lock with the synthetic stand-in."""
    seeds: int = 5
    """Seeds of a job, trained side by side."""
    iterations: int | None = None
    """Outer iterations of 1000 samples; None: 100 at H = 5 (image lock 400), 170 at H = 10, 500 at H = 15."""
    episodes: int = 20_000
    """Offline episodes."""


def make_agent(env: EnvConfig, method: str, horizon: int, seeds: int, episodes: int) -> Any:
    """Return an agent of `seeds` stacked seeds on one lock with one data set."""
    data = record_behaviour(env, episodes, seed=0)
    config = replace(METHODS[method], horizon=horizon, success_return=1.0)
    envs = make_vec(replace(env, num_envs=env.num_envs * seeds))
    setting = Setting(Spaces(*spaces_of(env)), 0, torch.device("cpu"), envs, data, num_seeds=seeds)
    return agents.get("trpo" if method == "trpo" else "hnpg").make_agent(config, setting)


def lock(name: str) -> tuple[EnvConfig, int]:
    """Return task and horizon of `h5` or `image-h5`."""
    horizon = int(name.rpartition("h")[2])
    kwargs: dict[str, Any] = {"horizon": horizon}
    env_id = "surefoot/CombinationLock-v0"
    if name.startswith("image-"):
        env_id, kwargs = "surefoot/ImageLock-v0", kwargs | {"embeddings": "stand-in"}
    return EnvConfig(env_id, num_envs=-(-BATCH // horizon), kwargs=kwargs, time_aware=True), horizon


def run(job: str, options: Options) -> dict[str, Any]:
    """Train one job and return its figures."""
    task, method = job.split("/")
    if method in RLPD_JOBS:
        return run_rlpd(job, RLPD_JOBS[method], options)
    env, horizon = lock(task)
    iterations = options.iterations or ITERATIONS[task]
    torch.set_num_threads(1)
    began = time.process_time()
    agent = make_agent(env, method, horizon, options.seeds, options.episodes)
    rows = []
    for i in range(iterations):
        rows.append(row(agent.step(), options.seeds, horizon))
        if i % 20 == 19:
            print(job, agent.nets.env_steps, [round(x, 3) for x in rows[-1]["success"]], flush=True)
    figures = summarise(rows, agent.nets.env_steps // iterations)
    solved = [int(x) if x >= 0 else None for x in agent.nets.success.solved_steps.tolist()]
    more = {} if not task.startswith("image-") else {"test_success": rate_on_test_split(agent, env)}
    cpu_seconds = round(time.process_time() - began, 1)
    return {"seeds": options.seeds, "iterations": iterations, "solved_at": solved, **figures, **more} | {
        "cpu_seconds": cpu_seconds
    }


def run_rlpd(job: str, preset: str, options: Options) -> dict[str, Any]:
    """Train RLPD by its preset, one seed after the other, and return its figures as `run` does."""
    if not job.startswith("h5/"):
        raise ValueError(f"{job}: RLPD runs on the lock of horizon 5 only; its other presets take days")
    torch.set_num_threads(1)
    began, iterations = time.process_time(), options.iterations or ITERATIONS["h5"]
    config = load_preset("rlpd", preset)
    data = record_behaviour(config.env, options.episodes, seed=0)
    columns, solved = [], []
    for seed in range(options.seeds):
        setting = Setting(Spaces(*spaces_of(config.env)), seed, torch.device("cpu"), make_vec(config.env), data)
        agent = agents.get("rlpd").make_agent(config.agent, setting)
        meter = SuccessMeter(SuccessConfig(success_return=1.0), 1, torch.device("cpu"))
        columns.append([rlpd_row(agent, meter, (i + 1) * BATCH) for i in range(iterations)])
        solved.append(int(meter.solved_steps) if meter.solved_steps >= 0 else None)
        print(job, seed, solved[-1], columns[-1][-1], flush=True)
    rows = [{name: [cell[name] for cell in cells] for name in cells[0]} for cells in zip(*columns, strict=True)]
    figures = {"seeds": options.seeds, "iterations": iterations, "solved_at": solved, **summarise(rows, BATCH)}
    return figures | {"cpu_seconds": round(time.process_time() - began, 1)}


def rlpd_row(agent: Agent, meter: SuccessMeter, samples: int) -> dict[str, float]:
    """Train for one batch of samples and return what is kept of it."""
    steps = [agent.step() for _ in range(BATCH)]
    episodes = [entry for step in steps for entry in step.episodes]
    success = float(meter.add(episodes, samples)["success"])
    returns = torch.cat([entry.episode_return[entry.ended] for entry in episodes])
    losses = [step.metrics for step in steps if step.metrics]
    names = {"on_policy_loss": "online_loss", "offline_loss": "offline_loss"}
    means = {
        ours: float(torch.stack([m[name] for m in losses]).mean()) if losses else 0.0 for ours, name in names.items()
    }
    return {"success": success, "episode_return": float(returns.mean()), **means}


def row(progress: Progress, seeds: int, horizon: int) -> dict[str, list[float]]:
    """Return what is kept of one iteration, one number per seed; losses are means over steps."""
    metrics = progress.metrics
    success = [metrics[f"success/seed-{s}"] for s in range(seeds)] if seeds > 1 else [metrics["success"]]
    last = progress.episodes[horizon - 1 :: horizon]
    returns = torch.stack([e.episode_return for e in last]).unflatten(1, (seeds, -1)).mean((0, 2))
    kept = {"success": torch.stack(success), "episode_return": returns}
    for name in ("on_policy_loss", "offline_loss"):
        if name in metrics:
            kept[name] = metrics[name].unflatten(0, (horizon, seeds)).mean(0)
    kept["kl"] = metrics["kl"].unflatten(0, (horizon, seeds)).amax(0)
    kept["refused"] = (metrics["step_fraction"] == 0).float().unflatten(0, (horizon, seeds)).mean(0)
    return {name: value.tolist() for name, value in kept.items()}


def summarise(rows: list[dict[str, list[float]]], batch: int) -> dict[str, Any]:
    """Return figures per seed: first success above one half, the last 10 iterations, curves over 5 iterations each."""
    by_name = {name: torch.tensor([r[name] for r in rows]) for name in rows[0]}  # (iterations, S)
    above = by_name["success"] > 0.5
    first = [int(column.nonzero()[0]) * batch + batch if column.any() else None for column in above.T]
    last = {f"last10_{name}": rounded(values[-10:].mean(0)) for name, values in by_name.items() if name != "kl"}
    worst = {f"largest_{name}": rounded(values.amax(0)) for name, values in by_name.items() if "loss" in name}
    curve = {"env_steps": [(i + 1) * batch for i in range(4, len(rows), 5)]}
    success = by_name["success"][: len(rows) // 5 * 5].unflatten(0, (-1, 5)).mean(1)
    curve["success"] = [rounded(values) for values in success.T]  # type: ignore[misc]
    kl = {"largest_kl": rounded(by_name["kl"].amax(0))} if "kl" in by_name else {}
    return {"first_above_half": first, **last, **worst, **kl, "curve": curve}


def rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]


@torch.no_grad()
def rate_on_test_split(agent: Any, env: EnvConfig, num_envs: int = 2000) -> list[float]:
    """Return the success rate of each seed's stochastic policy on the image lock's test split."""
    nets = agent.nets
    config = replace(env, num_envs=num_envs * nets.seeds, kwargs={**env.kwargs, "split": "test"})
    task = make_vec(config)
    obs, _ = task.reset(seed=1)
    total = torch.zeros(len(obs))
    for t in range(nets.config.horizon):
        obs, reward, *_ = task.step(nets.draw(obs.unflatten(0, (nets.seeds, -1)), t).flatten(0, 1))
        total += reward
    return rounded((total >= 1).float().unflatten(0, (nets.seeds, -1)).mean(1))


def main(options: Options) -> None:
    began = time.perf_counter()
    for job in options.jobs:
        figures = run(job, options)
        record_job(NAME, job, figures, began=began, seeds=list(range(options.seeds)))


if __name__ == "__main__":
    main(tyro.cli(Options))
