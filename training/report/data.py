"""What a report is made of: the runs found, grouped by task and method, and the numbers of its tables."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from surefoot import agents
from surefoot.agents.interface import Style
from surefoot.evaluation.describe import describe_task
from surefoot.evaluation.figures.style import agent_style, distinct_styles
from surefoot.evaluation.regret import load_regret
from surefoot.offline_data.scores import EPISODE_STEPS
from surefoot.training.config.measure import OBJECTIVE_COLUMN, RETURN, WORST_CASE, Measure, measure_of
from surefoot.training.config.run import RunConfig
from surefoot.training.report.records import Measurements, Skipped, read_failures, read_measurements, skipping
from surefoot.training.runs.folder import full_name, read_config, read_meta, seed_folder, seed_folders, whole_run
from surefoot.training.runs.setting import Copy, Settings, copies_of, copy_note, in_label, setting_of, what_differs
from surefoot.training.sweep import plan

OF_THE_TASK = (
    "env.id",
    "env.physics.",
    "env.max_episode_steps",
    "env.action_repeat",
    "env.kwargs",
    "eval.physics.",
)  # settings of it
PASSED_BY = ("checkpoints", "plots", "videos", plan.RAY_FOLDER)  # what holds no runs, or copies of them


class Loss(NamedTuple):
    """A run that is not part of any number."""

    name: str
    status: str
    end_of_log: str


class Repeat(NamedTuple):
    """A finished run that is part of no number: another one of the same seed and settings counts in its place."""

    run: RunFacts
    counted: RunFacts

    @property
    def note(self) -> str:
        """Which run it is, and which one counts."""
        return copy_note(self.run.folder, self.run.config.seed, self.counted.folder)


@dataclass(frozen=True)
class RunFacts:
    """One run as the report uses it."""

    folder: Path
    agent: str
    config: RunConfig[Any]
    meta: dict[str, Any]
    measure: Measure  # what its best.pt was chosen by
    curves: dict[str, dict[int, float]]  # column of evaluations.csv -> step -> mean over episodes, where it has values
    steps_per_second: float | None
    measurements: Measurements  # that lie beside its own files
    regret: tuple[np.ndarray, np.ndarray] | None  # where that is the measure: rounds or episodes (P,), regret (P, N)

    @property
    def best(self) -> int:
        """The step of the best evaluation by what the run is for, of equal ones the last: that of best.pt."""
        curve = self.curves[self.measure.column]
        return max(curve, key=lambda step: (curve[step], step))

    @property
    def finished(self) -> bool:
        """Whether the run was carried through: only then is it part of a number."""
        return self.meta.get("status") == "finished"


@dataclass(frozen=True)
class Method:
    """Runs that differ in nothing but task and seed."""

    label: str
    agent: str
    variant: int  # among the methods of the same agent: by which their markers differ
    config: RunConfig[Any]  # of its first run
    style: Style  # of its lines on the page


@dataclass(frozen=True)
class Cell:
    """The finished runs of a method on a task, one a seed."""

    task: str
    method: Method
    runs: tuple[RunFacts, ...]
    begun: int  # seeds, unfinished ones included


@dataclass(frozen=True)
class Findings:
    """Everything found under the folders of a report."""

    cells: tuple[Cell, ...]
    methods: tuple[Method, ...]
    tasks: tuple[str, ...]
    runs: tuple[RunFacts, ...]  # without `repeats`
    losses: tuple[Loss, ...]
    skipped: tuple[Skipped, ...]
    repeats: tuple[Repeat, ...]


# --- from folders to cells --------------------------------------------------------------------------------------------


def gather(roots: Sequence[Path]) -> Findings:
    """Return all runs under the folders, each once. `FileNotFoundError` for a folder that is not there.

    `ValueError` where there is no run at all; a damaged one is skipped and named, and so is an odd file in a run.
    """
    runs: list[RunFacts] = []
    skipped: list[Skipped] = []
    for folder in find_runs(roots):
        with skipping(folder, skipped):
            runs.append(read_run(folder))
            skipped += runs[-1].measurements.skipped
    if not runs:
        reasons = "".join(f"; {one.path}: {one.reason}" for one in skipped)
        raise ValueError(f"no run in {', '.join(map(str, roots))}{reasons}; name run folders or folders that hold some")
    losses = tuple(_losses(runs, roots, skipped))
    repeats = tuple(_repeats([run for run in runs if run.finished]))
    once = [run for run in runs if all(run is not repeat.run for repeat in repeats)]
    methods = name_methods(once)
    cells = tuple(_cells(once, methods))
    tasks = tuple(dict.fromkeys(cell.task for cell in cells))
    return Findings(cells, tuple(methods.values()), tasks, tuple(once), losses, tuple(skipped), repeats)


def _repeats(runs: Sequence[RunFacts]) -> Iterator[Repeat]:
    """Yield the runs of a seed that another run of the same task and method has, too."""
    for place, counted in copies_of([_copy(run) for run in runs]).items():
        yield Repeat(runs[place], runs[counted])


def _copy(run: RunFacts) -> Copy:
    last = max((max(curve) for curve in run.curves.values() if curve), default=0)  # a bandit's run has no evaluation
    return Copy(task_key(run) + method_key(run), run.config.seed, last, str(run.meta.get("updated", "")))


def find_runs(roots: Sequence[Path]) -> list[Path]:
    """Return the folders under `roots` that are or were meant to be runs, each once: linked and baseline runs, too."""
    found: dict[Path, Path] = {}
    for place, folders, files in _walk(roots):
        if {"config.yaml", "meta.json"} & files:
            seeds = seed_folders(place)
            found |= {path.resolve(): path for path in seeds if path.resolve() not in found}
            folders[:] = [name for name in folders if name == "baselines"]
    return list(found.values())


def _walk(roots: Sequence[Path]) -> Iterator[tuple[Path, list[str], set[str]]]:
    """Yield every folder under the roots that may hold runs, with the names in it, as `os.walk` does.

    Links are followed, and each folder is visited once: a link may lead to a folder above it.
    """
    visited: set[Path] = set()
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: no such folder; name run folders or folders that hold some")
        for place, folders, files in os.walk(root, followlinks=True):
            real = Path(place).resolve()
            folders[:] = sorted(name for name in folders if name not in PASSED_BY)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            yield Path(place), folders, set(files)


def read_run(folder: Path) -> RunFacts:
    """Return the facts of one run folder. Raises one of `ODD` where it is damaged."""
    agent_name, config = read_config(folder)
    meta = read_meta(folder)
    if meta.get("status") == "finished":
        float(meta["minutes"])
    by_regret = agents.get(agent_name).regret is not None
    regret = load_regret(folder) if by_regret and meta.get("status") == "finished" else None
    curves = read_evaluations(folder / "evaluations.csv")
    if meta.get("status") == "finished" and not by_regret and not curves:
        raise ValueError("finished, but its evaluations.csv has no row")
    if config.env.max_episode_steps not in (None, EPISODE_STEPS):
        curves.pop("score", None)  # of a version that scaled returns of any time limit
    returns = curves.get(RETURN.column, {})
    if wrong := [step for step, mean in returns.items() if not np.isfinite(mean)]:
        raise ValueError(f"the return of its evaluation at step {wrong[0]} is {returns[wrong[0]]}")
    measure = measure_of(agent_name, config)
    if curves and measure.column not in curves:
        measure = RETURN  # of a version whose evaluations measured nothing else
    if curves and measure.column not in curves:
        raise ValueError(f"its evaluations.csv has no values of {measure.column}")
    found = _speed(folder), read_measurements(folder, config), regret
    return RunFacts(folder, agent_name, config, meta, measure, curves, *found)


def read_evaluations(path: Path) -> dict[str, dict[int, float]]:
    """Return {column: {step: mean over the episodes}} of the columns that have values."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    curves: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        for column in ("episode_return", "score", WORST_CASE.column, OBJECTIVE_COLUMN):
            if row.get(column):
                curves.setdefault(column, {}).setdefault(int(float(row["step"])), []).append(float(row[column]))
    return {column: {step: _mean(many) for step, many in sorted(by.items())} for column, by in curves.items()}


def _mean(values: list[float]) -> float:
    """Return the mean, or the very number where all are the same: a figure of the evaluation as a whole."""
    return values[0] if len(set(values)) == 1 else float(np.mean(values))


def _speed(folder: Path) -> float | None:
    """Return steps per second over the whole run, evaluations and logging included."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return float(rows[-1]["step"]) / float(rows[-1]["seconds"]) if rows and float(rows[-1]["seconds"]) else None


def task_key(run: RunFacts) -> str:
    """Return what makes runs comparable: the task they train in and the dynamics they are measured in."""
    return describe_task(asdict(run.config.env), asdict(run.config.eval.physics))


def method_key(run: RunFacts) -> str:
    """Return all that decides a run's numbers but its task and its seed."""
    return repr(_method_settings(run))


def name_methods(runs: Sequence[RunFacts]) -> dict[str, Method]:
    """Return {method key: method}. Methods of one agent are named by the settings in which they differ."""
    firsts: dict[str, RunFacts] = {}
    for run in runs:
        firsts.setdefault(method_key(run), run)
    counts: dict[str, int] = {}
    methods = {}
    styles = distinct_styles([agent_style(run.agent) for run in firsts.values()])
    for (key, run), style in zip(firsts.items(), styles, strict=True):
        others = [other for other in firsts.values() if other.agent == run.agent]
        variant = counts.setdefault(run.agent, 0)
        counts[run.agent] += 1
        methods[key] = Method(_label(run, others), run.agent, variant, run.config, style)
    return methods


def _label(run: RunFacts, others: Sequence[RunFacts]) -> str:
    flat = [_method_settings(other) for other in others]
    mine = _method_settings(run)
    return ", ".join([run.agent, *in_label(mine, what_differs(flat))])


def _method_settings(run: RunFacts) -> Settings:
    whole = setting_of(run.agent, run.config, run.meta)
    return {name: value for name, value in whole.items() if not name.startswith(OF_THE_TASK)}


def _cells(runs: Sequence[RunFacts], methods: dict[str, Method]) -> Iterator[Cell]:
    groups: dict[tuple[str, str], list[RunFacts]] = {}
    for run in runs:
        groups.setdefault((task_key(run), method_key(run)), []).append(run)
    for (task, key), members in sorted(groups.items(), key=lambda item: item[0][0]):
        seeds = {run.config.seed for run in members}
        yield Cell(task, methods[key], tuple(run for run in members if run.finished), len(seeds))


def _losses(runs: Sequence[RunFacts], roots: Sequence[Path], skipped: list[Skipped]) -> Iterator[Loss]:
    """Yield the runs that did not finish, with the end of their log where a sweep kept one, and those never begun."""
    failures: dict[Path, dict[str, Any]] = {}
    sweeps = {place for place, _, files in _walk(roots) if "sweep.yaml" in files}
    for place in sorted(sweeps):
        failures |= {(place / "runs" / name).resolve(): one for name, one in read_failures(place, skipped).items()}
    begun = {whole_run(run.folder.resolve()) for run in runs}
    for run in runs:
        if not run.finished:
            failure = failures.get(whole_run(run.folder.resolve()), {})
            status = f"failed after {failure['tries']} tries" if failure else str(run.meta.get("status"))
            yield Loss(full_name(run.folder), status, failure.get("end_of_log", ""))
    yield from _seeds_not_begun(begun - {run.folder.resolve() for run in runs})
    for path, failure in failures.items():
        if path not in begun:
            yield Loss(path.name, f"failed {failure['tries']} times before it began", failure["end_of_log"])


def _seeds_not_begun(runs: set[Path]) -> Iterator[Loss]:
    """Yield the seeds of runs with several that have no folder yet."""
    for run in sorted(runs):
        config = read_config(run)[1]
        for seed in range(config.seed, config.seed + config.num_seeds):
            if not seed_folder(run, seed).is_dir():
                yield Loss(full_name(seed_folder(run, seed)), "not begun", "")


# --- numbers ----------------------------------------------------------------------------------------------------------
