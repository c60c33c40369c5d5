"""DηN on CartPole-v1 for the tail of the return: what it predicts beside what it achieves, while it trains.

docs/derivations/distributional.md §7.10. A job is VARIANT/SEED: the preset `cartpole-cvar`, whose categories were tried
on seed 10, or the same with quantiles (§7.11), or with these without bounds of the return, or also with the slow target
network that it had once. At every quarter of a run: how often the target network was renewed, how far values have come
by that, and CVaR at 0.1, predicted and achieved over 300 episodes, with a bootstrap interval.

    python benchmarks/dhn_cartpole.py [--jobs preset/0 slow-target/0 …]

Each job replaces its own entry of benchmarks/results/dhn_cartpole.json and leaves the others.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from record import record_job

from surefoot.agents.distributional.dhn.agent import DHN
from surefoot.agents.interface import Setting, Spaces
from surefoot.envs import make_vec, spaces_of
from surefoot.evaluation.objectives import measure_objectives
from surefoot.training.config.presets import load_preset

NAME, OBJECTIVE = "dhn_cartpole", "cvar(0.1)"
VARIANTS: dict[str, dict[str, Any]] = {
    "preset": {},
    "quantiles": {"categories": None},
    "unbounded": {"categories": None, "return_range": None},
    "slow-target": {"categories": None, "return_range": None, "target_update_interval": 50},
}
EPISODES, SEED, PARTS = 300, 10_000, 4


@dataclass
class Options:
    """What to run."""

    jobs: tuple[str, ...] = tuple(f"{variant}/{seed}" for seed in range(3) for variant in VARIANTS)
    """VARIANT/SEED."""


def run(variant: str, seed: int) -> list[dict[str, float]]:
    """Train, and return what was predicted and achieved at every quarter."""
    preset = load_preset("dhn", "cartpole-cvar")
    config, env = replace(preset.agent, **VARIANTS[variant]), make_vec(preset.env)
    spaces = Spaces(*spaces_of(preset.env))
    agent = DHN(config, Setting(spaces, seed, torch.device("cpu"), env, engine="native"))
    rows = []
    for part in range(1, PARTS + 1):
        while agent.env_steps < part * preset.steps // PARTS:
            agent.step()
        (m,) = measure_objectives(agent.policy, preset.env, [OBJECTIVE], episodes=EPISODES, seed=SEED)
        assert m.interval is not None
        moves, (low, high) = agent.updates // config.target_update_interval, m.interval
        reach = (1 - config.gamma**moves) / (1 - config.gamma)
        figures = {"achieved": m.value, "low": low, "high": high, "predicted": m.predicted, "stock": m.stock}
        rows.append({"steps": agent.env_steps, "moves": moves, "reach": round(reach, 2)})
        rows[-1] |= {name: round(float(figure), 2) for name, figure in figures.items()}
        print(variant, seed, rows[-1], flush=True)
    env.close()
    return rows


def main(options: Options) -> None:
    torch.set_num_threads(1)
    for job in options.jobs:
        began, started = time.perf_counter(), time.process_time()
        variant, seed = job.split("/")
        rows = run(variant, int(seed))
        figures = {"rows": rows, "cpu_seconds": round(time.process_time() - started, 1)}
        record_job(NAME, job, figures, began=began, seeds=[int(seed)])


if __name__ == "__main__":
    main(tyro.cli(Options))
