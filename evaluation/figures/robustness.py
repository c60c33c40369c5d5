"""Nominal return against worst case: what many policies keep of theirs where they were not trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from surefoot.evaluation.figures.caption import Caption
from surefoot.evaluation.figures.style import entitle, legend_below, write_figure
from surefoot.evaluation.figures.words import MEAN_RETURN

COLUMNS = 4
LOOKS: dict[bool, dict[str, Any]] = {
    False: {"color": "#0072B2", "marker": "o", "markersize": 5, "label": "policy of others"},
    True: {"color": "#D55E00", "marker": "*", "markersize": 10, "label": "agent of ours, trained in the set"},
}
# Where a label may lie: pixels away from its point, and sixteenths of a turn around it, the right first.
PLACES = tuple(product((9, 16, 24, 34, 46, 60, 76), (1, 0, 15, 2, 14, 7, 8, 9, 6, 10, 4, 12, 3, 5, 11, 13)))
NEAR = 9  # a label further off than this is tied to its point by a line


class Point(NamedTuple):
    """One policy: mean returns with their 95% intervals."""

    group: str  # its task, which has a panel
    name: str
    nominal: float
    worst: float
    nominal_interval: tuple[float, float]
    worst_interval: tuple[float, float]
    ours: bool = False


def nominal_against_worst(points: Sequence[Point], out: Path, caption: Caption) -> Path:
    """Draw a point a policy, its nominal mean return to the right and its worst one up; on the line nothing is lost.

    A task has a panel of its own, since returns of different tasks do not compare.
    """
    groups = list(dict.fromkeys(point.group for point in points))
    columns = min(COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(max(2.5 * columns, 5.0), 2.35 * rows + 1.2), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    for k, (axes, group) in enumerate(zip(panels, groups, strict=False)):
        _draw_panel(axes, group, [point for point in points if point.group == group])
        if k + columns >= len(groups):  # the lowest of its column
            axes.set_xlabel(f"nominal {MEAN_RETURN}", fontsize=7.5)
        if k % columns == 0:
            axes.set_ylabel(f"worst {MEAN_RETURN}", fontsize=7.5)
    legend_below(figure, _key(panels[0], points))
    entitle(figure, caption)
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # the layout, which says where a label has room
    for axes, group in zip(panels, groups, strict=False):
        _place_labels(axes, [point for point in points if point.group == group])
    return write_figure(figure, out, caption)


def _draw_panel(axes: Axes, group: str, points: Sequence[Point]) -> None:
    """Draw the points of a task, zero and the line on which nothing is lost."""
    left = min(0.0, *(min(point.nominal_interval) for point in points))
    right = max(0.0, *(max(point.nominal_interval) for point in points))
    bottom = min(0.0, *(min(point.worst_interval) for point in points))
    axes.plot([left, right], [left, right], color="0.6", linestyle=":", linewidth=1.0, zorder=1, label="nothing lost")
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    for point in points:
        look = LOOKS[point.ours] | {"label": None}
        axes.plot(point.nominal, point.worst, linestyle="none", zorder=4 if point.ours else 3, **look)
        axes.plot(point.nominal_interval, [point.worst] * 2, color=look["color"], alpha=0.45, linewidth=1.5)
        axes.plot([point.nominal] * 2, point.worst_interval, color=look["color"], alpha=0.45, linewidth=1.5)
    axes.set_xlim(left - 0.08 * (right - left), right + 0.08 * (right - left))
    axes.set_ylim(bottom - 0.08 * (right - bottom), right + 0.08 * (right - bottom))
    axes.set_title(group, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(True, linewidth=0.5, alpha=0.35)
    axes.spines[["top", "right"]].set_visible(False)


def _key(axes: Axes, points: Sequence[Point]) -> Axes:
    """Return the axes with an entry of the legend for each kind of policy that is drawn."""
    for ours in sorted({point.ours for point in points}):
        axes.plot([], [], linestyle="none", **LOOKS[ours])
    return axes


def _place_labels(axes: Axes, points: Sequence[Point]) -> None:
    """Name each point where the name covers no other one and no point, as near to its own as that allows."""
    spots = [axes.transData.transform((point.nominal, point.worst)) for point in points]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in spots]
    for point, spot in sorted(zip(points, spots, strict=True), key=lambda one: (-one[1][1], one[1][0])):
        at = (point.nominal, point.worst)
        label = axes.annotate(point.name, at, (0, 0), textcoords="offset points", fontsize=7.5, zorder=5)
        label.set(ha="center", va="center", in_layout=False)
        size = label.get_window_extent().padded(2)
        distance, offset = min(PLACES, key=lambda place: _cost(_box(size, spot, place), place[0], taken, axes.bbox))
        box = _box(size, spot, (distance, offset))
        taken.append(box)
        centre = ((box.x0 + box.x1) / 2 - spot[0], (box.y0 + box.y1) / 2 - spot[1])
        away = tuple(pixels * 72 / axes.figure.dpi for pixels in centre)
        label.set_position(away)
        if distance > NEAR:
            tie = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.5, "shrinkA": 3, "shrinkB": 3}
            axes.annotate("", at, away, textcoords="offset points", arrowprops=tie).set_in_layout(False)


def _box(size: Bbox, spot: Any, place: tuple[float, int]) -> Bbox:
    """Return the pixels of a label of that size at a distance and angle from its point."""
    right, up = math.cos(place[1] * math.tau / 16), math.sin(place[1] * math.tau / 16)
    x = spot[0] + right * place[0] + max(-1.0, min(1.0, 2 * right)) * size.width / 2
    y = spot[1] + up * place[0] + max(-1.0, min(1.0, 2 * up)) * size.height / 2
    return Bbox.from_bounds(x - size.width / 2, y - size.height / 2, size.width, size.height)


def _cost(box: Bbox, distance: float, taken: Sequence[Bbox], inside: Bbox) -> float:
    """Return how bad a place is: covering something is worse than any distance, and leaving the panel too."""
    leaves = box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1
    covered = sum(bool(box.overlaps(other)) for other in taken)
    return float(distance + 1000 * (covered + leaves))
