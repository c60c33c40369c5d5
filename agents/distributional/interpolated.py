"""The optimum between two bounds, on a grid of stocks: for tasks whose stocks are too many to be enumerated.

docs/derivations/distributional.md §6.6, eq. (6.9) and (6.10). The value of a stock between two points of the grid is
not known, but its slope is: it lies between the slopes of the utility. Four tables are swept side by side: a lower and
an upper bound of the optimum, which hold after any number of sweeps, linear interpolation of it, by which actions are
chosen, and the mean return, which breaks ties.

With a horizon the stock is counted in units of the whole return, w = γᵗc, and every step has a grid of its own, which
covers the w that can be reached: w' = w + γᵗr, V_T(s, w) = u(w). Without one (γ < 1, u of degree 1) it is c itself,
c' = (c + r)/γ, V(s, c) = γ·max E V(S', c'), on one grid that covers where u is not linear in what may come.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from surefoot.agents.distributional.enumerated import choose
from surefoot.agents.distributional.policy import SolvedPolicy, snapped
from surefoot.agents.distributional.task import Task, guaranteed
from surefoot.agents.distributional.utilities import Shape
from surefoot.agents.parts.sparse import Backup
from surefoot.agents.parts.tabular import narrow

CHUNK = 1e7  # numbers of one array of a sweep
LOWER, UPPER, MIDDLE, MEAN = range(4)


class Axis(NamedTuple):
    """A grid of stocks, with the slopes of values between its points and beyond its ends."""

    points: np.ndarray  # (C,) in order
    shape: Shape
    below: tuple[float, float]
    above: tuple[float, float]
    limits: tuple[float, float] = (-np.inf, np.inf)  # of u, where it jumps
    hopeless: float | None = None  # what all stocks below the grid are worth, where they can't be brought to the jump


class Solved(NamedTuple):
    """What the sweeps leave: the four tables of the first step, and what to do."""

    axis: Axis
    tables: np.ndarray  # (4, S, C)
    policy: SolvedPolicy
    sweeps: int
    change: float  # of the two bounds in the last sweep; 0 with a horizon


def stationary(task: Task) -> bool:
    """Whether one grid serves every step."""
    return task.horizon is None and task.gamma < 1 and task.objective.degree == 1


# --- grids ------------------------------------------------------------------------------------------------------------


def axes_of(task: Task, stocks: int | np.ndarray) -> list[Axis]:
    """Return the grid of every step and of the end, or the one that is every step's.

    `stocks`: how many, or the stocks c_0 themselves; later steps have as many.
    """
    first = _with_fixed(task, stocks) if isinstance(stocks, np.ndarray) else even_starts(task, stocks)
    count = len(stocks) if isinstance(stocks, np.ndarray) else stocks
    if stationary(task):
        return [_axis(task, first, task.bounds, 1.0)]
    axes, low, high = [], float(first[0]), float(first[-1])
    least, largest = _step_rewards(task)
    for step in range(task.sweeps + 1):
        rest = _rest(task, step)
        points = first if step == 0 else _covering(task, (low, high), rest, count)
        axes.append(_axis(task, points, rest, task.gamma**step))
        if step < task.sweeps:
            h = step if len(least) > 1 else 0
            low, high = low + task.gamma**step * least[h], high + task.gamma**step * largest[h]
    return axes


def even_starts(task: Task, count: int) -> np.ndarray:
    """Return stocks c_0 from −(largest return) to −(least return), with that of the objective among them.

    With one grid for every step these are all stocks that matter: beyond, u is linear in what may come. Where u is flat
    above 0 the upper end is −(the least return that can be guaranteed): with more a sure 0, the best, is within reach.
    """
    low, high = task.bounds
    if _flat_above(task):
        low = guaranteed(task.mdp, task.gamma, task.horizon)
    return _with_fixed(task, np.linspace(-high, -low, count) if high > low else np.array([-high]))


def _with_fixed(task: Task, points: np.ndarray) -> np.ndarray:
    """Return stocks c_0 with the objective's own; it alone where later steps have grids of their own."""
    fixed = task.objective.stock
    if fixed is None:
        return points
    return np.unique(np.append(points, float(fixed))) if stationary(task) else np.array([float(fixed)])


def _flat_above(task: Task) -> bool:
    shape = task.objective.shape(0.0, 1.0)
    u = task.utility(np.array([-1.0, 0.0, 1.0]))
    return task.objective.degree == 1 and shape.least_slope >= 0 and bool(u[1] == u[2])


def _step_rewards(task: Task) -> tuple[list[float], list[float]]:
    """Return the least and largest reward of a step, or 0 where an episode may be over."""
    ends = [(min(0.0, float(b.reward.min())), max(0.0, float(b.reward.max()))) for b in task.backups]
    return [low for low, _ in ends], [high for _, high in ends]


def _rest(task: Task, step: int) -> tuple[float, float]:
    """Return the least and largest of what may still come, in units of the whole return."""
    if task.horizon is None or task.gamma < 1:
        scale = task.gamma**step
        return scale * task.bounds[0], scale * task.bounds[1]
    least, largest = _step_rewards(task)
    left = range(step, task.sweeps)
    return tuple(sum(side[t if len(side) > 1 else 0] for t in left) for side in (least, largest))  # type: ignore[return-value]


def _covering(task: Task, reach: tuple[float, float], rest: tuple[float, float], count: int) -> np.ndarray:
    """Return stocks over those that can be reached; of degree 0 or 1 only where u bends within what may come."""
    low, high = reach
    if task.objective.degree in (0, 1):
        low, high = np.clip((low, high), -rest[1], -rest[0])
    return np.linspace(low, high, max(count, 2)) if high > low else np.array([low])


def _axis(task: Task, points: np.ndarray, rest: tuple[float, float], scale: float) -> Axis:
    """Return a grid with the slopes of u within what may come; exact beyond its ends where u is linear there."""
    low, high = float(points[0] + rest[0]), float(points[-1] + rest[1])
    shape = task.shape(low, high)
    below = above = (shape.least_slope, shape.largest_slope)
    rounding = 1e-9 * (1 + abs(low) + abs(high))
    if task.objective.degree == 1:
        u = task.utility(np.array([-1.0, 0.0, 1.0]))
        if points[0] <= -rest[1] + rounding:
            below = (float(u[1] - u[0]),) * 2
        if points[-1] >= -rest[0] - rounding or (_flat_above(task) and scale == 1.0 and stationary(task)):
            above = (float(u[2] - u[1]),) * 2
    if task.objective.degree != 0:
        return Axis(points, shape, below, above)
    steps = task.utility(np.array([-1.0, 0.0, 1.0]))
    hopeless = float(steps[0]) if points[0] <= -rest[1] + rounding else None
    return Axis(points, shape, below, (0.0, 0.0), (float(steps.min()), float(steps.max())), hopeless)


# --- between the points of a grid -------------------------------------------------------------------------------------


def between(axis: Axis, tables: np.ndarray, after: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the four tables (4, S, C) in states `after` (M,) with stocks x (M, …): the bounds hold there too."""
    points, last = axis.points, len(axis.points) - 1
    right = np.searchsorted(points, x).clip(1, max(last, 1))
    left, right = (right - 1, right) if last else (np.zeros_like(right),) * 2
    states = after.reshape(-1, *[1] * (x.ndim - 1))
    one, other = tables[:, states, left], tables[:, states, right]
    d, e = x - points[left], points[right] - x
    gap = np.where(last and points[right] > points[left], points[right] - points[left], 1.0)
    d, e = (np.where(np.abs(side) < 1e-12 * (1 + np.abs(x)), 0.0, side) for side in (d, e))
    inside = (d >= 0) & (e >= 0)
    low, high, bend = axis.shape
    found = one + (other - one) * (np.clip(d, 0, gap) / gap)  # linear; constant beyond the ends
    lower = np.maximum(one[LOWER] + low * d, other[LOWER] - high * e)
    upper = np.minimum(one[UPPER] + high * d, other[UPPER] - low * e)
    if np.isfinite(bend):
        upper = np.minimum(upper, found[UPPER] + bend * d * e)
    found[LOWER], found[UPPER] = np.where(inside, (lower, upper), found[:2])
    return _beyond(axis, found, x)


def _beyond(axis: Axis, found: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Add what the slopes allow to values at the ends of the grid, where x lies beyond them."""
    under, over = axis.points[0] - x, x - axis.points[-1]
    under, over = (np.where(side > 1e-12 * (1 + np.abs(x)), side, 0.0) for side in (under, over))
    if under.any() or over.any():
        found[LOWER] += axis.above[0] * over - axis.below[1] * under
        found[UPPER] += axis.above[1] * over - axis.below[0] * under
        above, below = (sum(side) / 2 if max(map(abs, side)) < 1e100 else 0.0 for side in (axis.above, axis.below))
        found[MIDDLE] += above * over - below * under
        if axis.hopeless is not None:
            found[:3] = np.where(under > 0, axis.hopeless, found[:3])
    found[:3] = found[:3].clip(*axis.limits)
    return found


# --- sweeps -----------------------------------------------------------------------------------------------------------


def solve_on_grid(task: Task, axes: list[Axis], tolerance: float, max_sweeps: int | None) -> Solved:
    """Sweep until the end is reached, or until neither bound moves by more than the tolerance."""
    if not stationary(task):
        return _to_the_horizon(task, axes)
    axis, sweep, change, actions = axes[0], 0, np.inf, np.zeros((task.mdp.states, len(axes[0].points)), np.int64)
    tables = _at_first(task, axis)
    limit = max_sweeps or 2 * task.sweeps
    while sweep < limit and change > tolerance:
        new, actions = _sweep(task, task.backups[0], axis, axis, tables, 0)
        change = float(np.abs(new[:2] - tables[:2]).max())
        tables, sweep = new, sweep + 1
    policy = SolvedPolicy((torch.from_numpy(axis.points),), (narrow(torch.from_numpy(actions)),))
    return Solved(axis, tables, policy, sweep, change)


def _to_the_horizon(task: Task, axes: list[Axis]) -> Solved:
    lost, earned = task.tail
    points = axes[-1].points
    shape = task.shape(float(points[0] - lost.max()), float(points[-1] + earned.max()))
    up, down = max(shape.largest_slope, 0.0), max(-shape.least_slope, 0.0)
    end = np.broadcast_to(task.utility(points), (task.mdp.states, len(points)))
    tables = np.stack(
        [
            end - (up * lost + down * earned)[:, None],
            end + (up * earned + down * lost)[:, None],
            end,
            np.zeros_like(end),
        ]
    )
    chosen = []
    for step in reversed(range(task.sweeps)):
        tables, actions = _sweep(task, task.backup(step), axes[step], axes[step + 1], tables, step)
        chosen.append(narrow(torch.from_numpy(actions)))
    stocks = tuple(torch.from_numpy(axis.points / task.gamma**t) for t, axis in enumerate(axes[:-1]))
    return Solved(axes[0], tables, SolvedPolicy(stocks, tuple(chosen[::-1])), task.sweeps, 0.0)


def _at_first(task: Task, axis: Axis) -> np.ndarray:
    """Return bounds that hold before any sweep: u of the stock with the least and the largest return."""
    low, high = task.bounds
    c = axis.points
    ends = np.stack([task.utility(c + low), task.utility(c + high)])
    bend = np.where(
        (c + low <= 0) & (c + high >= 0), task.utility(np.zeros(1))[0], ends[0]
    )  # where u of degree 1 bends
    tables = np.stack([np.minimum(ends.min(0), bend), np.maximum(ends.max(0), bend), task.utility(c), np.zeros_like(c)])
    full = np.repeat(tables[:, None], task.mdp.states, axis=1)
    full[:3, task.over] = task.utility(c)
    return full


def _sweep(
    task: Task, b: Backup, axis: Axis, following: Axis, tables: np.ndarray, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the four tables (4, S, C) a step earlier, and the actions (S, C), in pieces of the grid."""
    pieces = np.array_split(axis.points, max(1, round(len(axis.points) * 4 * len(b.state) / CHUNK)))
    swept = [_swept(task, b, piece, following, tables, step) for piece in pieces]
    new, actions = (np.concatenate(side, axis=-1) for side in zip(*swept, strict=True))
    return new, actions


def _swept(
    task: Task, b: Backup, points: np.ndarray, following: Axis, tables: np.ndarray, step: int
) -> tuple[np.ndarray, np.ndarray]:
    one_grid = stationary(task)
    scale = 1.0 if one_grid else task.gamma**step
    moved = points + scale * b.reward[:, None]  # (M, C)
    x, factor = (moved / task.gamma, task.gamma) if one_grid else (snapped(moved), 1.0)
    found = between(following, tables, b.after, x)
    ends = task.over[b.after]
    found[:3, ends] = task.utility(x[ends])
    found[MEAN, ends] = 0.0
    later = scale * b.reward[:, None] + factor * found[MEAN]
    worth, mean, chosen = choose(b, factor * found[[MIDDLE, LOWER, UPPER]], later)
    new = np.stack([worth[1], worth[2], worth[0], mean])
    if one_grid:  # bounds can only tighten
        inside = np.searchsorted(following.points, points)
        new[LOWER] = np.maximum(new[LOWER], tables[LOWER][:, inside])
        new[UPPER] = np.minimum(new[UPPER], tables[UPPER][:, inside])
    return new, b.action[chosen]
