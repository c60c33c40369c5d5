"""The figures of a report as inline SVG: readable at phone width, in light, dark and print."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from surefoot import agents
from surefoot.evaluation.figures.caption import Caption, band_of_runs, caption_of_runs, without_steps
from surefoot.evaluation.figures.curves import band_of_replicates, spread
from surefoot.evaluation.figures.maps import mark_nominal
from surefoot.evaluation.figures.words import MEAN_RETURN, step_label
from surefoot.evaluation.statistics import performance_profile
from surefoot.training.config.presets import to_plain
from surefoot.training.report.data import Cell, Method
from surefoot.training.report.numbers import EvalFigure, Improvement, ParameterMap, episodes_by_env, slopes

INK = "#010203"  # becomes the colour of the page's text, so that axes are seen in light and in dark
SIZE = (4.9, 3.5)  # inches; at a phone's width the letters stay near the size of the text
MARKERS = "osD^vP*X"


@contextmanager
def page_style(salt: str) -> Iterator[None]:
    """Draw text as text, in the page's colours, with names of elements that no other figure of the page has."""
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "legend.labelcolor")
    style: dict[Any, Any] = dict.fromkeys(inked, INK) | {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
        "font.size": 10,
        "legend.frameon": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
    }
    with mpl.rc_context(style):
        yield


def drawing(title: str, draw: Callable[[Axes], None], caption: Caption, size: tuple[float, float] = SIZE) -> str:
    """Return one set of axes, drawn by `draw`, as a figure element that scales with the page, with its caption."""
    with page_style(title):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    words = f"<strong>{escape(title)}</strong><br>{escape(str(caption))}"
    return f"<figure>{_inline(text.getvalue(), title)}<figcaption>{words}</figcaption></figure>"


def caption_of_cells(cells: Sequence[Cell], shows: str) -> Caption:
    """Return the caption of a figure of the runs of methods."""
    runs = {cell.method.label: [to_plain(run.agent, run.config) for run in cell.runs] for cell in cells}
    return caption_of_runs(runs, shows)


def _inline(svg: str, title: str) -> str:
    """Return a file's SVG as an element of a page: no prologue, a name for screen readers, the page's own ink."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)  # names that every figure has; nothing refers to them
    head, rest = body.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    rest = rest.replace(INK, "currentColor").replace("#000000", "currentColor")
    return f'<svg {box[0]} role="img" aria-label="{escape(title)}" xmlns:xlink="http://www.w3.org/1999/xlink">{rest}'


def style_of(method: Method) -> tuple[str, str, str]:
    """Return colour, dash and marker; no two methods of a page have the same colour while there is another."""
    return *method.style, MARKERS[method.variant % len(MARKERS)]


def swatch(method: Method) -> str:
    """Return a piece of a method's line as a small SVG element: agents that share a colour differ in its dashes."""
    color, dash, _ = style_of(method)
    pattern = {"-": "none", "--": "7 4", ":": "2 3", "-.": "7 3 2 3"}[dash]
    stroke = color.replace("#000000", "currentColor")
    line = f'<line x1="0" y1="5" x2="28" y2="5" stroke="{stroke}" stroke-width="3" stroke-dasharray="{pattern}"/>'
    return f'<svg class="swatch" viewBox="0 0 28 10" aria-hidden="true">{line}</svg>'


def seeds_label(method: Method, runs: int, unit: str = "seed") -> str:
    """Return the legend's text, with the number of runs behind a line."""
    return f"{method.label} ({runs} {unit}{'s' if runs != 1 else ''})"


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.legend(handles, labels, loc="outside lower center", ncols=1 if max(map(len, labels)) > 24 else 2, fontsize=9)


# --- learning ---------------------------------------------------------------------------------------------------------


def learning_curves(cells: Sequence[Cell], measured: EvalFigure) -> str:
    """Draw the interquartile mean over seeds against steps, with its 95% bootstrap band from two seeds on."""

    def draw(axes: Axes) -> None:
        for cell in cells:
            curves = [run.curves[measured.column] for run in cell.runs]
            steps = sorted(set.intersection(*map(set, curves)))  # what all seeds have; else the line would bend
            middle, band = spread(np.array([[curve[step] for step in steps] for curve in curves]))
            color, dash, marker = style_of(cell.method)
            label = seeds_label(cell.method, len(cell.runs)) + without_steps(steps)
            axes.plot(steps, middle, dash, color=color, marker=marker, markersize=3, linewidth=1.6, label=label)
            if band is not None:
                axes.fill_between(steps, *band, color=color, alpha=0.2, linewidth=0)
        axes.set_xlabel(step_label({cell.method.label: cell.method.agent for cell in cells}))
        axes.set_ylabel(measured.axis)
        _thousands(axes)
        _legend(axes)

    shows = f"point: {measured.point}; {band_of_runs(len(cell.runs) for cell in cells)}"
    return drawing(f"Learning curves: {cells[0].task}, {measured.name}", draw, caption_of_cells(cells, shows))


def _thousands(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(True, linewidth=0.5, alpha=0.35)


# --- between methods --------------------------------------------------------------------------------------------------


def improvement_bars(pairs: Sequence[Improvement], methods: Sequence[Method], cells: Sequence[Cell]) -> str:
    """Draw the probability of improvement of every pair, with its interval where there is one."""
    colors = {method.label: style_of(method)[0] for method in methods}

    def draw(axes: Axes) -> None:
        for i, pair in enumerate(reversed(pairs)):
            value, interval = pair.probability
            axes.plot(value, i, "o", color=colors[pair.ours])
            if interval is not None:
                axes.plot(interval, (i, i), color=colors[pair.ours], linewidth=3, alpha=0.5, solid_capstyle="butt")
        names = [f"{pair.ours}\nover {pair.theirs}" for pair in reversed(pairs)]
        axes.set_yticks(range(len(pairs)), names)
        axes.set_ylim(-0.6, len(pairs) - 0.4)
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("probability that a run is better")

    caption = caption_of_cells(cells, "bar: 95% stratified bootstrap interval over seeds; 1/2 is a tie")
    return drawing("Probability of improvement", draw, caption, (SIZE[0], 1.0 + 0.5 * len(pairs)))


def profiles(
    values: dict[str, np.ndarray], methods: Sequence[Method], cells: Sequence[Cell], what: str, where: str
) -> str:
    """Draw the fraction of runs above every threshold, for {method: (runs,) final values} in the tasks `where`."""
    everything = np.concatenate(list(values.values()))
    low, high = everything.min(), everything.max()
    margin = 0.05 * (high - low) or 1.0
    thresholds = np.linspace(low - margin, high + margin, 201)

    def draw(axes: Axes) -> None:
        for method in methods:
            if method.label in values:
                color, dash, _ = style_of(method)
                label = seeds_label(method, len(values[method.label]), "run")
                fractions = performance_profile(values[method.label], thresholds)
                axes.step(thresholds, fractions, dash, where="post", color=color, linewidth=1.6, label=label)
        axes.set_xlabel(what)
        axes.set_ylabel("fraction of runs above")
        axes.set_ylim(-0.02, 1.02)
        axes.grid(True, linewidth=0.5, alpha=0.35)
        _legend(axes)

    caption = caption_of_cells(cells, "line: fraction of runs with a higher last evaluation; higher is better; no band")
    return drawing(f"Performance profile: {where}", draw, caption)


# --- episodes, parameters, regret -------------------------------------------------------------------------------------


def return_distributions(cells: Sequence[Cell], env: str) -> str:
    """Draw which fraction of the episodes in an environment returned at most so much, over the runs of each method."""

    def draw(axes: Axes) -> None:
        for cell in cells:
            episodes = np.concatenate([episodes_by_env(run)[env] for run in cell.runs])
            color, dash, _ = style_of(cell.method)
            label = f"{seeds_label(cell.method, len(cell.runs))}, {len(episodes)} episodes"
            axes.ecdf(episodes, color=color, linestyle=dash, linewidth=1.6, label=label)
        axes.set_xlabel("return of an episode (sum of rewards)")
        axes.set_ylabel("fraction of episodes")
        axes.grid(True, linewidth=0.5, alpha=0.35)
        _legend(axes)

    shows = f"measured in {env}; line: fraction of episodes with at most this return, all runs together; no band"
    return drawing(f"Return distributions in {env}", draw, caption_of_cells(cells, shows))


def heat_map(measured: ParameterMap, cell: Cell, where: str) -> str:
    """Draw mean returns over two physical parameters; a point not measured stays empty."""
    _, table, rows, columns, labels, nominal, runs, left_out = measured

    def draw(axes: Axes) -> None:
        image = axes.imshow(np.ma.masked_invalid(table), cmap="cividis", origin="lower", aspect="auto")
        axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
        axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
        axes.set_ylabel(labels[0])
        axes.set_xlabel(labels[1])
        for i, j in np.argwhere(np.isfinite(table)) if table.size <= 49 else ():
            dark = table[i, j] < (np.nanmin(table) + np.nanmax(table)) / 2
            color = "#ffffff" if dark else "#000001"  # not the page's ink: the cell is its ground
            axes.text(j, i, f"{table[i, j]:.0f}", ha="center", va="center", color=color, fontsize=8)
        figure = axes.figure
        assert isinstance(figure, Figure)
        figure.colorbar(image, ax=axes, label=MEAN_RETURN)
        if nominal is not None:
            mark_nominal(axes, _place(nominal.column, columns), _place(nominal.row, rows), nominal.value, image)

    star = (
        "no nominal point" if nominal is None else f"star: nominal, {nominal.row:.4g} up, {nominal.column:.4g} across"
    )
    some = f" of {len(cell.runs)}" if len(runs) < len(cell.runs) else ""
    partly = f"; {left_out} points left out at which only some of them were measured" if left_out else ""
    shows = f"number: mean over {len(runs)}{some} runs; worst {np.nanmin(table):.4g}; {star}; no band{partly}"
    return drawing(f"{cell.method.label}: {where}", draw, caption_of_cells([replace(cell, runs=runs)], shows))


def _place(value: float, ticks: Sequence[float]) -> float:
    """Return where a value lies among evenly drawn ticks, beyond the first or last one by their own step."""
    if len(ticks) < 2:
        return 0.0 if not ticks or value == ticks[0] else float(np.sign(value - ticks[0]))
    inside = float(np.interp(value, ticks, range(len(ticks))))
    below = min(0.0, (value - ticks[0]) / (ticks[1] - ticks[0]))
    return inside + below + max(0.0, (value - ticks[-1]) / (ticks[-1] - ticks[-2]))


def regret_curves(cells: Sequence[Cell]) -> str:
    """Draw the mean cumulative regret over replicates on log-log axes, with its standard error."""
    unit = str(agents.get(cells[0].method.agent).regret)

    def draw(axes: Axes) -> None:
        for cell in cells:
            curves = [run.regret for run in cell.runs if run.regret is not None]
            rounds, regret = curves[0][0], np.concatenate([curve for _, curve in curves], axis=1)
            mean = regret.mean(axis=1)
            seen = mean > 0
            color, dash, _ = style_of(cell.method)
            slope, replicates = slopes(cell)
            label = f"{seeds_label(cell.method, replicates, 'replicate')}, slope {slope:.2f}"
            axes.plot(rounds[seen], mean[seen], dash, color=color, linewidth=1.6, label=label)
            if replicates > 1:
                error = regret.std(axis=1, ddof=1) / replicates**0.5
                low = np.maximum(mean - error, mean * 1e-3)
                axes.fill_between(rounds[seen], low[seen], (mean + error)[seen], color=color, alpha=0.2, linewidth=0)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel=f"{unit}s, log scale",
            ylabel=f"cumulative {'pseudo-' if unit == 'round' else ''}regret (sum of rewards, log scale)",
        )
        axes.grid(True, linewidth=0.5, alpha=0.35)
        _legend(axes)

    shows = band_of_replicates({slopes(cell)[1] for cell in cells}, unit)
    return drawing(f"Regret: {cells[0].task}", draw, caption_of_cells(cells, shows))
