"""What every figure says of itself: the task with its physics, the seeds, and what its lines, bands and colours are."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from surefoot.configs.casting import read_yaml
from surefoot.envs import EnvConfig
from surefoot.evaluation.describe import describe, describe_task

Record = Mapping[str, Any]
UNMODIFIED = "unmodified dynamics"


class Caption(NamedTuple):
    """The words without which a figure cannot be read; nothing is written without them (`style.write_figure`)."""

    task: str  # task, physics, uncertainty set
    seeds: str
    shows: str  # what a point, a line, a band, a colour stands for, and over how many runs or episodes

    def __str__(self) -> str:
        return f"{self.task}; {self.seeds}. {_sentence(self.shows)}."

    def wrapped(self, width: int) -> str:
        """Return the caption in lines of at most so many characters; what it shows begins a line of its own."""
        parts = f"{self.task}; {self.seeds}", _sentence(self.shows)
        return "\n".join(textwrap.fill(part, width, break_on_hyphens=False) for part in parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def caption_of_runs(runs: Mapping[str, Sequence[Record]], shows: str) -> Caption:
    """Return the caption of a figure of labelled runs, from their configurations as plain values (config.yaml).

    Where the labels differ in task, physics or uncertainty set, each of these names its labels.
    """
    groups: dict[str, list[str]] = {}
    for label, configs in runs.items():
        for text in dict.fromkeys(map(task_of_run, configs)):
            groups.setdefault(text, []).append(label)
    several = len(groups) > 1
    tasks = [f"{text} ({', '.join(labels)})" if several else text for text, labels in groups.items()]
    seeds = {int(config["seed"]) for configs in runs.values() for config in configs}
    return Caption("; ".join(tasks), seeds_in_words(seeds), shows)


def caption_of_policy(
    label: str, task: EnvConfig, training_seed: int | None, reset_seeds: Sequence[int], shows: str = ""
) -> Caption:
    """Return the caption of what was measured of one policy in one task; an archive does not know its seed."""
    trained = "an unknown training seed" if training_seed is None else f"training {seeds_in_words([training_seed])}"
    where = f"{label} in {task_with_dynamics(asdict(task))}"
    return Caption(where, f"{trained}, reset {seeds_in_words(reset_seeds)}", shows)


def task_of_run(config: Record) -> str:
    """Return task, physics and uncertainty set of a run.

    Such as `Hopper-v5, unmodified dynamics, trained in the uncertainty set hopper-2`.
    """
    task = describe_task(config["env"], config["eval"]["physics"])
    if "; evaluated" not in task:
        task = task_with_dynamics(config["env"])
    trained = config.get("uncertainty")
    return f"{task}, trained in the uncertainty set {trained}" if trained else task


def task_with_dynamics(env: Record) -> str:
    """Return a task with its physics, also where nothing is modified: `Pendulum-v1, unmodified dynamics`."""
    physics = {**env, "backend": "mujoco", "max_episode_steps": None, "action_repeat": 1, "kwargs": {}}
    return describe(env) if describe(physics) != env["id"] else f"{describe(env)}, {UNMODIFIED}"


def seeds_in_words(seeds: Iterable[int]) -> str:
    """Return `seed 3`, `seeds 0, 1` or `seeds 0–9, 12`."""
    ordered = sorted(set(seeds))
    starts = [seed for seed in ordered if seed - 1 not in ordered]
    ends = [seed for seed in ordered if seed + 1 not in ordered]
    spans = [f"{a}" if a == b else f"{a}, {b}" if b == a + 1 else f"{a}–{b}" for a, b in zip(starts, ends, strict=True)]
    return f"seed{'s' if len(ordered) > 1 else ''} {', '.join(spans)}"


def band_of_runs(counts: Iterable[int]) -> str:
    """Return what line and band are, given how many runs stand behind each line."""
    runs = set(counts)
    if runs == {1}:
        return "one run a line: no band"
    lone = "; no band where there is a single run" if 1 in runs else ""
    return f"line: interquartile mean over runs, at the steps that all have; band: its 95% bootstrap interval{lone}"


def without_steps(steps: Sized) -> str:
    """Return what a legend adds to a line of several runs that have no step in common; "" where it has points."""
    return "" if len(steps) else ", no step in common"


def configs_of(folders: Sequence[Path]) -> list[Record]:
    """Return the configurations of run folders as plain values."""
    return [config_of(folder) for folder in folders]


def config_of(folder: Path) -> Record:
    """Return the configuration of a run folder as plain values."""
    path = folder / "config.yaml"
    return _read(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=64)
def _read(path: Path, changed: int) -> Record:
    """Return a configuration, read once: every line of every panel asks whose it is, and YAML takes its time."""
    return read_yaml(path)
