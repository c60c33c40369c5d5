"""Figures of returns over the parameters of an uncertainty set."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke, withStroke

from surefoot.agents.interface import Style
from surefoot.evaluation.figures.caption import Caption
from surefoot.evaluation.figures.style import agent_style, distinct_styles, file_names, legend_below, write_figure
from surefoot.evaluation.figures.words import MEAN_RETURN, parameter_label
from surefoot.evaluation.uncertainty_grid import GridResult

RING = "#D55E00"
NEARLY_BLACK = "#000001"  # not black, which a page turns into the colour of its text: here a cell is the ground


class Surface(NamedTuple):
    """The mean returns of one policy over a grid of d parameters, and at the nominal ones."""

    values: np.ndarray  # (n₁, …, n_d)
    diverged: np.ndarray  # (n₁, …, n_d) bool, the physics diverged there
    nominal: np.ndarray  # (d,)
    nominal_value: float


def surface(result: GridResult) -> Surface:
    """Return the mean returns of a measured grid."""
    shape = [len(axis) for axis in result.axes]
    diverged = np.any(result.broken, axis=1).reshape(shape)
    return Surface(result.mean.reshape(shape), diverged, result.nominal, float(result.nominal_returns.mean()))


def draw(
    label: str, result: GridResult, out: Path, caption: Caption, limits: tuple[float, float] | None = None
) -> Path | None:
    """Write a figure of the mean returns; None for more than three parameters, which cannot be drawn."""
    if len(result.axes) > 3:
        return None
    return parameter_map(out, _axes_of(result), label, surface(result), caption=caption, limits=limits)


def draw_side_by_side(results: dict[str, GridResult], out: Path, caption: Caption) -> list[Path]:
    """Write the figures of several runs in the same colours: side by side, or for three parameters one each."""
    first = next(iter(results.values()))
    if len(first.axes) > 2:
        limits = shared_limits(list(results.values()))
        each = {label: out.with_stem(f"{out.stem}-{name}") for label, name in file_names(results).items()}
        drawn = [draw(label, results[label], path, caption, limits) for label, path in each.items()]
        return [path for path in drawn if path]
    surfaces = {label: surface(result) for label, result in results.items()}
    return [parameter_maps(out, _axes_of(first), surfaces, caption=caption)]


def grid_shows(result: GridResult) -> str:
    """Return what a point of such a figure is: over how many episodes, on which grid."""
    tops = zip(result.axes, result.uncertainty.high, strict=True)
    kind = "closed" if all(axis[-1] == high for axis, high in tops) else "half-open"
    size = " × ".join(str(len(axis)) for axis in result.axes)
    episodes = f"{result.returns.shape[1]} episodes at each of {size} grid points"
    return f"mean over {episodes} ({kind} grid of {result.uncertainty.name}); no band: no interval is drawn"


def shared_limits(results: Sequence[GridResult]) -> tuple[float, float]:
    """Return the range of all mean returns, those at the nominal parameters included."""
    ends = [v for r in results for v in (r.mean.min(), r.mean.max(), r.nominal_returns.mean())]
    return float(min(ends)), float(max(ends))


def _axes_of(result: GridResult) -> dict[str, np.ndarray]:
    return dict(zip(result.uncertainty.param_names, result.axes, strict=True))


def _limits(surfaces: Iterable[Surface]) -> tuple[float, float]:
    ends = [value for s in surfaces for value in (s.values.min(), s.values.max(), s.nominal_value)]
    return float(min(ends)), float(max(ends))


def parameter_map(
    out: Path,
    axes: Mapping[str, np.ndarray],
    label: str,
    returns: Surface,
    *,
    caption: Caption,
    limits: tuple[float, float] | None = None,
) -> Path:
    """Draw the mean return of one policy over a grid of one to three parameters; write and return `out`.

    One: a curve. Two: a map, the first parameter to the right. Three: a map of the last two for every value of the
    first, and the nominal point on the one whose value is nearest. The circle is the worst point, the star the nominal
    one in the colour of its return, also where that is beyond the grid; a cross is a point whose physics diverged.
    `limits` of the colours make several figures comparable.
    """
    if len(axes) < 3:
        return parameter_maps(out, axes, {label: returns}, caption=caption, limits=limits)
    limits = limits or _limits([returns])
    (name, layers), *shown = axes.items()
    rows = 1 if len(layers) <= 3 else 2
    columns = -(-len(layers) // rows)
    figure = Figure(figsize=(2.5 * columns + 1.2, 2.5 * rows + 1.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    _label_axes(grid, *dict(shown))
    panels = grid.flat
    worst = np.unravel_index(returns.values.argmin(), returns.values.shape)
    nearest = int(np.abs(layers - returns.nominal[0]).argmin())
    for panel in panels[len(layers) :]:
        panel.set_axis_off()
    for i, panel in enumerate(panels[: len(layers)]):
        image = _parameter_panel(panel, dict(shown), returns.values[i], limits, numbered=False)
        _mark(panel, shown, returns.diverged[i], worst[1:] if worst[0] == i else None)
        panel.set_title(textwrap.fill(f"{parameter_label(name)}: {layers[i]:.4g}", 34), fontsize=8)
        if i == nearest:
            mark_nominal(panel, returns.nominal[1], returns.nominal[2], returns.nominal_value, image)
    figure.colorbar(image, ax=figure.axes, label=MEAN_RETURN)
    title = f"{label}: worst {returns.values.min():.4g}, mean {returns.values.mean():.4g}"
    return _finish_maps(figure, axes, returns, out, caption._replace(shows=f"{title}; {caption.shows}"))


def parameter_maps(
    out: Path,
    axes: Mapping[str, np.ndarray],
    surfaces: Mapping[str, Surface],
    *,
    caption: Caption,
    limits: tuple[float, float] | None = None,
) -> Path:
    """Draw the mean returns of policies over one or two parameters, side by side; write and return `out`.

    Marks as in `parameter_map`; of one parameter all curves are in one panel.
    """
    if len(axes) == 1:
        return write_figure(_parameter_curves(axes, surfaces), out, caption)
    limits = limits or _limits(surfaces.values())
    alone = len(surfaces) == 1
    figure = Figure(figsize=(6.4, 5.4) if alone else (3.4 * len(surfaces) + 1.2, 4.8), layout="constrained")
    panels = figure.subplots(1, len(surfaces), squeeze=False, sharex=True, sharey=True)
    _label_axes(panels, *axes)
    for panel, (label, returns) in zip(panels.flat, surfaces.items(), strict=True):
        means = returns.values
        image = _parameter_panel(panel, axes, means, limits, numbered=means.size <= 120)
        _mark(panel, list(axes.items()), returns.diverged, np.unravel_index(means.argmin(), means.shape))
        mark_nominal(panel, returns.nominal[0], returns.nominal[1], returns.nominal_value, image)
        ends = f"worst {means.min():.4g}, mean {means.mean():.4g}, nominal {returns.nominal_value:.4g}"
        panel.set_title(f"{label}\n{ends}", fontsize=8)
    figure.colorbar(image, ax=figure.axes, label=MEAN_RETURN)
    return _finish_maps(figure, axes, returns, out, caption)


def _finish_maps(figure: Figure, axes: Mapping[str, np.ndarray], returns: Surface, out: Path, caption: Caption) -> Path:
    """Explain the marks and write the figure, whose maps show the last two of `axes`."""
    where = ", ".join(f"{parameter_label(n)} {v:.4g}" for n, v in zip(axes, returns.nominal, strict=True))
    nearest = ", on the nearest map" if len(axes) == 3 else ""
    look: dict[str, Any] = {"linestyle": "none", "markersize": 12}
    white: dict[str, Any] = {"color": "white", "markeredgecolor": NEARLY_BLACK}
    handles = [
        Line2D([], [], marker="*", label="nominal point, in the colour of its return", **white, **look),
        Line2D([], [], marker="o", color="none", markeredgecolor=RING, markeredgewidth=2, label="worst point", **look),
    ]
    if any(line.get_marker() == "x" for panel in figure.axes for line in panel.lines):
        handles.append(Line2D([], [], marker="x", color=RING, label="physics diverged", **look))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    return write_figure(figure, out, caption._replace(shows=f"{caption.shows}; nominal: {where}{nearest}"))


def _label_axes(panels: np.ndarray, across: str, up: str) -> None:
    """Name the parameters below the lowest and to the left of the leftmost of (rows, columns) panels."""
    for panel in panels[-1]:
        panel.set_xlabel(parameter_label(across), fontsize=9)
    for panel in panels[:, 0]:
        panel.set_ylabel(parameter_label(up), fontsize=9)


def _parameter_curves(axes: Mapping[str, np.ndarray], surfaces: Mapping[str, Surface]) -> Figure:
    ((name, axis),) = axes.items()
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    panel = figure.add_subplot()
    styles = distinct_styles([agent_style(label.split("/")[0]) for label in surfaces])  # AGENT or AGENT/PRESET
    for (label, returns), style in zip(surfaces.items(), styles, strict=True):
        _parameter_curve(panel, axis, label, returns, style)
    panel.axvline(returns.nominal[0], color="0.45", linewidth=1.0, linestyle=":", zorder=1)
    white: dict[str, Any] = {"color": "white", "markeredgecolor": NEARLY_BLACK, "markersize": 12}
    panel.plot([], [], "*", **white, label=f"nominal point ({returns.nominal[0]:.4g})")
    panel.plot([], [], "o", color="none", markeredgecolor=RING, markersize=12, label="worst point")
    legend_below(figure, panel)
    panel.set(xlabel=parameter_label(name), ylabel=MEAN_RETURN)
    panel.grid(True, linewidth=0.5, alpha=0.4)
    panel.spines[["top", "right"]].set_visible(False)
    return figure


def _parameter_curve(panel: Axes, axis: np.ndarray, label: str, returns: Surface, style: Style) -> None:
    values, diverged = returns.values, returns.diverged
    name = f"{label} (worst {values.min():.4g}, nominal {returns.nominal_value:.4g})"
    panel.plot(axis, values, "o", color=style.color, linestyle=style.dash, markersize=4, linewidth=1.6, label=name)
    if diverged.any():
        named = any(line.get_marker() == "x" for line in panel.lines)
        note = None if named else "physics diverged"
        panel.plot(axis[diverged], values[diverged], "x", color=RING, markersize=8, label=note)
    panel.plot(axis[values.argmin()], values.min(), "o", color="none", markeredgecolor=RING, markersize=12)
    _star(panel, float(returns.nominal[0]), returns.nominal_value, style.color)


def _parameter_panel(
    panel: Axes, shown: Mapping[str, np.ndarray], means: np.ndarray, limits: tuple[float, float], *, numbered: bool
) -> Any:
    x, y = shown.values()
    low, high = limits
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
        panel.plot(x[i], y[j], "x", color=RING, markersize=8)
    if worst is not None:
        panel.plot(x[worst[0]], y[worst[1]], "o", color="none", markeredgecolor=RING, markeredgewidth=2, markersize=18)


def mark_nominal(panel: Axes, x: float, y: float, value: float, image: Any) -> None:
    """Draw the nominal point where it is, in the colour of its return and with its number, and make room for it.

    A half-open grid ends below its upper end, where the nominal point may be; the map grows to hold it.
    """
    for at, limits, change in ((x, panel.get_xlim(), panel.set_xlim), (y, panel.get_ylim(), panel.set_ylim)):
        margin = 0.06 * (limits[1] - limits[0])
        if not limits[0] <= at <= limits[1]:
            change(min(limits[0], at - margin), max(limits[1], at + margin))
    measured = np.isfinite(value)
    color = image.cmap(image.norm(value)) if measured else "none"
    _star(panel, x, y, color)
    text = f"{value:.4g}" if measured else "not measured"
    note = panel.annotate(text, (x, y), (0, -8), textcoords="offset points", ha="center", va="top", fontsize=7)
    note.set(color=NEARLY_BLACK, zorder=6)
    note.set_path_effects([withStroke(linewidth=2.2, foreground="white")])


def _star(panel: Axes, x: float, y: float, color: Any) -> None:
    """Draw a star that is seen on every ground: a white edge within a black one."""
    edge: dict[str, Any] = {
        "markeredgecolor": "white",
        "markeredgewidth": 1.2,
        "markersize": 15,
        "linestyle": "none",
        "zorder": 5,
    }
    (star,) = panel.plot(x, y, marker="*", color=color, label="_nominal", clip_on=False, **edge)
    star.set_path_effects([Stroke(linewidth=3.2, foreground=NEARLY_BLACK), Normal()])
