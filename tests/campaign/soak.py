"""Train for long and watch the memory: how much the resident set grows once a run has warmed up.

    python tests/campaign/soak.py --agents sac --minutes 60    # of each agent; the hours of earlier calls count

Each agent trains its tiny run without an end, with rows, evaluations and checkpoints all the time. Once a second the
resident set is read; the first third of the time is warm-up, and of the rest a line is fitted: its rise from end to end
in percent of its mean.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tiny_runs import ended, forked, left_over, records, rows, surefoot, tiny_run, write_data

from surefoot.training.runs.folder import write_config

NAME = "soak"
PAGE = os.sysconf("SC_PAGE_SIZE")
BOUND = 1.0  # per cent


@dataclass
class Options:
    """For how long."""

    agents: tuple[str, ...] = ("sac",)
    minutes: float = 10.0
    """Of each agent."""


def main(options: Options) -> int:
    """Soak, record, and return 1 where memory grew by more than `BOUND` or a process was left."""
    began, bad = time.perf_counter(), False
    for name in options.agents:
        with tempfile.TemporaryDirectory() as folder:
            found = soak(name, Path(folder), 60 * options.minutes)
        earlier = records.results_of(NAME).get(name, {})
        found["hours"] = round(found["hours"] + earlier.get("hours", 0), 3)
        found["worst_growth_percent"] = max(found["growth_percent"], earlier.get("worst_growth_percent", -100.0))
        print(name, found, flush=True)
        records.record_job(NAME, name, found, began=began, seeds=[0])
        bad = bad or found["growth_percent"] > BOUND or found["leaks"] > 0
    return int(bad)


def soak(name: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Train an agent for so long, stop it as Ctrl-C would, and return how its memory went."""
    config = tiny_run(name, write_data(folder / "data.hdf5"), steps=10**9, log_every=500, checkpoint_every=500)
    write_config(folder / "config.yaml", name, config, None)
    pid = forked(surefoot("train", "--config", folder / "config.yaml", "--out", folder, "--name", "r"), folder / "log")
    samples, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        if (code := ended(pid, 1.0)) is not None:
            raise SystemExit(f"{name} ended with {code}: {(folder / 'log').read_text()[-2000:]}")
        samples.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE)
    os.kill(pid, signal.SIGINT)
    code = ended(pid, 600)
    steps = int(rows(folder / "r" / "metrics.csv")[-1]["step"])
    figures = {"hours": seconds / 3600, "steps": steps, "exit_code": code, "leaks": left_over(pid)}
    return figures | {"growth_percent": growth(samples), "megabytes": round(samples[-1] / 2**20, 1)}


def growth(samples: list[int]) -> float:
    """Return by how many percent the line through the last two thirds of the samples rises."""
    tail = np.array(samples[len(samples) // 3 :], dtype=np.float64)
    slope = np.polyfit(np.arange(len(tail)), tail, 1)[0]
    return round(float(100 * slope * (len(tail) - 1) / tail.mean()), 3)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
