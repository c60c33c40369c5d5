"""Figures of runs: learning curves with their spread over seeds, and the metrics an agent logged."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from surefoot.agents.interface import Style
from surefoot.evaluation.figures.caption import Caption, band_of_runs, caption_of_runs, configs_of, without_steps
from surefoot.evaluation.figures.style import (
    agent_of,
    agent_style,
    distinct_styles,
    legend_below,
    style_of,
    write_figure,
)
from surefoot.evaluation.figures.words import MEAN_RETURN, RETURN, counts_updates, metric_label, step_label
from surefoot.evaluation.regret import last_decade_slope, load_regret
from surefoot.evaluation.statistics import iqm, stratified_bootstrap

EVALUATION_LABELS = {
    "worst_case": f"worst case over worlds, {MEAN_RETURN}",
    "objective": "objective of the discounted return (sum of rewards)",
    "episode_return": f"evaluation {RETURN}",
    "score": "D4RL-normalised score (0 random, 100 expert)",
    "length": "evaluation episode length (steps)",
}
Runs = Mapping[str, Path | Sequence[Path]]


class Curve(NamedTuple):
    """A quantity along training: one row per run, NaN where a run has no value."""

    steps: np.ndarray  # (T,)
    values: np.ndarray  # (R, T)


def learning_curves(
    runs: Runs, out: Path, *, metric: str | None = None, references: Mapping[str, float] | None = None
) -> Path:
    """Draw one line per label from the `evaluations.csv` of its run folder(s), write the figure to `out`, return `out`.

    Several runs under one label are its seeds: the line is their interquartile mean and the band the 95% bootstrap
    interval over runs. A single run has a line and no band. Without a `metric` the return is drawn, and next to it what
    runs are for if that is another: a panel for the worst case, one for the objective, of the runs that measured it.
    `references` are named horizontal lines of the return, or of the metric.
    """
    if metric is not None and metric not in EVALUATION_LABELS:
        raise ValueError(f"unknown evaluation metric {metric!r}; choose one of {', '.join(EVALUATION_LABELS)}")
    folders = _folders(runs)
    panels = {metric: folders} if metric else _panels(folders)
    figure = Figure(figsize=(7.0 if len(panels) == 1 else 5.0 * len(panels), 4.6), layout="constrained")
    styles = dict(zip(folders, distinct_styles([style_of(paths[0]) for paths in folders.values()]), strict=True))
    for i, (column, drawn) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), i + 1)
        _draw_curves(axes, drawn, "evaluations.csv", column, styles)
        axes.set_ylabel(EVALUATION_LABELS[column])
    for i, (name, value) in enumerate((references or {}).items()):
        axes.axhline(value, color="0.45", linewidth=1.0, linestyle=(0, (1 + 2 * i, 2)), label=name, zorder=1)
    legend_below(figure, axes)  # of the last panel, the only one with every run
    return write_figure(figure, out, _caption(folders, _point(folders, panels)))


def _panels(folders: Mapping[str, list[Path]]) -> dict[str, Mapping[str, list[Path]]]:
    """Return {column of evaluations.csv: the runs that have it}: what runs are for, then the return, which all have."""
    columns = {label: set.intersection(*map(_columns, paths)) for label, paths in folders.items()}
    panels: dict[str, Mapping[str, list[Path]]] = {}
    for name in ("worst_case", "objective"):
        if drawn := {label: paths for label, paths in folders.items() if name in columns[label]}:
            panels[name] = drawn
    return panels | {"episode_return": folders}


def _columns(run: Path) -> set[str]:
    path = run / "evaluations.csv"
    if not path.is_file():
        return set()  # named when it is read
    with path.open(newline="") as file:
        return set(next(csv.reader(file), ()))


def _point(folders: Mapping[str, list[Path]], columns: Iterable[str]) -> str:
    """Return what a point of learning curves is."""
    worlds = {config["eval"].get("worlds") for paths in folders.values() for config in configs_of(paths)}
    many = " or ".join(map(str, sorted(worlds - {None})))
    lowest = f", for the worst case the lowest such mean of {many} worlds" if "worst_case" in columns and many else ""
    return f"point: mean over {_episodes(folders)} evaluation episodes{lowest}"


def metric_panels(runs: Runs, out: Path, metrics: Sequence[str]) -> Path:
    """Draw one panel per metric, a column of `metrics.csv`, with one line per label; write and return `out`."""
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    size = (4.4 * columns + 1.0, 2.9 * rows + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    folders = _folders(runs)
    logging = [agent_of(paths[0]) for paths in folders.values()]
    styles = dict(zip(folders, distinct_styles([style_of(paths[0]) for paths in folders.values()]), strict=True))
    for i, metric in enumerate(metrics):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw_curves(axes, folders, "metrics.csv", metric, styles)
        axes.set_ylabel(metric_label(metric, logging), fontsize=8)
    legend_below(figure, figure.axes[0])
    return write_figure(figure, out, _caption(folders, "point: mean over the steps since the point before"))


def _folders(runs: Runs) -> dict[str, list[Path]]:
    return {label: [folders] if isinstance(folders, Path) else list(folders) for label, folders in runs.items()}


def _caption(folders: Mapping[str, list[Path]], point: str) -> Caption:
    configs = {label: configs_of(paths) for label, paths in folders.items()}
    return caption_of_runs(configs, f"{point}; {band_of_runs(map(len, folders.values()))}")


def _episodes(folders: Mapping[str, list[Path]]) -> str:
    """Return how many episodes an evaluation of these runs has."""
    counts = {int(config["eval"]["episodes"]) for paths in folders.values() for config in configs_of(paths)}
    return " or ".join(map(str, sorted(counts)))


def diagnostics(runs: Runs, out: Path, metrics: Iterable[str]) -> Path | None:
    """Draw those of `metrics` that every run logged, one panel each; None where there are none yet."""
    files = [folder / "metrics.csv" for folders in _folders(runs).values() for folder in folders]
    with_numbers = [name for name in metrics if all(_has_numbers(file, name) for file in files)]
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
    return middle, np.array(intervals, np.float64).reshape(-1, 2).T


def _draw_curves(
    axes: Axes, folders: Mapping[str, list[Path]], filename: str, column: str, styles: Mapping[str, Style]
) -> None:
    agents_of = {label: agent_of(paths[0]) for label, paths in folders.items()}
    mixed = len({counts_updates(agent) for agent in agents_of.values()}) > 1
    for label, paths in folders.items():
        color, dash = styles[label]
        curve = read_curve(paths, filename, column)
        # Runs that stopped early would bend the line where they leave it: show the steps that all of them reached.
        shared = ~np.isnan(curve.values).any(axis=0)
        middle, band = spread(curve.values[:, shared])
        counted = f"{len(paths)} runs{without_steps(middle)}"
        facts = [counted] * (len(paths) > 1) + _unit(label) * (mixed and counts_updates(agents_of[label]))
        name = f"{label} ({', '.join(facts)})" if facts else label
        marker = "os^Dv"[list(styles).index(label) % 5]
        axes.plot(
            curve.steps[shared], middle, dash, color=color, marker=marker, markersize=3, linewidth=1.6, label=name
        )
        if band is not None:
            axes.fill_between(curve.steps[shared], *band, color=color, alpha=0.2, linewidth=0)
    axes.set_xlabel(step_label(agents_of))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k, 1M
    _clear(axes)


def _unit(label: str) -> list[str]:
    """Return that a curve counts updates, unless its label says so."""
    return [] if "updates" in label else ["updates"]


def _clear(axes: Axes) -> None:
    axes.grid(True, linewidth=0.5, alpha=0.4)
    axes.spines[["top", "right"]].set_visible(False)


def regret_curves(runs: Runs, out: Path, *, unit: str = "round") -> Path:
    """Draw the cumulative regret of runs from their `regret.npz`, on linear and on log-log axes; return `out`.

    The line is the mean over the replicates of all runs under a label, the band one standard error to either side; the
    legend gives the log-log slope over the last decade of rounds or episodes (`unit`).
    """
    figure = Figure(figsize=(10.5, 5.6), layout="constrained")
    linear, loglog = figure.subplots(1, 2)
    folders = _folders(runs)
    styles = distinct_styles([agent_style(agent_of(paths[0])) for paths in folders.values()])
    replicates = set()
    for (label, paths), style in zip(folders.items(), styles, strict=True):
        rounds, regret = _pooled_regret(label, paths)
        replicates.add(regret.shape[1])
        _draw_regret(linear, loglog, rounds, regret, label, style)
    _label_regret(linear, loglog, unit)
    legend_below(figure, linear)
    configs = {label: configs_of(paths) for label, paths in folders.items()}
    return write_figure(figure, out, caption_of_runs(configs, band_of_replicates(replicates, unit)))


def band_of_replicates(replicates: set[int], unit: str) -> str:
    """Return what line, band and slope of a regret curve are."""
    counts = " or ".join(map(str, sorted(replicates)))
    band = "; no band" if replicates == {1} else "; band: one standard error to either side"
    many = "" if replicates == {1} else "s"
    return f"line: mean over {counts} replicate{many}{band}; slope: log-log, over the last decade of {unit}s"


def _pooled_regret(label: str, paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rounds (P,) and the regret (P, N) of the replicates of all runs."""
    curves = [load_regret(path) for path in paths]
    rounds = curves[0][0]
    if any(not np.array_equal(other, rounds) for other, _ in curves):
        raise ValueError(f"{label}: its runs stopped at different rounds; plot them apart")
    return rounds, np.concatenate([curve for _, curve in curves], axis=1)


def _label_regret(linear: Axes, loglog: Axes, unit: str) -> None:
    scale = ""
    if any(np.size(line.get_ydata()) for line in loglog.lines):  # the oracle alone has nothing to show there
        loglog.set(xscale="log", yscale="log")
        scale = ", log scale"
    what = "pseudo-regret" if unit == "round" else "regret"
    for axes, how in ((linear, ""), (loglog, scale)):
        axes.set(xlabel=f"{unit}s{how}", ylabel=f"cumulative {what} (sum of rewards{how})")
        _clear(axes)
    linear.xaxis.set_major_formatter(EngFormatter(sep=""))
    linear.yaxis.set_major_formatter(EngFormatter(sep=""))


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
