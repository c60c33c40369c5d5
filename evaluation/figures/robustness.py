"""Nominal return against worst case: what many policies keep of theirs where they were not trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from surefoot.evaluation.figures.caption import Caption
from surefoot.evaluation.figures.style import PALETTE, legend_below, write_figure
from surefoot.evaluation.figures.words import MEAN_RETURN

MARKERS = "osD^vP*X"


class Point(NamedTuple):
    """One policy: mean returns with their 95% intervals."""

    group: str  # its task, which has a colour
    name: str
    nominal: float
    worst: float
    nominal_interval: tuple[float, float]
    worst_interval: tuple[float, float]


def nominal_against_worst(points: Sequence[Point], out: Path, caption: Caption) -> Path:
    """Draw a point a policy, its nominal mean return to the right and its worst one up; on the line nothing is lost."""
    figure = Figure(figsize=(7.6, 5.6), layout="constrained")
    axes = figure.add_subplot()
    groups = list(dict.fromkeys(point.group for point in points))
    top = max(point.nominal for point in points)
    axes.plot([0, top], [0, top], color="0.6", linestyle=":", linewidth=1.0, zorder=1)
    axes.annotate(
        "nothing lost", (0.62 * top, 0.62 * top), (-4, 8), textcoords="offset points", ha="right", color="0.4"
    )
    for i, group in enumerate(groups):
        look: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]}
        for k, point in enumerate(one for one in points if one.group == group):
            label = group if k == 0 else None
            axes.plot(point.nominal, point.worst, linestyle="none", markersize=7, label=label, zorder=3, **look)
            axes.plot(point.nominal_interval, [point.worst] * 2, color=look["color"], alpha=0.45, linewidth=2)
            axes.plot([point.nominal] * 2, point.worst_interval, color=look["color"], alpha=0.45, linewidth=2)
            axes.annotate(point.name, (point.nominal, point.worst), (5, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel=f"nominal {MEAN_RETURN}", ylabel=f"worst {MEAN_RETURN}")
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.grid(True, linewidth=0.5, alpha=0.35)
    axes.spines[["top", "right"]].set_visible(False)
    legend_below(figure, axes)
    return write_figure(figure, out, caption)
