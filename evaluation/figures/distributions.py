"""Figures of the policies for an objective: return distributions, and paths through a grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from torch import Tensor

from surefoot.agents.distributional import Solution
from surefoot.agents.distributional.objectives import parse
from surefoot.agents.interface import ObjectivePolicy, Policy
from surefoot.envs import EnvConfig, make_vec
from surefoot.envs.make import native_task
from surefoot.evaluation.episodes import LONGEST_EPISODE
from surefoot.evaluation.figures.caption import Caption
from surefoot.evaluation.figures.style import write_figure
from surefoot.evaluation.objectives import Measured, with_interval

COLUMNS = 3
WALKERS = 2_000  # episodes in a figure of paths
Moves = Counter[tuple[int, int]]  # from cell, to cell
Stocks = dict[tuple[int, int], float]


def return_histograms(measured: Sequence[Measured], out: Path, caption: Caption) -> Path:
    """Draw the discounted returns of each objective as a histogram.

    An objective in the unit of the return, such as a CVaR or an entropic one, is a line and its interval a band; of one
    that measures against a target, the target is a dashed line.
    """
    columns = min(COLUMNS, len(measured))
    rows = -(-len(measured) // columns)
    figure = Figure(figsize=(3.9 * max(columns, 1.6), 2.5 * rows + 1.0), layout="constrained")
    edges = np.histogram_bin_edges(np.concatenate([m.returns.ravel() for m in measured]), bins=60)
    axes = list(figure.subplots(rows, columns, sharex=True, squeeze=False).flat)
    for axis, m in zip(axes, measured, strict=False):
        if isinstance(m.stock, tuple):
            _draw_several(axis, m, edges)
        else:
            axis.hist(m.returns, edges, weights=np.full(len(m.returns), 1 / len(m.returns)), color="#56B4E9")
        if isinstance(m.stock, float) and (target := parse(m.objective).target) is not None:
            axis.axvline(target, color="0.3", linewidth=1.2, linestyle="--")
        elif isinstance(m.stock, float):
            if m.interval is not None:
                axis.axvspan(*m.interval, color="#D55E00", alpha=0.25, linewidth=0)
            axis.axvline(m.value, color="#D55E00", linewidth=1.4)
        axis.set_title(f"{m.objective} = {with_interval(m, '  ')}", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(measured) :]:
        axis.set_visible(False)
    figure.supxlabel("discounted return of an episode (discounted sum of rewards)", fontsize=9)
    figure.supylabel("fraction of episodes", fontsize=9)
    marks = "orange: the objective's value and band of its 95% bootstrap interval over episodes; dashed: its target"
    shows = f"bars: {len(measured[0].returns):,} episodes; {marks}"
    return write_figure(figure, out, caption._replace(shows=shows))


def _draw_several(axis: Axes, m: Measured, edges: np.ndarray) -> None:
    """Draw the returns of each of several rewards as an outline, its target or budget dashed in the same colour."""
    assert isinstance(m.stock, tuple)
    weights = np.full(len(m.returns), 1 / len(m.returns))
    for i, (returns, start) in enumerate(zip(m.returns.T, m.stock, strict=True)):
        axis.hist(returns, edges.tolist(), weights=weights, histtype="step", color=f"C{i}", label=f"reward {i + 1}")
        axis.axvline(-start, color=f"C{i}", linewidth=1.2, linestyle="--")
    axis.legend(fontsize=7, frameon=False)


def solution_distributions(solutions: Sequence[Solution], out: Path, task: str) -> Path:
    """Draw, one row per objective, the return distribution and the value of every initial stock that was tried.

    `task` names the task with its physics.
    """
    figure = Figure(figsize=(8.4, 2.2 * len(solutions) + 1.1), layout="constrained")
    edges = np.histogram_bin_edges(torch.cat([one.returns for one in solutions]).numpy(), bins=60)
    panels = figure.subplots(len(solutions), 2, squeeze=False, sharex="col")
    for (distribution, search), one in zip(panels, solutions, strict=True):
        distribution.hist(one.returns.numpy(), edges, weights=one.chances.numpy(), color="#56B4E9")
        target, in_returns = one.objective.target, one.objective.of_distribution is not None
        if in_returns or target is not None:  # a utility of one's own has neither
            mark, dash = (one.value, "-") if target is None else (target, "--")
            distribution.axvline(mark, color="#D55E00", linewidth=1.4, linestyle=dash)
        distribution.set_title(f"{one.objective.name} = {one.value:.3f}", fontsize=9)
        search.plot(one.stocks, one.scores, color="#0072B2", linewidth=1.4)
        search.plot([one.stock], [one.value], "o", color="#D55E00")
        if max(one.scores) - min(one.scores) < 1e-6:  # the mean: the axis would magnify rounding
            search.set_ylim(one.value - 1, one.value + 1)
        search.set_title(f"from stock {one.stock:.3f}", fontsize=9)
    stated = "discounted return (discounted sum of rewards)", "initial stock c₀ (sum of rewards)"
    for axis, label in zip(panels[-1], stated, strict=True):
        axis.set_xlabel(label)
    for distribution, search in panels:
        distribution.set_ylabel("probability")
        search.set_ylabel("value (in the objective's unit)")
        distribution.spines[["top", "right"]].set_visible(False)
        search.spines[["top", "right"]].set_visible(False)
    marks = "orange: the objective's value, dashed its target; right: value by initial stock, and the one taken"
    caption = Caption(task, "no seeds: computed, not sampled", f"left: the best policy's returns; {marks}; no band")
    return write_figure(figure, out, caption)


def grid_paths(
    policy: ObjectivePolicy, task: EnvConfig, measured: Sequence[Measured], out: Path, caption: Caption, *, seed: int
) -> Path:
    """Draw, one panel per objective, how often its episodes make each move of a grid, and at which mean stock."""
    columns = min(COLUMNS, len(measured))
    rows = -(-len(measured) // columns)
    layout = map_of(task) or ()
    size = (max(0.75 * len(layout[0]) * columns + 0.4, 5.0), (0.75 * len(layout) + 0.5) * rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, m in zip(axes, measured, strict=False):
        moves, stocks, cells = count_moves(policy, task, m, seed=seed)
        _draw_grid(axis, layout)
        _draw_moves(axis, moves, stocks, cells)
        axis.set_title(f"{m.objective}, from stock c₀ = {m.stock:.2f}", fontsize=8)
    for axis in axes[len(measured) :]:
        axis.set_visible(False)
    words = (
        "arrow: how many episodes make the move (%), and their mean stock c before it (sum of rewards); ring: a stay"
    )
    return write_figure(figure, out, caption._replace(shows=f"{WALKERS:,} episodes; {words}; no band"))


def map_of(task: EnvConfig) -> Sequence[str] | None:
    """Return the rows of the map of a task that shows which cell it is in; None of one that does not."""
    return getattr(make_vec(replace(task, num_envs=1)), "layout", None) if native_task(task.id) else None


@torch.inference_mode()
def count_moves(
    policy: ObjectivePolicy, task: EnvConfig, m: Measured, *, seed: int
) -> tuple[Moves, Stocks, list[tuple[int, int]]]:
    """Return how often many episodes make each move, the mean stock before it, and the cells' places."""
    env: Any = make_vec(replace(task, num_envs=WALKERS))
    cells, moves = env.cells, Counter[tuple[int, int]]()
    stateful: Any = policy.stateful(parse(m.objective), m.stock)
    stocks = Counter[tuple[int, int]]()
    obs, _ = env.reset(seed=seed)
    running = torch.ones(WALKERS, dtype=torch.bool)
    for _ in range(LONGEST_EPISODE):
        action, before = stateful(obs), cast(Tensor, stateful.stock)
        following, reward, terminated, truncated, info = env.step(action)
        places = torch.stack([o[running, : len(cells)].argmax(-1) for o in (obs, info["final_obs"])], 1)
        for move, stock in zip(map(tuple, places.tolist()), before[running].tolist(), strict=True):
            moves[move] += 1
            stocks[move] += stock
        stateful.observe(reward, terminated | truncated)
        running &= ~(terminated | truncated)
        obs = following
        if not running.any():
            break
    return moves, {move: stocks[move] / count for move, count in moves.items()}, cells


def _draw_grid(axis: Axes, layout: Sequence[str]) -> None:
    for i, row in enumerate(layout):
        for j, mark in enumerate(row):
            axis.add_patch(Rectangle((j, i), 1, 1, facecolor="0.35" if mark == "#" else "white", edgecolor="0.7"))
            if mark not in "#.":
                axis.text(j + 0.14, i + 0.3, mark, fontsize=10, color="0.35", ha="center")
    axis.set(xlim=(-0.05, len(layout[0]) + 0.05), ylim=(len(layout) + 0.05, -0.05), aspect="equal")
    axis.set_axis_off()


def _draw_moves(axis: Axes, moves: Moves, stocks: Stocks, cells: Sequence[tuple[int, int]]) -> None:
    """Draw an arrow a move, as wide as it is frequent, with both numbers where it is a choice; a ring for a stay."""
    for (start, end), count in moves.items():
        fraction = count / WALKERS
        if fraction < 0.01:
            continue
        (i, j), (down, right) = cells[start], cells[end]
        width, alpha = 0.6 + 3.4 * min(1.0, fraction), 0.35 + 0.65 * min(1.0, fraction)
        if start == end:
            axis.plot(j + 0.5, i + 0.5, "o", mfc="none", mec="#0072B2", mew=width, alpha=alpha, markersize=12)
            continue
        arrow = FancyArrowPatch((j + 0.5, i + 0.5), (right + 0.5, down + 0.5), arrowstyle="-|>", mutation_scale=9)
        arrow.set(color="#0072B2", linewidth=width, alpha=alpha)
        axis.add_patch(arrow)
        if fraction < 0.99:
            text = f"{fraction:.0%}\nc {stocks[start, end]:.1f}"
            axis.text((j + right) / 2 + 0.58, (i + down) / 2 + 0.5, text, fontsize=6.5, color="#0072B2", va="center")


def draw_objectives(
    policy: Policy | None,
    task: EnvConfig,
    measured: Sequence[Measured],
    caption: Caption,
    distribution: Path,
    paths: Path,
    *,
    seed: int,
) -> list[Path]:
    """Draw the return distributions and, where the task is a map, the paths; return the files written.

    `caption` is that of the policy (`caption_of_policy`), `seed` the reset seed of the paths' episodes.
    """
    figures = [return_histograms(measured, distribution, caption)]
    if map_of(task):
        figures.append(grid_paths(cast(ObjectivePolicy, policy), task, measured, paths, caption, seed=seed))
    return figures
