"""Benchmarks that are made of runs: each trained from where it stopped, each result recorded once."""

from __future__ import annotations

import csv
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import record_job, results_of

from surefoot.training.config.run import RunConfig
from surefoot.training.loop.interrupt import stop_on_signals
from surefoot.training.loop.setup import start_or_resume
from surefoot.training.runs.folder import read_meta
from surefoot.training.session import execute

# How a run is trained whose learning curve is compared with others'.
ON_ONE_CORE: dict[str, Any] = {"device": "cpu", "threads": 1, "checkpoint_every": 10_000, "keep_checkpoints": 1}


def train_to_the_end(
    job: str, folder: Path, agent: str, config: RunConfig[Any], preset: str | None = None
) -> dict[str, Any]:
    """Train the run of a job, from where it stopped if it did, and return its meta; a signal ends the process."""
    with stop_on_signals() as stop:
        active = start_or_resume(folder, agent, config, preset)
        if active is not None:
            execute(active, stop)
    meta = read_meta(folder)
    if meta["status"] != "finished":
        raise SystemExit(f"{job}: stopped by a signal; the same command goes on with it")
    return meta


def origin(meta: dict[str, Any]) -> dict[str, Any]:
    """Return how long a run took, and the commits that it was begun and resumed at; `dirty` where one had changes."""
    parts = [meta, *meta.get("resumed", [])]
    again = dict.fromkeys(part["commit"] for part in parts[1:] if part["commit"] != meta["commit"])
    more = ({"resumed_at": list(again)} if again else {}) | ({"dirty": True} if any(p["dirty"] for p in parts) else {})
    return {"minutes": meta["minutes"], "commit": meta["commit"], **more}


def learning_curve(folder: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Return what a run with its meta came to: every evaluation's mean return, the last, and the mean of all (area)."""
    found: dict[int, list[float]] = defaultdict(list)
    with (folder / "evaluations.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found[int(row["step"])].append(float(row["episode_return"]))
    returns = [round(float(np.mean(episodes)), 1) for _, episodes in sorted(found.items())]
    figures = {"final": returns[-1], "area": round(float(np.mean(returns)), 1), "curve": returns}
    return figures | origin(meta)


def carry_out(name: str, jobs: Sequence[str], run: Callable[[str], Any], seeds: Sequence[int], runs: Path) -> None:
    """Run and record, on one thread, the jobs of a benchmark that have no result yet; `runs` holds their folders."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    runs.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        if job not in results_of(name):
            record_job(name, job, run(job), began=began, seeds=list(seeds))
