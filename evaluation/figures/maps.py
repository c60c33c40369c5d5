"""Figures of returns over the parameters of an uncertainty set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surefoot.evaluation.figures.style import agent_style, legend_below, write_figure
from surefoot.evaluation.uncertainty_grid import GridResult


def draw(result: GridResult, out: Path, title: str, limits: tuple[float, float] | None = None) -> Path | None:
    """Write a figure of the mean returns; None for more than three parameters, which cannot be drawn."""
    if len(result.axes) > 3:
        return None
    shape = [len(axis) for axis in result.axes]
    return parameter_map(
        out,
        dict(zip(result.uncertainty.param_names, result.axes, strict=True)),
        result.mean.reshape(shape),
        nominal=result.nominal,
        diverged=np.any(result.broken, axis=1).reshape(shape),
        title=title,
        limits=limits,
    )


def draw_side_by_side(results: dict[str, GridResult], out: Path, title: str) -> list[Path]:
    """Write the figures of several runs in the same colours: side by side, or for three parameters one each."""
    first = next(iter(results.values()))
    limits = (min(r.mean.min() for r in results.values()), max(r.mean.max() for r in results.values()))
    if len(first.axes) > 2:
        each = {out.with_stem(f"{out.stem}-{label.replace('/', '-')}"): label for label in results}
        drawn = [draw(results[label], path, f"{title}: {label}", limits) for path, label in each.items()]
        return [path for path in drawn if path]
    axes = dict(zip(first.uncertainty.param_names, first.axes, strict=True))
    shape = [len(axis) for axis in first.axes]
    values = {label: result.mean.reshape(shape) for label, result in results.items()}
    diverged = {label: np.any(result.broken, axis=1).reshape(shape) for label, result in results.items()}
    return [parameter_maps(out, axes, values, nominal=first.nominal, diverged=diverged, title=title)]


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
    `diverged` (n₁, …, n_d). `limits` of the colours make several figures comparable.
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
    legend_below(figure, panel)
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
