"""Figures of runs: learning curves with their spread over seeds, and the metrics an agent logged."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from surefoot.evaluation.figures.style import agent_of, agent_style, legend_below, style_of, turn_style, write_figure
from surefoot.evaluation.regret import last_decade_slope, load_regret
from surefoot.evaluation.statistics import iqm, stratified_bootstrap

EVALUATION_LABELS = {
    "episode_return": "evaluation return (sum of rewards)",
    "score": "D4RL-normalised score (0 random, 100 expert)",
    "length": "evaluation episode length (steps)",
}
Runs = Mapping[str, Path | Sequence[Path]]


class Curve(NamedTuple):
    """A quantity along training: one row per run, NaN where a run has no value."""

    steps: np.ndarray  # (T,)
    values: np.ndarray  # (R, T)


def learning_curves(
    runs: Runs, out: Path, *, metric: str = "episode_return", references: Mapping[str, float] | None = None
) -> Path:
    """Draw one line per label from the `evaluations.csv` of its run folder(s), write the figure to `out`, return `out`.

    Several runs under one label are its seeds: the line is their interquartile mean and the band the 95% bootstrap
    interval over runs. A single run has a line and no band. `references` are named horizontal lines.
    """
    if metric not in EVALUATION_LABELS:
        raise ValueError(f"unknown evaluation metric {metric!r}; choose one of {', '.join(EVALUATION_LABELS)}")
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    _draw_curves(axes, runs, "evaluations.csv", metric)
    for i, (name, value) in enumerate((references or {}).items()):
        axes.axhline(value, color="0.45", linewidth=1.0, linestyle=(0, (1 + 2 * i, 2)), label=name, zorder=1)
    axes.set_ylabel(EVALUATION_LABELS[metric])
    legend_below(figure, axes)
    return write_figure(figure, out)


def metric_panels(runs: Runs, out: Path, metrics: Sequence[str]) -> Path:
    """Draw one panel per metric, a column of `metrics.csv`, with one line per label; write and return `out`."""
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    size = (4.4 * columns + 1.0, 2.9 * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    for i, metric in enumerate(metrics):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw_curves(axes, runs, "metrics.csv", metric)
        axes.set_ylabel(metric)
    legend_below(figure, figure.axes[0])
    return write_figure(figure, out)


def diagnostics(runs: Mapping[str, Path], out: Path, metrics: Sequence[str]) -> Path | None:
    """Draw those of `metrics` that every run logged, one panel each; None where there are none yet."""
    with_numbers = [name for name in metrics if all(_has_numbers(run / "metrics.csv", name) for run in runs.values())]
    return metric_panels(runs, out, with_numbers) if with_numbers else None


def _has_numbers(path: Path, column: str) -> bool:
    with path.open(newline="") as file:
        return any(row.get(column) for row in csv.DictReader(file))


def read_curve(folders: Sequence[Path], filename: str, column: str) -> Curve:
    """Return `column` of `filename` for every folder, averaged over the rows of a step (the episodes of an evaluation).

    `FileNotFoundError` for a folder without the file; `ValueError`, which lists the columns, for an unknown one.
    """
    series = [_read_series(folder / filename, column) for folder in folders]
    steps = sorted(set().union(*series))
    values = [[np.mean(one[step]) if step in one else np.nan for step in steps] for one in series]
    return Curve(np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64))


def _read_series(path: Path, column: str) -> dict[int, list[float]]:
    """Return {step: the finite values logged there}."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; is {path.parent} a run folder that got as far as its first row?")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if column not in (reader.fieldnames or ()):
            raise ValueError(f"{path}: no column {column!r}; it has {', '.join(reader.fieldnames or ())}")
        series: dict[int, list[float]] = {}
        for row in reader:
            if row[column] not in ("", None):
                series.setdefault(int(float(row["step"])), []).append(float(row[column]))
    return series


def spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the (T,) interquartile mean of (R, T) values over runs, and its (2, T) 95% interval: None for one run."""
    middle = iqm(values, axis=0)
    if len(values) < 2:
        return middle, None
    # A fresh generator per point: the band at a step depends on that step's values alone.
    intervals = [
        stratified_bootstrap([column], generator=np.random.default_rng(0), resamples=2000) for column in values.T
    ]
    return middle, np.array(intervals).T


def _draw_curves(axes: Axes, runs: Runs, filename: str, column: str) -> None:
    used: dict[str, int] = {}
    for label, folders in runs.items():
        paths = [folders] if isinstance(folders, Path) else list(folders)
        curve = read_curve(paths, filename, column)
        # Runs that stopped early would bend the line where they leave it: show the steps that all of them reached.
        shared = ~np.isnan(curve.values).any(axis=0)
        middle, band = spread(curve.values[:, shared])
        agent = agent_of(paths[0])
        color, dash = style_of(paths[0])
        marker = "os^Dv"[used.setdefault(agent, 0) % 5]  # several labels of one agent share its colour
        used[agent] += 1
        name = label if len(paths) == 1 else f"{label} ({len(paths)} runs)"
        axes.plot(
            curve.steps[shared], middle, dash, color=color, marker=marker, markersize=3, linewidth=1.6, label=name
        )
        if band is not None:
            axes.fill_between(curve.steps[shared], *band, color=color, alpha=0.2, linewidth=0)
    axes.set_xlabel("steps (environment; optimiser for offline agents)")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k, 1M
    axes.grid(True, linewidth=0.5, alpha=0.4)
    axes.spines[["top", "right"]].set_visible(False)


def regret_curves(runs: Runs, out: Path, *, unit: str = "round") -> Path:
    """Draw the cumulative regret of runs from their `regret.npz`, on linear and on log-log axes; return `out`.

    The line is the mean over the replicates of all runs under a label, the band one standard error to either side; the
    legend gives the log-log slope over the last decade of rounds or episodes (`unit`). Several labels of one agent take
    the styles of the table in turn.
    """
    figure = Figure(figsize=(10.5, 5.2), layout="constrained")
    linear, loglog = figure.subplots(1, 2)
    drawn: list[str] = []
    for label, folders in runs.items():
        paths = [folders] if isinstance(folders, Path) else list(folders)
        curves = [load_regret(path) for path in paths]
        rounds = curves[0][0]
        if any(not np.array_equal(other, rounds) for other, _ in curves):
            raise ValueError(f"{label}: its runs stopped at different rounds; plot them apart")
        regret = np.concatenate([curve for _, curve in curves], axis=1)
        agent = agent_of(paths[0])
        style = agent_style(agent) if agent not in drawn else turn_style(len(drawn))
        drawn.append(agent)
        _draw_regret(linear, loglog, rounds, regret, label, style)
    if any(len(line.get_ydata()) for line in loglog.lines):  # the oracle alone has nothing to show there
        loglog.set(xscale="log", yscale="log")
    for axes in (linear, loglog):
        axes.set_xlabel(unit)
        axes.grid(True, linewidth=0.5, alpha=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    linear.set_ylabel("cumulative pseudo-regret" if unit == "round" else "cumulative regret")
    linear.xaxis.set_major_formatter(EngFormatter(sep=""))
    linear.yaxis.set_major_formatter(EngFormatter(sep=""))
    legend_below(figure, linear)
    return write_figure(figure, out)


def _draw_regret(
    linear: Axes, loglog: Axes, rounds: np.ndarray, regret: np.ndarray, label: str, style: tuple[str, str]
) -> None:
    mean, replicates = regret.mean(axis=1), regret.shape[1]
    slope = last_decade_slope(rounds, regret)
    name = label if np.isnan(slope) else f"{label} (slope {slope:.2f})"
    color, dash = style
    for axes in (linear, loglog):
        seen = mean > 0 if axes is loglog else slice(None)
        axes.plot(rounds[seen], mean[seen], dash, color=color, linewidth=1.6, label=name)
        if replicates > 1:
            error = regret.std(axis=1, ddof=1) / replicates**0.5
            low = np.maximum(mean - error, mean * 1e-3) if axes is loglog else mean - error
            axes.fill_between(rounds[seen], low[seen], (mean + error)[seen], color=color, alpha=0.2, linewidth=0)
