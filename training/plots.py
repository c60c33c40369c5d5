"""Pictures of runs: learning curves with their spread over seeds, and the metrics an agent logged."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from surefoot.training.checkpoint import write_atomically
from surefoot.training.presets import read_yaml
from surefoot.training.run_folder import load_regret
from surefoot.training.statistics import iqm, stratified_bootstrap

# Okabe and Ito's colours, safe for colour-blind readers; an agent keeps its colour and dash in every picture.
AGENT_STYLE: dict[str, tuple[str, str]] = {
    "h2o": ("#0072B2", "-"),
    "sac": ("#E69F00", "-"),
    "bc": ("#000000", "-"),
    "sac-mix": ("#56B4E9", "-"),
    "cql": ("#009E73", "-"),
    "darc": ("#CC79A7", "-"),
    "darc-plus": ("#D55E00", "-"),
    "hnpg": ("#0072B2", "--"),
    "trpo": ("#D55E00", "--"),
    "rlpd": ("#009E73", "--"),
    "dynlin-ucb": ("#0072B2", "-"),
    "iwocs": ("#D55E00", ":"),
    "dr-sac": ("#0072B2", "-."),
    "nora": ("#CC79A7", "--"),
    "linucb": ("#E69F00", "-"),
    "linucb-paper": ("#E69F00", "--"),
    "linucb-log": ("#E69F00", ":"),
    "d-linucb": ("#CC79A7", "-"),
    "d-linucb-paper": ("#CC79A7", "--"),
    "d-linucb-log": ("#CC79A7", ":"),
    "exp3": ("#56B4E9", "-"),
    "batch-exp3": ("#009E73", "-"),
    "batch-exp3-paper": ("#009E73", "--"),
    "ar2": ("#D55E00", "-"),
    "expert": ("#7F7F7F", "-"),
    "clairvoyant": ("#000000", "-"),
    "uniform": ("#7F7F7F", ":"),
    "dhn": ("#CC79A7", ":"),
    "qr-dqn": ("#7F7F7F", "-."),
    "nora-deep": ("#0072B2", ":"),
    "mbpo": ("#000000", "--"),
    "sb3-sac": ("#E69F00", "--"),
    "sb3-td3": ("#7F7F7F", "--"),
    "sb3-ppo": ("#7F7F7F", ":"),
}
ARM_STYLE: dict[str, tuple[str, str]] = {  # of the arms of one agent: what is compared are they
    "pe": ("#000000", "-"),
    "de": ("#7F7F7F", "--"),
    "sp": ("#E69F00", "--"),
    "sd": ("#D55E00", "-"),
    "rr": ("#0072B2", "-"),
    "sn": ("#009E73", "-"),
}
EVALUATION_LABELS = {
    "episode_return": "evaluation return (sum of rewards)",
    "score": "D4RL-normalised score (0 random, 100 expert)",
    "length": "evaluation episode length (steps)",
}
Runs = Mapping[str, Path | Sequence[Path]]


class Curve(NamedTuple):
    """A quantity along training: one row a run, NaN where a run has no value."""

    steps: np.ndarray  # (T,)
    values: np.ndarray  # (R, T)


def learning_curves(
    runs: Runs, out: Path, *, metric: str = "episode_return", references: Mapping[str, float] | None = None
) -> Path:
    """Draw one line a label from the `evaluations.csv` of its run folder(s), write the picture to `out`, return `out`.

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
    _legend_below(figure, axes)
    return write_figure(figure, out)


def metric_panels(runs: Runs, out: Path, metrics: Sequence[str]) -> Path:
    """Draw one panel for each of `metrics`, columns of `metrics.csv`, with one line a label; write and return `out`."""
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    size = (4.4 * columns + 1.0, 2.9 * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    for i, metric in enumerate(metrics):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw_curves(axes, runs, "metrics.csv", metric)
        axes.set_ylabel(metric)
    _legend_below(figure, figure.axes[0])
    return write_figure(figure, out)


def diagnostics(runs: Mapping[str, Path], out: Path, metrics: Sequence[str]) -> Path | None:
    """Draw those of `metrics` that every run logged, a panel each; None where there are none yet."""
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
    # A fresh generator a point: the band at a step depends on that step's values alone.
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
        agent = _agent_of(paths[0])
        color, dash = _style_of(paths[0])
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
        agent = _agent_of(paths[0])
        style = agent_style(agent) if agent not in drawn else list(AGENT_STYLE.values())[len(drawn) % len(AGENT_STYLE)]
        drawn.append(agent)
        _draw_regret(linear, loglog, rounds, regret, label, style)
    if any(len(line.get_ydata()) for line in loglog.lines):  # the clairvoyant alone has nothing to show there
        loglog.set(xscale="log", yscale="log")
    for axes in (linear, loglog):
        axes.set_xlabel(unit)
        axes.grid(True, linewidth=0.5, alpha=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    linear.set_ylabel("cumulative pseudo-regret" if unit == "round" else "cumulative regret")
    linear.xaxis.set_major_formatter(EngFormatter(sep=""))
    linear.yaxis.set_major_formatter(EngFormatter(sep=""))
    _legend_below(figure, linear)
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


def last_decade_slope(rounds: np.ndarray, regret: np.ndarray) -> float:
    """Return the slope of log mean regret (P, N) against log round (P,) over the last decade; NaN without regret."""
    t, mean = np.asarray(rounds, dtype=np.float64), regret.mean(axis=1)
    last = (t >= t[-1] / 10) & (mean > 0)
    if last.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(t[last]), np.log(mean[last]), 1)[0])


def parameter_map(
    out: Path,
    axes: Mapping[str, np.ndarray],
    values: np.ndarray,
    *,
    nominal: np.ndarray,
    diverged: np.ndarray,
    title: str,
    limits: tuple[float, float] | None = None,
) -> Path:
    """Draw the mean return over a grid of one to three parameters, `values` (n₁, …, n_d); write and return `out`.

    One: a curve. Two: a map, the first parameter to the right. Three: a map of the last two for every value of the
    first.
    The circle is the worst point, the star the `nominal` (d,) where it is inside, a cross a point whose physics
    `diverged` (n₁, …, n_d). `limits` of the colours let several pictures be compared.
    """
    low, high = limits or (float(values.min()), float(values.max()))
    if len(axes) == 1:
        return write_figure(_parameter_curve(axes, values, nominal, diverged, title), out)
    first, *shown = axes.items() if len(axes) == 3 else (("", np.zeros(1)), *axes.items())
    slices = values.reshape(len(first[1]), *values.shape[-2:])
    rows = 1 if len(slices) <= 3 else 2
    columns = -(-len(slices) // rows)
    size = (2.5 * columns + 1.2, 2.5 * rows + 0.7) if len(slices) > 1 else (6.4, 4.8)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
    for panel in panels[len(slices) :]:
        panel.set_axis_off()
    worst = np.unravel_index(slices.argmin(), slices.shape)
    for i, (panel, means) in enumerate(zip(panels, slices, strict=False)):
        image = _parameter_panel(panel, dict(shown), means, low, high, len(slices) == 1 and means.size <= 120)
        _mark(panel, shown, diverged.reshape(slices.shape)[i], worst[1:] if worst[0] == i else None)
        if len(slices) > 1:
            panel.set_title(f"{first[0]} = {first[1][i]:.4g}", fontsize=8)
        else:
            _mark_nominal(panel, dict(shown), nominal)
    figure.supxlabel(shown[0][0])
    figure.supylabel(shown[1][0])
    figure.suptitle(title, fontsize=10)
    figure.colorbar(image, ax=figure.axes, label="mean return")
    return write_figure(figure, out)


def parameter_maps(
    out: Path,
    axes: Mapping[str, np.ndarray],
    values: Mapping[str, np.ndarray],
    *,
    nominal: np.ndarray,
    diverged: Mapping[str, np.ndarray],
    title: str,
) -> Path:
    """Draw the mean returns of several policies over one or two parameters, side by side; write and return `out`.

    Arrays and marks as in `parameter_map`; of one parameter all curves are in one panel.
    """
    if len(axes) == 1:
        return write_figure(_parameter_curves(axes, values, nominal, title), out)
    low, high = min(float(v.min()) for v in values.values()), max(float(v.max()) for v in values.values())
    figure = Figure(figsize=(3.4 * len(values) + 1.2, 4.0), layout="constrained")
    panels = figure.subplots(1, len(values), squeeze=False, sharex=True, sharey=True).flat
    for panel, (label, means) in zip(panels, values.items(), strict=True):
        image = _parameter_panel(panel, axes, means, low, high, means.size <= 120)
        _mark(panel, list(axes.items()), diverged[label], np.unravel_index(means.argmin(), means.shape))
        _mark_nominal(panel, axes, nominal)
        panel.set_title(f"{label}\nworst {means.min():.4g}, mean {means.mean():.4g}", fontsize=8)
    across, up = axes
    figure.supxlabel(across)
    figure.supylabel(up)
    figure.suptitle(title, fontsize=10)
    figure.colorbar(image, ax=figure.axes, label="mean return")
    return write_figure(figure, out)


def _parameter_curves(
    axes: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray], nominal: np.ndarray, title: str
) -> Figure:
    (axis,) = axes.values()
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    panel = figure.add_subplot()
    for label, means in values.items():
        color, dash = agent_style(label)
        panel.plot(axis, means, "o", color=color, linestyle=dash, markersize=4, linewidth=1.6, label=label)
    _finish_curves(figure, panel, axes, nominal, title)
    return figure


def _finish_curves(
    figure: Figure, panel: Axes, axes: Mapping[str, np.ndarray], nominal: np.ndarray, title: str
) -> None:
    if _inside(axes, nominal):
        panel.axvline(nominal[0], color="0.45", linewidth=1.0, linestyle=":", label="nominal")
    _legend_below(figure, panel)
    panel.set(xlabel=next(iter(axes)), ylabel="mean return")
    panel.set_title(title, fontsize=10)
    panel.grid(True, linewidth=0.5, alpha=0.4)
    panel.spines[["top", "right"]].set_visible(False)


def _parameter_curve(
    axes: Mapping[str, np.ndarray], values: np.ndarray, nominal: np.ndarray, diverged: np.ndarray, title: str
) -> Figure:
    (axis,) = axes.values()
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    panel = figure.add_subplot()
    panel.plot(axis, values, "o-", color="#0072B2", markersize=4, linewidth=1.6)
    if diverged.any():
        panel.plot(axis[diverged], values[diverged], "x", color="#D55E00", markersize=8, label="physics diverged")
    panel.plot(
        axis[values.argmin()], values.min(), "o", color="none", markeredgecolor="#D55E00", markersize=12, label="worst"
    )
    _finish_curves(figure, panel, axes, nominal, title)
    return figure


def _parameter_panel(
    panel: Axes, shown: Mapping[str, np.ndarray], means: np.ndarray, low: float, high: float, numbered: bool
) -> Any:
    x, y = shown.values()
    image = panel.pcolormesh(x, y, means.T, shading="nearest", cmap="viridis", vmin=low, vmax=high)
    panel.set_xticks(x[:: -(-len(x) // 10)])
    panel.set_yticks(y[:: -(-len(y) // 10)])
    panel.tick_params(labelsize=7)
    panel.tick_params("x", labelrotation=45)
    panel.xaxis.set_major_formatter("{x:.3g}")
    panel.yaxis.set_major_formatter("{x:.3g}")
    if numbered:
        for (i, j), mean in np.ndenumerate(means):
            color = "w" if mean < (low + high) / 2 else "k"
            panel.text(float(x[i]), float(y[j]), f"{mean:.4g}", ha="center", va="center", fontsize=6, color=color)
    return image


def _mark(
    panel: Axes, shown: Sequence[tuple[str, np.ndarray]], diverged: np.ndarray, worst: tuple[Any, ...] | None
) -> None:
    (_, x), (_, y) = shown
    for i, j in np.argwhere(diverged):
        panel.plot(x[i], y[j], "x", color="#D55E00", markersize=8)
    if worst is not None:
        panel.plot(
            x[worst[0]], y[worst[1]], "o", color="none", markeredgecolor="#D55E00", markeredgewidth=2, markersize=18
        )


def _mark_nominal(panel: Axes, axes: Mapping[str, np.ndarray], nominal: np.ndarray) -> None:
    """Draw a star at the nominal point, where the map reaches it."""
    if _inside(axes, nominal):
        panel.plot(
            *nominal, "*", color="none", markeredgecolor="white", markeredgewidth=1.5, markersize=24, clip_on=False
        )


def _inside(axes: Mapping[str, np.ndarray], nominal: np.ndarray) -> bool:
    """Whether the nominal point lies on the drawn map, whose cells reach half a step beyond the grid."""
    steps = [(axis[1] - axis[0]) / 2 for axis in axes.values()]
    ranges = [(axis[0] - step, axis[-1] + step) for axis, step in zip(axes.values(), steps, strict=True)]
    return all(low <= value <= high for (low, high), value in zip(ranges, nominal, strict=True))


def agent_style(agent: str) -> tuple[str, str]:
    """Return the colour and dash of an agent; an agent outside the table gets a fixed one by its name."""
    return AGENT_STYLE.get(agent) or (list(AGENT_STYLE.values())[crc32(agent.encode()) % 7][0], "-.")


def _agent_of(folder: Path) -> str:
    return read_yaml(folder / "config.yaml")["agent_name"]


def _style_of(folder: Path) -> tuple[str, str]:
    """Return the colour and dash of a run: its arm's, where its agent has arms."""
    arm = (read_yaml(folder / "config.yaml").get("agent") or {}).get("arm")
    return ARM_STYLE[arm] if arm in ARM_STYLE else agent_style(_agent_of(folder))


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, max(1, len(labels))), frameon=False)


def write_figure(figure: Figure, out: Path) -> Path:
    """Write the picture whole or not at all; the canvas is our own, so no global matplotlib state is touched."""
    FigureCanvasAgg(figure)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda file: figure.savefig(file, dpi=150, format=out.suffix.removeprefix(".") or "png"))
    return out
