"""The numbers of a report: interquartile means over seeds with their intervals, worst cases, tails, improvements."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from surefoot import agents
from surefoot.configs.casting import flattened
from surefoot.envs import Physics
from surefoot.evaluation.describe import dynamics
from surefoot.evaluation.figures.words import parameter_label, physics_label
from surefoot.evaluation.objectives import outside
from surefoot.evaluation.regret import last_decade_slope
from surefoot.evaluation.statistics import (
    Comparison,
    Interval,
    cvar,
    iqm,
    probability_of_improvement,
    stratified_bootstrap,
)
from surefoot.evaluation.storage import write_atomically
from surefoot.training.config.baselines import conditions, differing, shown
from surefoot.training.config.measure import OBJECTIVE_COLUMN, RETURN, WORST_CASE
from surefoot.training.config.presets import default_config, to_plain
from surefoot.training.report.data import Cell, Findings, RunFacts
from surefoot.training.report.records import where

TAIL = 0.1  # level of the CVaR that is reported


OBJECTIVE_UNIT = "discounted reward"
PREDICTED = ", predicted"


@dataclass(frozen=True)
class Statistic:
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


class EvalFigure(NamedTuple):
    """A figure of evaluations that a report compares runs by."""

    name: str
    column: str  # of evaluations.csv
    unit: str
    axis: str  # the text of an axis
    point: str = "mean over an evaluation's episodes"


COMMON = (
    EvalFigure(
        "worst case",
        WORST_CASE.column,
        "reward",
        "worst case (sum of rewards)",
        "lowest mean return of the worlds of an evaluation",
    ),
    EvalFigure("score", "score", "D4RL-normalised", "score (0 random, 100 expert)"),
    EvalFigure("return", RETURN.column, "reward", "return (sum of rewards)"),
)


def measured_by(runs: Sequence[RunFacts]) -> list[EvalFigure]:
    """Return the figures that all the runs have evaluations of: what they are for first, the return last."""
    objectives = {run.measure.name for run in runs if run.measure.column == OBJECTIVE_COLUMN}
    kind = OBJECTIVE_COLUMN, OBJECTIVE_UNIT
    own = [EvalFigure(name, *kind, f"{name} (sum of rewards)", "over an evaluation's episodes") for name in objectives]
    possible = [*(own if len(own) == 1 else ()), *COMMON]
    return [figure for figure in possible if runs and all(run.curves.get(figure.column) for run in runs)]


def numbers(findings: Findings) -> list[Statistic]:
    """Return every number of the report's tables: interquartile means over seeds, with 95% intervals from two on."""
    return [statistic for cell in findings.cells if cell.runs for statistic in _of_cell(cell)] + list(_pooled(findings))


def _pooled(findings: Findings) -> Iterator[Statistic]:
    """Yield each method's final score over all its tasks, which are the strata; returns of tasks are not comparable."""
    figure, table = final_values(findings)
    for method in findings.methods:
        tasks = table.get(method.label, {})
        if figure.name == "score" and len(tasks) > 1:
            strata = list(tasks.values())
            interval = stratified_bootstrap(strata, generator=np.random.default_rng(0))
            value = float(iqm(np.concatenate(strata)))
            begun = sum(cell.begun for cell in findings.cells if cell.method == method)
            where = f"all its {len(tasks)} tasks", method.label, method.agent
            yield Statistic(*where, "final score", "D4RL-normalised", value, interval, sum(map(len, strata)), begun)


def _of_cell(cell: Cell) -> Iterator[Statistic]:
    for metric, unit, values in _per_seed(cell):
        interval = stratified_bootstrap([values], generator=np.random.default_rng(0))
        middle = float(iqm(values))
        begun = cell.begun * len(values) // len(cell.runs)  # the replicates of a bandit's run count one by one
        where = cell.task, cell.method.label, cell.method.agent
        yield Statistic(*where, metric, unit, middle, interval, len(values), begun)


def _per_seed(cell: Cell) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield metric, unit and its (runs,) values; the replicates of a bandit's run are runs of their own."""
    if all(run.regret is not None for run in cell.runs):
        yield "final regret", "reward", np.concatenate([run.regret[1][-1] for run in cell.runs if run.regret])
    for figure in measured_by(cell.runs):
        curves = [run.curves[figure.column] for run in cell.runs]
        yield f"final {figure.name}", figure.unit, np.array([curve[max(curve)] for curve in curves])
        best = [curve[run.best] for run, curve in zip(cell.runs, curves, strict=True)]
        yield f"best {figure.name}", figure.unit, np.array(best)
    for metric, values in tails(cell).items():
        yield metric, "reward", values
    for name in shared("objectives", cell):
        for statistic in ("achieved", "predicted"):
            key = "value" if statistic == "achieved" else statistic
            values = np.array([run.measurements.objectives[name][key] for run in cell.runs])
            yield name + (PREDICTED if statistic == "predicted" else ", achieved"), OBJECTIVE_UNIT, values
    for name in shared("grids", cell):
        records = [run.measurements.grids[name] for run in cell.runs]
        yield f"worst case over {name}", "reward", np.array([record["worst"]["mean"] for record in records])
        yield f"average over {name}", "reward", np.array([record["average"] for record in records])
    yield "time", "minutes", np.array([float(run.meta["minutes"]) for run in cell.runs])
    if all(run.steps_per_second for run in cell.runs):
        yield "speed", "steps/s", np.array([run.steps_per_second for run in cell.runs], dtype=np.float64)


def tails(cell: Cell) -> dict[str, np.ndarray]:
    """Return {metric: (runs,) CVaR of a run's episodes} for every environment in which all runs were measured."""
    episodes = [episodes_by_env(run) for run in cell.runs]
    shared = [env for env in episodes[0] if all(env in other for other in episodes)]
    return {f"CVaR {TAIL:g} in {env}": np.array([cvar(each[env], TAIL) for each in episodes]) for env in shared}


def episodes_by_env(run: RunFacts) -> dict[str, np.ndarray]:
    """Return {environment: returns of its episodes, from `surefoot evaluate`}; the last measurement counts."""
    return {where(record): np.array(record["return"]["values"]) for record in run.measurements.single}


def final_values(findings: Findings) -> tuple[EvalFigure, dict[str, dict[str, np.ndarray]]]:
    """Return the figure, and {method: {task: (runs,) final values}} of all methods that are evaluated on episodes.

    It is the first of `measured_by` that every run has: what they are for, else the score, which is comparable across
    tasks, else the return.
    """
    cells = [cell for cell in findings.cells if cell.runs and all(run.curves for run in cell.runs)]
    figure = next(iter(measured_by([run for cell in cells for run in cell.runs])), COMMON[-1])
    table: dict[str, dict[str, np.ndarray]] = {}
    for cell in cells:
        curves = [run.curves[figure.column] for run in cell.runs]
        table.setdefault(cell.method.label, {})[cell.task] = np.array([curve[max(curve)] for curve in curves])
    return figure, table


def misjudged(findings: Findings, statistic: Statistic) -> str:
    """Return in how many runs a prediction lies outside of the interval of what was achieved; empty for none."""
    name = statistic.metric.removesuffix(PREDICTED)
    place = statistic.task, statistic.method
    cells = [cell for cell in findings.cells if (cell.task, cell.method.label) == place]
    every = [run.measurements.objectives for cell in cells for run in cell.runs]
    rows = [found[name] for found in every if name in found]
    if name == statistic.metric or not (missed := [row for row in rows if _missed(row)]):
        return ""
    return f" (outside of the 95% interval of what was achieved in {len(missed)} of {len(rows)} runs)"


def _missed(row: dict[str, Any]) -> bool:
    return bool(row.get("interval")) and outside(row["predicted"], row["interval"])


def shared(kind: Literal["grids", "objectives"], cell: Cell) -> list[str]:
    """Return the uncertainty sets, or the objectives, that all runs of a cell were measured on."""
    found = [getattr(run.measurements, kind) for run in cell.runs]
    names = [name for name in found[0] if all(name in other for other in found)]
    return [name for name in names if len({repr(other[name].get("axes")) for other in found}) == 1]  # other sets' names


class Nominal(NamedTuple):
    """The unmodified task on a map, and its mean return: NaN where that was not measured."""

    row: float
    column: float
    value: float


class ParameterMap(NamedTuple):
    """Mean returns over two physical parameters."""

    names: tuple[str, str]
    table: np.ndarray  # (rows, columns), NaN where nothing was measured
    rows: list[float]
    columns: list[float]
    labels: tuple[str, str]  # of the axes
    nominal: Nominal | None  # None where the map does not hold the unmodified task
    runs: tuple[RunFacts, ...]  # that every number is the mean of
    left_out: int = 0  # points that not all of these runs were measured at


def grid_map(cell: Cell, name: str) -> ParameterMap | None:
    """Return the mean over runs of a grid of two parameters; None for another number of them, or different points."""
    records = [run.measurements.grids[name] for run in cell.runs]
    axes = records[0]["axes"]
    if len(axes) != 2 or any(record["axes"] != axes for record in records):
        return None
    (first, rows), (second, columns) = axes.items()
    means = np.array([[point["mean"] for point in record["table"]] for record in records])  # (R, P)
    at = records[0]["nominal"]["at"]
    value = float(np.mean([record["nominal"]["mean"] for record in records]))
    labels = parameter_label(first), parameter_label(second)
    table = means.mean(0).reshape(len(rows), len(columns))
    return ParameterMap((first, second), table, rows, columns, labels, Nominal(at[first], at[second], value), cell.runs)


def physics_map(cell: Cell) -> ParameterMap | None:
    """Return the mean over runs in single environments, measured by `surefoot evaluate`.

    None unless these environments differ in exactly two parameters. Runs count by their mean; a point at which not all
    measured runs were measured is NaN. Of measurements that differ in more than physics, such as the number of
    episodes, those count that are most.
    """
    runs, found, left_out = _measured_alike(cell)
    points = [point for point, _ in found]
    every = dict.fromkeys(name for point in points for name in point)
    names = [name for name in every if len({point.get(name) for point in points}) > 1]
    if len(names) != 2 or any(name not in point for name in names for point in points):
        return None
    rows, columns = (sorted({point[name] for point in points}) for name in names)
    means = {(point[names[0]], point[names[1]]): float(np.mean(values)) for point, values in found}
    table = np.array([[means.get((row, column), np.nan) for column in columns] for row in rows])
    usual = dynamics(dataclasses.asdict(Physics()))
    others_usual = all(value == usual.get(name) for name, value in points[0].items() if name not in names)
    nominal = None
    if others_usual and all(name in usual for name in names):  # what is nominal of a fixed parameter, the task knows
        place = usual[names[0]], usual[names[1]]
        nominal = Nominal(*place, means.get(place, np.nan))
    labels = physics_label(names[0]), physics_label(names[1])
    return ParameterMap((names[0], names[1]), table, rows, columns, labels, nominal, runs, left_out)


def _measured_alike(cell: Cell) -> tuple[tuple[RunFacts, ...], list[tuple[dict[str, float], list[float]]], int]:
    """Return the runs of the most frequent way to measure, and of the dynamics that all of them have the mean returns.

    Last the number of dynamics that only some have: in a mean over other runs a difference would be that of the runs.
    """
    usual = dataclasses.asdict(Physics())
    records = [(run, record) for run in cell.runs for record in run.measurements.single]
    kinds = [where({**record, "env": {**record["env"], "physics": usual}}) for _, record in records]
    alike = [one for one, kind in zip(records, kinds, strict=True) if kind == max(kinds, key=kinds.count)]
    runs = tuple(run for run in cell.runs if any(run is one for one, _ in alike))
    there: dict[str, tuple[dict[str, float], list[float]]] = {}
    for _, record in alike:  # a run has one record of each `where`
        values = there.setdefault(where(record), (dynamics(record["env"]["physics"]), []))[1]
        values.append(record["return"]["mean"])
    of_all = [(point, values) for point, values in there.values() if len(values) == len(runs)]
    return runs, of_all, len(there) - len(of_all)


class Improvement(NamedTuple):
    """How probably a run of one method beats a run of another, over the tasks that both have."""

    ours: str
    theirs: str
    tasks: int
    seeds: tuple[int, int]  # fewest per task
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


def differences(findings: Findings, task: str, labels: Sequence[str]) -> dict[str, list[str]]:
    """Return {setting: one value per method} of what differs between methods on a task besides the methods themselves.

    Budgets say what they count: a number of updates is another budget than as many environment steps.
    """
    runs = {cell.method.label: cell.runs[0] for cell in findings.cells if cell.task == task and cell.runs}
    settings = [conditions(runs[label].agent, runs[label].config) for label in labels]
    for label, one in zip(labels, settings, strict=True):
        one["steps"] = f"{shown(one['steps'])}{' updates' if agents.get(runs[label].agent).offline else ''}"
    return {name: [shown(one.get(name)) for one in settings] for name in differing(settings) if name != "seed"}


def changes(run: RunFacts) -> dict[str, tuple[Any, Any]]:
    """Return {field: (default, the run's)} of what a run's configuration changes, but for its seed."""
    default = flattened(to_plain(run.agent, default_config(run.agent)))
    mine = flattened(to_plain(run.agent, run.config))
    return {
        name: (default.get(name), value)
        for name, value in mine.items()
        if value != default.get(name) and name not in ("agent_name", "seed", "threads")
    }


def write_csv(statistics: Sequence[Statistic], path: Path) -> None:
    """Write one row a number; the cells of an interval that does not exist are empty."""
    names = [field.name for field in dataclasses.fields(Statistic) if field.name != "interval"]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "low", "high"])
    for statistic in statistics:
        writer.writerow([*(getattr(statistic, name) for name in names), *(statistic.interval or ("", ""))])
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))
