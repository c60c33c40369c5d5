"""Train for long and watch the memory: how much the resident set grows once a run has warmed up.

    python tests/campaign/soak.py --minutes 35                # of every agent, the least soaked first: 24 hours
    python tests/campaign/soak.py --minutes 2 --at-most 30    # begin no agent after half an hour; hours add up

One agent after the other trains its tiny run without an end, with rows, evaluations and checkpoints all the time. Once
a second the resident set is read; the first third of the time is warm-up, and of the rest a line is fitted: its rise
from end to end in percent of its mean. On a busy machine a run computes less than it lasts: its CPU time is recorded.
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

from surefoot import agents
from surefoot.training.runs.folder import write_config

NAME = "soak"
PAGE = os.sysconf("SC_PAGE_SIZE")
BOUND = 1.0  # per cent


@dataclass
class Options:
    """For how long."""

    agents: tuple[str, ...] = ()
    """Only these."""
    minutes: float = 10.0
    """Of each agent."""
    at_most: float = 1500.0
    """Begin no agent after so many minutes."""


def main(options: Options) -> int:
    """Soak, record, and return 1 where a run failed, its memory grew by more than `BOUND` or a process was left."""
    began, bad, soaked = time.perf_counter(), False, records.results_of(NAME)
    hours = {name: soaked.get(name, {}).get("hours", 0) for name in options.agents or agents.REGISTRY}
    for name in sorted(hours, key=lambda name: hours[name]):
        if time.perf_counter() - began > 60 * options.at_most:
            break
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = soak(name, Path(folder), 60 * options.minutes)
        except RuntimeError as error:
            print(error, flush=True)
            bad = True
            continue
        bad = bad or found["growth_percent"] > BOUND or found["leaks"] > 0
        total = added(soaked.get(name, {}), found)
        print(name, total, flush=True)
        records.record_job(NAME, name, total, began=began, seeds=[0])
    return int(bad)


def added(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return what a soak found with the hours, processes left and worst growth of the soaks before."""
    sums = {key: round(found[key] + before.get(key, 0), 4) for key in ("hours", "cpu_hours", "leaks")}
    worst = max(found["growth_percent"], before.get("worst_growth_percent", -100.0))
    return found | sums | {"worst_growth_percent": worst}


def soak(name: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Train an agent for so long, stop it as Ctrl-C would, and return how its memory went."""
    config = tiny_run(name, write_data(folder / "data.hdf5"), steps=10**9, log_every=500, checkpoint_every=500)
    write_config(folder / "config.yaml", name, config, None)
    pid = forked(surefoot("train", "--config", folder / "config.yaml", "--out", folder, "--name", "r"), folder / "log")
    samples, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        if (code := ended(pid, 1.0)) is not None:
            raise RuntimeError(f"{name} ended with {code}: {(folder / 'log').read_text()[-2000:]}")
        samples.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE)
    os.kill(pid, signal.SIGINT)
    cpu = _cpu_seconds(pid)
    code = ended(pid, 600)
    steps = int(rows(folder / "r" / "metrics.csv")[-1]["step"])
    figures = {
        "hours": seconds / 3600,
        "cpu_hours": cpu / 3600,
        "steps": steps,
        "exit_code": code,
        "leaks": left_over(pid),
    }
    return figures | {"growth_percent": growth(samples), "megabytes": round(samples[-1] / 2**20, 1)}


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime of proc(5)


def growth(samples: list[int]) -> float:
    """Return by how many percent the line through the last two thirds of the samples rises."""
    tail = np.array(samples[len(samples) // 3 :], dtype=np.float64)
    slope = np.polyfit(np.arange(len(tail)), tail, 1)[0]
    return round(float(100 * slope * (len(tail) - 1) / tail.mean()), 3)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
