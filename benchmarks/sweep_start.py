"""What starting a run costs in a local sweep: CPU-seconds of a short run, forked from the sweep's server and by hand.

    python benchmarks/sweep_start.py             # about two minutes

A run is 20 steps of a tiny SAC on the pendulum, so nearly all of its CPU-seconds are its start and its end. Two sizes
of a sweep are measured, and the difference divided by the difference in runs: what is taken once is apart.
CPU-seconds are user and system time of a command and all of its children.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from record import record

TASK = {
    "env.id": "surefoot/Pendulum-v0",
    "env.max_episode_steps": "10",
    "eval.episodes": "1",
    "steps": "20",
    "agent.hidden": "[8]",
    "agent.learning_starts": "10",
    "agent.random_steps": "10",
}


@dataclass
class Options:
    """How much to run."""

    few: int = 2
    many: int = 22
    by_hand: int = 3


def cpu_seconds(*arguments: str) -> float:
    """Carry out a command of surefoot; return the CPU-seconds of it and of its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    call = [sys.executable, "-m", "surefoot.training.cli.main", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(call, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def sweep(runs: int, out: Path) -> float:
    """Return the CPU-seconds of a sweep over seeds."""
    settings = [f"{name}={value}" for name, value in TASK.items()]
    seeds = ["--seeds", f"0..{runs - 1}"]
    return cpu_seconds("sweep", "--agents", "sac", *seeds, "--set", *settings, "--out", str(out), "--name", f"s{runs}")


def by_hand(runs: int, out: Path) -> float:
    """Return the CPU-seconds of a run as a command of its own."""
    options = [f"--{name.replace('_', '-')}={value.strip('[]')}" for name, value in TASK.items()]
    each = ["train", "sac", *options, "--threads", "1", "--out", str(out)]
    return sum(cpu_seconds(*each, "--seed", str(i), "--name", f"h{i}") for i in range(runs)) / runs


def main(options: Options) -> None:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        few, many = (sweep(runs, Path(folder)) for runs in (options.few, options.many))
        alone = by_hand(options.by_hand, Path(folder))
    a_run = (many - few) / (options.many - options.few)
    figures = {"cpu_seconds_a_run": a_run, "once": few - options.few * a_run, "by_hand": alone}
    rounded = {name: round(value, 3) for name, value in figures.items()}
    record("sweep_start", rounded | {"runs": options.many}, began=began, seeds=list(range(options.many)))


if __name__ == "__main__":
    main(tyro.cli(Options))
