"""HNPG's stationary, discounted form on Hopper-v5 and TRPO without data: an extension without published numbers.

No D4RL file is needed: the data are 20,000 steps of a Soft Actor-Critic that was trained for 3,000, sampling.

    python benchmarks/hnpg_stationary.py [--seeds 0 1 2] [--steps 60000] [--out runs]
"""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from record import record

from surefoot.offline_data import load

TRAIN = [sys.executable, str(Path(__file__).resolve().parents[1] / "train.py")]
AGENT = ["--agent.gamma", "0.99", "--agent.batch-steps", "2000", "--agent.policy-hidden", "64", "64"]


@dataclass
class Options:
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 60_000
    out: Path = Path("runs")
    """Folder for the data and the run folders, which must not exist yet."""


def make_data(out: Path) -> Path:
    """Train SAC briefly on Hopper and record it."""
    path = out / "hopper-short-sac.hdf5"
    start = [
        "--agent.learning-starts",
        "500",
        "--agent.random-steps",
        "500",
        "--threads",
        "1",
        "--name",
        "hopper-source",
    ]
    subprocess.run([*TRAIN, "sac", "--preset", "hopper", "--steps", "3000", *start, "--out", str(out)], check=True)
    collect = [
        sys.executable,
        "-m",
        "surefoot.training.cli.main",
        "data",
        "collect",
        str(out / "hopper-source"),
        str(path),
    ]
    subprocess.run([*collect, "--steps", "20000", "--stochastic"], check=True)
    return path


def train(agent: str, seed: int, options: Options, more: list[str]) -> list[float]:
    """Train an agent on Hopper and return the mean returns of its evaluations, one every 20,000 steps."""
    name = f"hopper-{agent}-{seed}"
    task = ["--env.id", "Hopper-v5", "--env.num-envs", "4", "--steps", str(options.steps), "--seed", str(seed)]
    run = [
        "--eval.every",
        "20000",
        "--eval.episodes",
        "10",
        "--threads",
        "1",
        "--out",
        str(options.out),
        "--name",
        name,
    ]
    subprocess.run([*TRAIN, agent, *task, *AGENT, *run, *more], check=True)
    rows = list(csv.DictReader((options.out / name / "evaluations.csv").open()))
    steps = sorted({int(row["env_steps"]) for row in rows})
    return [round(np.mean([float(r["episode_return"]) for r in rows if int(r["env_steps"]) == s]), 1) for s in steps]


def main(options: Options) -> None:
    began = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    data = make_data(options.out)
    with_data = ["--data.source", str(data), "--agent.rounds", "10"]
    curves = {
        agent: {str(seed): train(agent, seed, options, more) for seed in options.seeds}
        for agent, more in (("hnpg", with_data), ("trpo", []))
    }
    data_return = round(float(load(str(data)).episode_returns().mean()), 1)
    figures = {"steps": options.steps, "data_return": data_return, "returns": curves}
    record("hnpg_stationary", figures, began=began, seeds=list(options.seeds))


if __name__ == "__main__":
    main(tyro.cli(Options))
