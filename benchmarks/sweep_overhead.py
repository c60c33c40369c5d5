"""What a sweep costs in addition to its runs: eight runs on two cores, by hand, by the local engine and by Ray.

    python benchmarks/sweep_overhead.py            # about five minutes; without the extra `ray` that part is left out

By hand is `train.py` once per run, two commands at a time; half the sum of their seconds is the ideal of two cores. The
sweeps are whole commands too, with all that they take to start.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro
import yaml
from record import record

TASK = ["sac", "--env.id", "surefoot/Pendulum-v0", "--threads", "1"]


@dataclass
class Options:
    """How much to run."""

    runs: int = 8
    side_by_side: int = 2
    steps: int = 7_000
    """Of each run; chosen so that one takes about 20 seconds."""


def command(*arguments: str) -> float:
    """Carry out a command of surefoot and return its seconds."""
    began = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "surefoot.training.cli.main", *arguments]
    subprocess.run(call, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def by_hand(options: Options, out: Path) -> dict[str, float]:
    """Return the seconds of all runs as plain commands, and the ideal."""
    steps = ["--steps", str(options.steps), "--out", str(out)]
    began = time.perf_counter()
    with ThreadPoolExecutor(options.side_by_side) as pool:
        each = [
            pool.submit(command, "train", *TASK, *steps, "--seed", str(seed), "--name", f"s{seed}")
            for seed in range(options.runs)
        ]
        seconds = [run.result() for run in each]
    ideal = sum(seconds) / options.side_by_side
    return {"seconds": time.perf_counter() - began, "a_run": sum(seconds) / len(seconds), "ideal": ideal}


def by_sweep(engine: str, options: Options, out: Path) -> dict[str, float]:
    """Return the seconds of one sweep."""
    file = out / f"{engine}.yaml"
    settings = {"env.id": ["surefoot/Pendulum-v0"], "steps": [options.steps]}
    content = {"agents": ["sac"], "seeds": [f"0..{options.runs - 1}"], "set": settings, "engine": engine}
    file.write_text(yaml.safe_dump(content))
    return {"seconds": command("sweep", str(file), "--out", str(out), "--name", engine)}


def main(options: Options) -> None:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        hand = by_hand(options, Path(folder))
        engines = ["local"] + ["ray"] * (importlib.util.find_spec("ray") is not None)
        sweeps = {engine: by_sweep(engine, options, Path(folder)) for engine in engines}
    for sweep in sweeps.values():
        sweep["ratio"] = sweep["seconds"] / hand["ideal"]
    figures = {"by_hand": hand, **sweeps}
    rounded = {name: {key: round(value, 2) for key, value in part.items()} for name, part in figures.items()}
    record("sweep_overhead", {**rounded, "runs": options.runs}, began=began, seeds=list(range(options.runs)))


if __name__ == "__main__":
    main(tyro.cli(Options))
