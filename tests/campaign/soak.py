"""Train for long and watch the memory: how much the resident set grows once a run has warmed up.

    python tests/campaign/soak.py --minutes 32 --at-once 12    # of every agent, the least soaked first: 24 hours
    python tests/campaign/soak.py --minutes 2 --at-most 30     # begin no agent after half an hour; hours add up

Agents train their tiny runs without an end, with rows, evaluations and checkpoints all the time, and give way to
whatever else the machine has to do. What counts is what a run has done, not how long it has waited for a busy machine:
its resident set, open files and threads are read at most once a second, where there is a new checkpoint, and a line is
fitted over steps. The first third of the steps is warm-up, and at least `WARM_UP` steps, by when replays are full; the
rise of the line over the rest, in percent of its mean, is the growth. A soak goes on until `ENOUGH` checkpoints have
been seen after the warm-up; one that does not get there in three times its minutes counts for nothing.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from tiny_runs import (
    ended,
    forked,
    left_over,
    preload,
    records,
    surefoot,
    surefoot_and_imports,
    tiny_run,
    write_data,
)

from surefoot import agents
from surefoot.evaluation.policy_files import checkpoint_steps
from surefoot.training.config.run import EvalConfig, RunConfig
from surefoot.training.runs.folder import write_config

NAME = "soak"
PAGE = os.sysconf("SC_PAGE_SIZE")
BOUND = 1.0  # per cent
WARM_UP = 2000  # steps
ENOUGH = 20  # checkpoints seen after the warm-up
PATIENCE = 3  # times the minutes
EVERY = 100  # steps: a row of metrics, an evaluation and a checkpoint
ENDLESS = 10**9  # rounds or episodes of agents that are made for a number of them; steps of others
REPLAY = 400  # rows
LEAST = 19  # of priorities


@dataclass
class Options:
    """For how long."""

    agents: tuple[str, ...] = ()
    """Only these."""
    minutes: float = 10.0
    """Of each agent."""
    at_once: int = 1
    """How many agents train at the same time."""
    at_most: float = 1500.0
    """Begin no agent after so many minutes."""


class Sample(NamedTuple):
    """What a process holds at a step."""

    step: int
    resident: int  # bytes
    files: int
    threads: int


@dataclass
class Soak:
    """An agent that trains in a process of its own."""

    name: str
    folder: Path
    pid: int
    began: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def watch(self) -> None:
        """Take a sample where there is a new checkpoint; `RuntimeError` where the run has ended."""
        if (code := ended(self.pid, 0)) is not None:
            raise RuntimeError(f"{self.name} ended with {code}: {(self.folder / 'log').read_text()[-2000:]}")
        steps = checkpoint_steps(self.folder / "r")
        if steps and (not self.samples or steps[-1] > self.samples[-1].step):
            self.samples.append(sampled(self.pid, steps[-1]))

    def stop(self) -> dict[str, Any]:
        """Stop the run as Ctrl-C would, and return how it went; `RuntimeError` where it did too little to count."""
        seconds, cpu = self.seconds, _cpu_seconds(self.pid)
        os.kill(self.pid, signal.SIGINT)
        code, leaks, tail = ended(self.pid, 600), left_over(self.pid), after_warm_up(self.samples)
        if len(tail) < ENOUGH:
            raise RuntimeError(f"{self.name}: {len(tail)} checkpoints seen after the warm-up, in {seconds:.0f} s")
        figures = {"hours": seconds / 3600, "cpu_hours": cpu / 3600, "steps": tail[-1].step, "leaks": leaks}
        figures |= {"exit_code": code, "megabytes": round(tail[-1].resident / 2**20, 1)}
        rises = {f"more_{name}": rise([getattr(one, name) for one in tail]) for name in ("files", "threads")}
        return figures | {"growth_percent": growth(tail)} | rises


def main(options: Options) -> int:
    """Soak, record, and return 1 where a run failed or did too little, grew by more than `BOUND`, or left a process."""
    began, soaked = time.perf_counter(), records.results_of(NAME)
    hours = {name: soaked.get(name, {}).get("hours", 0) for name in options.agents or agents.REGISTRY}
    bad = False

    def done(name: str, found: dict[str, Any] | None) -> None:
        nonlocal bad
        bad = bad or found is None or not holds(found)
        if found is not None:
            total = added(records.results_of(NAME).get(name, {}), found)
            print(name, total, flush=True)
            records.record_job(NAME, name, total, began=began, seeds=[0])

    soak_all(sorted(hours, key=lambda name: hours[name]), options, done)
    return int(bad)


def soak_all(names: list[str], options: Options, done: Callable[[str, dict[str, Any] | None], None]) -> None:
    """Train agents, so many at once, and hand over what was found of each; None where it failed."""
    waiting, running, until = list(names), list[Soak](), time.monotonic() + 60 * options.at_most
    with tempfile.TemporaryDirectory() as place:
        import_all(Path(place), names)
        while waiting or running:
            while waiting and len(running) < options.at_once and time.monotonic() < until:
                running.append(begin(waiting.pop(0), Path(place)))
            if not running:
                return
            time.sleep(1)
            for soak in list(running):
                try:
                    soak.watch()
                    if not is_over(soak, 60 * options.minutes):
                        continue
                    found = soak.stop()
                except RuntimeError as error:
                    print(error, flush=True)
                    found = None
                running.remove(soak)
                done(soak.name, found)


def is_over(soak: Soak, seconds: float) -> bool:
    """Whether the time is over and enough was seen, or the patience is at an end."""
    enough = len(after_warm_up(soak.samples)) >= ENOUGH
    return soak.seconds >= seconds * (1 if enough else PATIENCE)


def import_all(place: Path, names: Sequence[str]) -> None:
    """Import what the runs of these agents need, once and not in each of them."""
    for name in names:
        agents.get(name)
    write_config(place / "config.yaml", "sac", tiny_run("sac", place), None)
    call = surefoot_and_imports(place / "imports", "train", "--config", place / "config.yaml", "--out", place)
    if code := ended(forked(call, place / "log"), 600):
        raise RuntimeError(f"a tiny run ended with {code}: {(place / 'log').read_text()[-2000:]}")
    preload(place / "imports")


def begin(name: str, place: Path) -> Soak:
    """Start a run without an end."""
    folder = place / name
    folder.mkdir()
    write_config(folder / "config.yaml", name, endless(name, write_data(folder / "data.hdf5")), None)
    call = surefoot("train", "--config", folder / "config.yaml", "--out", folder, "--name", "r")
    pid = forked(call, folder / "log")
    os.setpriority(os.PRIO_PROCESS, pid, LEAST)
    return Soak(name, folder, pid)


def endless(name: str, data: Path) -> RunConfig[Any]:
    """Return the tiny run of an agent without an end, its replay so small that it is full when the warm-up ends.

    IWOCS, which ends after its models, stays with its default policy.
    """
    evaluations = EvalConfig(every=EVERY, episodes=2)
    config = tiny_run(name, data, steps=ENDLESS, eval=evaluations, log_every=EVERY, checkpoint_every=EVERY)
    lengths = dict.fromkeys(agents.get(name).task_fields, ENDLESS) | {"default_steps": ENDLESS // 2}
    changes = {key: length for key, length in lengths.items() if key in agents.get(name).tiny}
    changes |= {"replay_capacity": REPLAY} if hasattr(config.agent, "replay_capacity") else {}
    return replace(config, agent=replace(config.agent, **changes))


def holds(found: dict[str, Any]) -> bool:
    """Whether memory, open files and threads stayed, and no process was left."""
    return found["growth_percent"] <= BOUND and not any(found[key] > 0 for key in MORE)


MORE = ("more_files", "more_threads", "leaks")


def added(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return what a soak found with the hours, steps and processes left of the soaks before, and the worst growth."""
    sums = {key: round(found[key] + before.get(key, 0), 4) for key in ("hours", "cpu_hours", "steps", "leaks")}
    worst = {key: max(found[key], before.get(key, found[key])) for key in MORE[:2]}
    percent = max(found["growth_percent"], before.get("worst_growth_percent", -100.0))
    return found | sums | worst | {"worst_growth_percent": percent}


def sampled(pid: int, step: int) -> Sample:
    """Return what a process holds, as in proc(5)."""
    process = Path(f"/proc/{pid}")
    resident = int((process / "statm").read_text().split()[1]) * PAGE
    return Sample(step, resident, *(len(os.listdir(process / name)) for name in ("fd", "task")))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime of proc(5)


def after_warm_up(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples after the first third of the steps, and after `WARM_UP` of them."""
    until = max(WARM_UP, samples[-1].step / 3) if samples else 0
    return [one for one in samples if one.step > until]


def growth(samples: Sequence[Sample]) -> float:
    """Return by how many percent of its mean the line through the resident set over steps rises."""
    steps, resident = (np.array([one[i] for one in samples], dtype=np.float64) for i in (0, 1))
    slope = np.polyfit(steps - steps[0], resident, 1)[0]
    return round(float(100 * slope * (steps[-1] - steps[0]) / resident.mean()), 3)


def rise(numbers: Sequence[int]) -> int:
    """Return by how much the last quarter's median is above the first's: what is open for a moment does not count."""
    quarter = max(1, len(numbers) // 4)
    return statistics.median_low(numbers[-quarter:]) - statistics.median_high(numbers[:quarter])


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
