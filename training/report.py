"""What a report is made of: the runs found, grouped by task and method, and the numbers of its tables."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from surefoot import agents
from surefoot.envs import EnvConfig
from surefoot.training import sweep
from surefoot.training.commands_evaluate import describe
from surefoot.training.config import RunConfig
from surefoot.training.plots import last_decade_slope
from surefoot.training.presets import default_config, to_plain
from surefoot.training.run_folder import load_regret, read_config, read_meta
from surefoot.training.statistics import (
    Comparison,
    Interval,
    cvar,
    iqm,
    probability_of_improvement,
    stratified_bootstrap,
)

TAIL = 0.1  # level of the CVaR that is reported
OBJECTIVE_UNIT = "discounted reward"
PASSED_BY = ("checkpoints", "plots", "videos", sweep.RAY_FOLDER)  # what holds no runs, or copies of them


class Skipped(NamedTuple):
    """A folder that looks like a run but cannot be read."""

    folder: Path
    reason: str


class Loss(NamedTuple):
    """A run that is not part of any number."""

    name: str
    status: str
    end_of_log: str


@dataclass(frozen=True)
class RunFacts:
    """One run as the report uses it."""

    folder: Path
    agent: str
    config: RunConfig
    meta: dict[str, Any]
    returns: dict[int, float]  # step -> mean return of the evaluation
    scores: dict[int, float]  # step -> mean D4RL-normalised score; empty where the task has none
    steps_per_second: float | None
    measured: tuple[dict[str, Any], ...]  # records of `surefoot evaluate`, one a world
    grids: dict[str, dict[str, Any]]  # records of `surefoot evaluate --grid` by uncertainty set
    objectives: dict[str, dict[str, Any]]  # rows of `surefoot evaluate --objective` and of the run's own, by their name
    regret: tuple[np.ndarray, np.ndarray] | None  # where that is the measure: rounds or episodes (P,), regret (P, N)

    @property
    def finished(self) -> bool:
        """Whether the run was carried through: only then is it part of a number."""
        return self.meta.get("status") == "finished"


@dataclass(frozen=True)
class Method:
    """Runs that differ in nothing but task and seed."""

    label: str
    agent: str
    variant: int  # among the methods of the same agent: what tells their lines apart
    config: RunConfig  # of its first run


@dataclass(frozen=True)
class Cell:
    """The finished runs of a method on a task."""

    task: str
    method: Method
    runs: tuple[RunFacts, ...]
    begun: int  # unfinished ones included


@dataclass(frozen=True)
class Findings:
    """Everything found under the folders of a report."""

    cells: tuple[Cell, ...]
    methods: tuple[Method, ...]
    tasks: tuple[str, ...]
    runs: tuple[RunFacts, ...]
    losses: tuple[Loss, ...]
    skipped: tuple[Skipped, ...]


# --- from folders to cells --------------------------------------------------------------------------------------------


def gather(roots: Sequence[Path]) -> Findings:
    """Return all runs under the folders, each once. `FileNotFoundError` for a folder that is not there.

    `ValueError` where there is no run at all; a damaged one is skipped and named.
    """
    runs, skipped = [], []
    for folder in find_runs(roots):
        try:
            runs.append(read_run(folder))
        except (ValueError, OSError, KeyError, TypeError, csv.Error) as error:
            skipped.append(Skipped(folder, " ".join(str(error).split()) or type(error).__name__))
    if not runs:
        reasons = "".join(f"; {one.folder}: {one.reason}" for one in skipped)
        raise ValueError(f"no run in {', '.join(map(str, roots))}{reasons}; name run folders or folders that hold some")
    methods = name_methods(runs)
    cells = tuple(_cells(runs, methods))
    tasks = tuple(dict.fromkeys(cell.task for cell in cells))
    return Findings(cells, tuple(methods.values()), tasks, tuple(runs), tuple(_losses(runs, roots)), tuple(skipped))


def find_runs(roots: Sequence[Path]) -> list[Path]:
    """Return the folders under `roots` that are or were meant to be runs, each once, companions included."""
    found: dict[Path, Path] = {}
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: no such folder; name run folders or folders that hold some")
        for place, folders, files in os.walk(root):
            folders[:] = sorted(name for name in folders if name not in PASSED_BY)
            if {"config.yaml", "meta.json"} & set(files):
                found.setdefault(Path(place).resolve(), Path(place))
                folders[:] = [name for name in folders if name == "beside"]
    return list(found.values())


def read_run(folder: Path) -> RunFacts:
    """Return what one run folder says. Raises `ValueError`, `OSError` or `KeyError` where it is damaged."""
    agent_name, config = read_config(folder)
    meta = read_meta(folder)
    by_regret = agents.get(agent_name).regret is not None
    regret = load_regret(folder) if by_regret and meta.get("status") == "finished" else None
    returns, scores = read_evaluations(folder / "evaluations.csv")
    if meta.get("status") == "finished" and not by_regret and not returns:
        raise ValueError("finished, but its evaluations.csv has no row")
    measured = tuple(read_measurements(folder / "evaluations"))
    grids = {f"{r['set']} ({r['grid']}, n={r['n']})": r for r in read_records(folder / "evaluations") if "axes" in r}
    objectives = dict(read_objectives(folder, config))
    speed = _speed(folder)
    return RunFacts(folder, agent_name, config, meta, returns, scores, speed, measured, grids, objectives, regret)


def read_records(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what `surefoot evaluate` wrote, whatever kind of measurement it was."""
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict):
            yield record


def read_measurements(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the measurements of one world each; other kinds are passed by."""
    for record in read_records(folder):
        if {"env", "return"} <= set(record) and "values" in record["return"]:
            yield record


def read_objectives(folder: Path, config: RunConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `cvar(0.1) in WORLD` and its row: those measured when the run ended, then those measured since."""
    if (folder / "objectives.json").is_file():
        rows = json.loads((folder / "objectives.json").read_text(encoding="utf-8"))
        world = describe(asdict(dataclasses.replace(config.env, physics=config.eval.physics)))
        yield from ((f"{row['objective']} in {world}", row) for row in rows if row["run"] == rows[0]["run"])
    for record in read_records(folder / "evaluations"):
        if "objectives" in record:
            world = describe(record["env"])
            yield from ((f"{row['objective']} in {world}", row) for row in record["results"])


def read_evaluations(path: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Return {step: mean} of the returns and of the scores; a run's episodes count by their mean."""
    returns: dict[int, list[float]] = {}
    scores: dict[int, list[float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            step = int(float(row["step"]))
            returns.setdefault(step, []).append(float(row["episode_return"]))
            if row["score"]:
                scores.setdefault(step, []).append(float(row["score"]))
    return _means(returns), _means(scores)


def _means(values: dict[int, list[float]]) -> dict[int, float]:
    return {step: float(np.mean(many)) for step, many in sorted(values.items())}


def _speed(folder: Path) -> float | None:
    """Return steps a second over the whole run, evaluations and logging included."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return float(rows[-1]["step"]) / float(rows[-1]["seconds"]) if rows and float(rows[-1]["seconds"]) else None


def task_key(run: RunFacts) -> str:
    """Return what makes runs comparable: the task they train in and the dynamics they are measured in."""
    return describe_task(run.config)


def describe_task(config: RunConfig) -> str:
    """Return the task in words, such as `Hopper-v5, gravity 2.0; evaluated in the stock dynamics`."""
    text = describe(asdict(config.env))
    if config.env.physics == config.eval.physics:
        return text
    measured = describe(asdict(EnvConfig(config.env.id, config.eval.physics))).partition(", ")[2]
    return f"{text}; evaluated with {measured}" if measured else f"{text}; evaluated in the stock dynamics"


def method_key(run: RunFacts) -> str:
    """Return all that decides a run's numbers but its task and its seed."""
    config = run.config
    fields = (config.agent, config.data, config.uncertainty, config.steps, config.num_seeds, config.env.num_envs)
    return repr((run.agent, *fields))


def name_methods(runs: Sequence[RunFacts]) -> dict[str, Method]:
    """Return {method key: method}. Methods of one agent are told apart by the settings in which they differ."""
    firsts: dict[str, RunFacts] = {}
    for run in runs:
        firsts.setdefault(method_key(run), run)
    counts: dict[str, int] = {}
    methods = {}
    for key, run in firsts.items():
        others = [other for other in firsts.values() if other.agent == run.agent]
        variant = counts.setdefault(run.agent, 0)
        counts[run.agent] += 1
        methods[key] = Method(_label(run, others), run.agent, variant, run.config)
    return methods


def _label(run: RunFacts, others: Sequence[RunFacts]) -> str:
    flat = [_method_settings(other) for other in others]
    mine = _method_settings(run)
    differing = [name for name in mine if any(other.get(name) != mine[name] for other in flat)]
    return ", ".join([run.agent, *(f"{name.rpartition('.')[2]} {mine[name]}" for name in differing)])


def _method_settings(run: RunFacts) -> dict[str, Any]:
    plain = to_plain(run.agent, run.config)
    kept = {"agent": plain["agent"], "data": plain["data"], "num_envs": plain["env"]["num_envs"]}
    return flattened(kept | {name: plain[name] for name in ("uncertainty", "steps", "num_seeds")})


def flattened(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one level of dotted names."""
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return flat


def _cells(runs: Sequence[RunFacts], methods: dict[str, Method]) -> Iterator[Cell]:
    groups: dict[tuple[str, str], list[RunFacts]] = {}
    for run in runs:
        groups.setdefault((task_key(run), method_key(run)), []).append(run)
    for (task, key), members in sorted(groups.items(), key=lambda item: item[0][0]):
        yield Cell(task, methods[key], tuple(run for run in members if run.finished), len(members))


def _losses(runs: Sequence[RunFacts], roots: Sequence[Path]) -> Iterator[Loss]:
    """Yield the runs that did not finish, with the end of their log where a sweep kept one, and those never begun."""
    told: dict[Path, dict[str, Any]] = {}
    for folder in {one for root in roots for one in (root, *root.rglob("sweep.yaml"))}:
        place = folder.parent if folder.name == "sweep.yaml" else folder
        if (place / "sweep.yaml").is_file():
            told |= {(place / "runs" / name).resolve(): failure for name, failure in sweep.read_failures(place).items()}
    begun = {run.folder.resolve() for run in runs}
    for run in runs:
        if not run.finished:
            failure = told.get(run.folder.resolve(), {})
            status = f"failed after {failure['tries']} tries" if failure else str(run.meta.get("status"))
            yield Loss(run.folder.name, status, failure.get("end_of_log", ""))
    for path, failure in told.items():
        if path not in begun:
            yield Loss(path.name, f"failed {failure['tries']} times before it began", failure["end_of_log"])


# --- numbers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """One number of the report, and how many seeds stand behind it."""

    task: str
    method: str
    agent: str
    metric: str
    unit: str
    value: float
    interval: Interval | None
    seeds: int
    begun: int


def numbers(findings: Findings) -> list[Figure]:
    """Return every number of the report's tables: interquartile means over seeds, with 95% intervals from two on."""
    return [figure for cell in findings.cells if cell.runs for figure in _of_cell(cell)] + list(_pooled(findings))


def _pooled(findings: Findings) -> Iterator[Figure]:
    """Yield each method's final score over all its tasks, which are the strata; returns of tasks are not comparable."""
    unit, table = final_values(findings)
    for method in findings.methods:
        tasks = table.get(method.label, {})
        if unit == "score" and len(tasks) > 1:
            strata = list(tasks.values())
            interval = stratified_bootstrap(strata, generator=np.random.default_rng(0))
            value = float(iqm(np.concatenate(strata)))
            begun = sum(cell.begun for cell in findings.cells if cell.method == method)
            where = f"all its {len(tasks)} tasks", method.label, method.agent
            yield Figure(*where, "final score", "D4RL-normalised", value, interval, sum(map(len, strata)), begun)


def _of_cell(cell: Cell) -> Iterator[Figure]:
    for metric, unit, values in _per_seed(cell):
        interval = stratified_bootstrap([values], generator=np.random.default_rng(0))
        middle = float(iqm(values))
        begun = cell.begun * len(values) // len(cell.runs)  # the replicates of a bandit's run count one by one
        where = cell.task, cell.method.label, cell.method.agent
        yield Figure(*where, metric, unit, middle, interval, len(values), begun)


def _per_seed(cell: Cell) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield metric, unit and its (runs,) values; the replicates of a bandit's run are runs of their own."""
    if all(run.regret is not None for run in cell.runs):
        yield "final regret", "reward", np.concatenate([run.regret[1][-1] for run in cell.runs if run.regret])
    for name, unit, pick in (("return", "reward", "returns"), ("score", "D4RL-normalised", "scores")):
        curves: list[dict[int, float]] = [getattr(run, pick) for run in cell.runs]
        if all(curves):
            yield f"final {name}", unit, np.array([curve[max(curve)] for curve in curves])
            yield f"best {name}", unit, np.array([max(curve.values()) for curve in curves])
    for metric, values in tails(cell).items():
        yield metric, "reward", values
    for name in shared("objectives", cell):
        for figure in ("reached", "promised"):
            key = "value" if figure == "reached" else figure
            values = np.array([run.objectives[name][key] for run in cell.runs])
            yield f"{name}, {figure}", OBJECTIVE_UNIT, values
    for name in shared("grids", cell):
        records = [run.grids[name] for run in cell.runs]
        yield f"worst case over {name}", "reward", np.array([record["worst"]["mean"] for record in records])
        yield f"average over {name}", "reward", np.array([record["average"] for record in records])
    yield "time", "minutes", np.array([float(run.meta["minutes"]) for run in cell.runs])
    if all(run.steps_per_second for run in cell.runs):
        yield "speed", "steps/s", np.array([run.steps_per_second for run in cell.runs], dtype=np.float64)


def tails(cell: Cell) -> dict[str, np.ndarray]:
    """Return {metric: (runs,) CVaR of a run's episodes} for every world in which all runs of the cell were measured."""
    worlds = [episodes_by_world(run) for run in cell.runs]
    shared = [world for world in worlds[0] if all(world in other for other in worlds)]
    return {f"CVaR {TAIL:g} in {world}": np.array([cvar(each[world], TAIL) for each in worlds]) for world in shared}


def episodes_by_world(run: RunFacts) -> dict[str, np.ndarray]:
    """Return {world: returns of the episodes that `surefoot evaluate` played there}; the last measurement counts."""
    return {describe(record["env"]): np.array(record["return"]["values"]) for record in run.measured}


def final_values(findings: Findings) -> tuple[str, dict[str, dict[str, np.ndarray]]]:
    """Return the unit, and {method: {task: (runs,) final values}} of all methods that are evaluated on episodes.

    Scores are comparable across tasks and are used where every run has one.
    """
    cells = [cell for cell in findings.cells if cell.runs and all(run.returns for run in cell.runs)]
    scored = bool(cells) and all(run.scores for cell in cells for run in cell.runs)
    table: dict[str, dict[str, np.ndarray]] = {}
    for cell in cells:
        curves = [run.scores if scored else run.returns for run in cell.runs]
        table.setdefault(cell.method.label, {})[cell.task] = np.array([curve[max(curve)] for curve in curves])
    return "score" if scored else "return", table


def shared(kind: Literal["grids", "objectives"], cell: Cell) -> list[str]:
    """Return the uncertainty sets, or the objectives, that all runs of a cell were measured on."""
    return [name for name in getattr(cell.runs[0], kind) if all(name in getattr(run, kind) for run in cell.runs)]


class WorldMap(NamedTuple):
    """Mean returns over two physical parameters."""

    names: tuple[str, str]
    table: np.ndarray  # (rows, columns), NaN where nothing was measured
    rows: list[float]
    columns: list[float]


def grid_map(cell: Cell, name: str) -> WorldMap | None:
    """Return the mean over runs of a grid of two parameters; None for another number of them."""
    records = [run.grids[name] for run in cell.runs]
    axes = records[0]["axes"]
    if len(axes) != 2:
        return None
    (first, rows), (second, columns) = axes.items()
    means = np.array([[point["mean"] for point in record["table"]] for record in records])  # (R, P)
    return WorldMap((first, second), means.mean(0).reshape(len(rows), len(columns)), rows, columns)


def worlds(cell: Cell) -> WorldMap | None:
    """Return the mean over runs in single worlds that `surefoot evaluate` played.

    None unless `surefoot evaluate` played the runs in worlds that differ in exactly two parameters. Runs count by
    their mean; a world not measured is NaN.
    """
    records = [record for run in cell.runs for record in run.measured]
    points = [record["env"]["physics"] for record in records]
    names = [name for name in (points[0] if points else ()) if len({point[name] for point in points}) > 1]
    if len(names) != 2:
        return None
    rows, columns = (sorted({point[name] for point in points}) for name in names)
    there: dict[tuple[float, float], list[float]] = {}
    for record, point in zip(records, points, strict=True):
        there.setdefault((point[names[0]], point[names[1]]), []).append(record["return"]["mean"])
    table = np.array([[np.mean(there.get((row, column), [np.nan])) for column in columns] for row in rows])
    return WorldMap((names[0], names[1]), table, rows, columns)


class Improvement(NamedTuple):
    """How probably a run of one method beats a run of another, over the tasks that both have."""

    ours: str
    theirs: str
    tasks: int
    seeds: tuple[int, int]  # fewest a task
    probability: Comparison


def improvements(findings: Findings) -> list[Improvement]:
    """Return the probability of improvement of every pair of methods with a task in common."""
    _, table = final_values(findings)
    pairs = []
    for ours, theirs in combinations(table, 2):
        tasks = [task for task in table[ours] if task in table[theirs]]
        if tasks:
            x, y = ([table[method][task] for task in tasks] for method in (ours, theirs))
            found = probability_of_improvement(x, y, generator=np.random.default_rng(0))
            seeds = (min(map(len, x)), min(map(len, y)))
            pairs.append(Improvement(ours, theirs, len(tasks), seeds, found))
    return pairs


def slopes(cell: Cell) -> tuple[float, int]:
    """Return the log-log slope of a bandit's mean regret over the last decade of rounds, and its replicates."""
    curves = [run.regret for run in cell.runs if run.regret is not None]
    regret = np.concatenate([curve for _, curve in curves], axis=1)
    return last_decade_slope(curves[0][0], regret), regret.shape[1]


def changes(run: RunFacts) -> dict[str, tuple[Any, Any]]:
    """Return {field: (default, the run's)} of what a run's configuration changes, but for its seed."""
    default = flattened(to_plain(run.agent, default_config(run.agent)))
    mine = flattened(to_plain(run.agent, run.config))
    return {
        name: (default.get(name), value)
        for name, value in mine.items()
        if value != default.get(name) and name not in ("agent_name", "seed", "threads")
    }


def write_csv(figures: Sequence[Figure], path: Path) -> None:
    """Write one row a number; the cells of an interval that does not exist are empty."""
    names = [field.name for field in dataclasses.fields(Figure) if field.name != "interval"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, "low", "high"])
        for figure in figures:
            writer.writerow([*(getattr(figure, name) for name in names), *(figure.interval or ("", ""))])
