"""From an MDP and an objective of its return to a policy: which form of the method, on what stocks, from which stock.

docs/derivations/distributional.md §4 (methods), §5 (from which stock), §6 (representations and the stock axis).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.distributional import enumerated, exact, interpolated, neutral, stock_grid, utilities
from surefoot.agents.distributional.objectives import Objective, parse, soundness
from surefoot.agents.distributional.policy import SolvedPolicy
from surefoot.agents.distributional.solution import Found, Solution, evaluated, from_particles
from surefoot.agents.distributional.start_search import Tried, bounded_by_all, peaks_between, search
from surefoot.agents.distributional.task import Task, sweeps_for
from surefoot.agents.parts.sparse import SparseMDP, check, from_tabular, require_ending, table_bytes, to_tabular
from surefoot.agents.parts.tabular import TabularMDP, check_shapes, narrow

MethodName = Literal["vi", "exact", "dvi", "dpi"]
Representation = Literal["particles", "quantiles", "categorical"]
WORK = 2e10  # products of an enumeration: above, the stocks are interpolated
STARTS = 64  # that a search begins with


def solve(
    mdp: TabularMDP | SparseMDP,
    objective: Objective | str,
    *,
    gamma: float,
    horizon: int | None = None,
    method: MethodName = "exact",
    representation: Representation | None = None,
    atoms: int = 256,
    stocks: int | Tensor = 200,
    return_range: tuple[float, float] | None = None,
    tolerance: float = 1e-6,
    max_sweeps: int | None = None,
    max_bytes: float = 4e9,
) -> Solution:
    """Return the best policy of all history-dependent ones, with its own value and a bracket of the optimum.

    Args:
        mdp: the task.
        objective: a text such as `cvar(0.1)`, or what `objectives.parse` and `objectives.own` return.
        gamma: discount, in (0, 1].
        horizon: steps of an episode; None where it never ends, or ends by itself.
        method: `vi` value iteration over states and stocks; `exact` backward induction in fractions; `dvi`, `dpi`
            distributional value and policy iteration.
        representation: of distributions, not for `vi`: `particles` (fractions; need a horizon), m `quantiles` or m
            `categorical` weights. Default: `particles` for `exact`, else `quantiles`.
        atoms: m.
        stocks: how many where not all can be enumerated, or the very c_0 in order (C,); `dvi`, `dpi`: of every step.
        return_range: ends of the categories; the default is wide enough that none is clipped.
        tolerance: of E u(c + G), where a method without a horizon stops.
        max_sweeps: where it stops at the latest; default: where exact distributions would be within the tolerance.
        max_bytes: refuse to allocate more than this.

    Raises:
        ValueError: an invalid MDP, an unsound objective, arguments that do not fit, or too much memory.
    """
    task, dense = _task(mdp, objective, gamma, horizon, tolerance)
    kind = representation or ("particles" if method == "exact" else "quantiles")
    _check_arguments(task, method, kind, atoms, stocks)
    sound = soundness(task.objective, gamma, horizon, ending=method == "vi")
    if method == "vi":
        return _value_iteration(task, stocks, tolerance, max_sweeps, max_bytes, sound.line)
    dense = to_tabular(_within(task.mdp, max_bytes)) if dense is None else dense
    if kind == "particles":
        program = exact.make_program(dense, task.objective, gamma, int(horizon or 0), sound.scaled)
        return from_particles(program, sound.line, method)
    _require_projectable(task)
    support = _support(task, atoms, return_range) if kind == "categorical" else None
    problem = _projected(task, dense, sound.scaled, stocks, support, atoms)
    return _by_projection(problem, task, method, tolerance, max_sweeps, max_bytes, sound.line)


def _task(
    mdp: TabularMDP | SparseMDP, objective: Objective | str, gamma: float, horizon: int | None, tolerance: float
) -> tuple[Task, TabularMDP | None]:
    """Return the checked task, and its dense table where it came as one."""
    dense = mdp if isinstance(mdp, TabularMDP) else None
    if isinstance(mdp, TabularMDP):
        check_shapes(mdp)
        mdp = from_tabular(mdp)
    check(mdp)
    goal = parse(objective) if isinstance(objective, str) else objective
    return Task(mdp, goal, gamma, horizon, 1e-3 * tolerance), dense


def _projected(
    task: Task, dense: TabularMDP, scaled: bool, stocks: int | Tensor, support: Tensor | None, atoms: int
) -> stock_grid.Problem:
    rows = stock_grid.make_rows(dense), dense.start.double(), dense.reward.shape[2]
    device = dense.reward.device
    grids = tuple(grid.to(device) for grid in _grids(task, stocks))
    support = None if support is None else support.to(device)
    return stock_grid.Problem(*rows, task.objective, task.gamma, task.horizon, scaled, grids, support, atoms)


def _by_projection(
    problem: stock_grid.Problem,
    task: Task,
    method: str,
    tolerance: float,
    max_sweeps: int | None,
    max_bytes: float,
    note: str,
) -> Solution:
    _require_memory(problem, method, max_bytes)
    enough = sweeps_for(tolerance, max(map(abs, task.bounds)), task.gamma)
    sweeps = max_sweeps or (task.horizon + 1 if task.horizon else enough)
    solved = stock_grid.METHODS[method](problem, tolerance, sweeps)
    return _from_projected(problem, task, solved, tolerance, max_bytes, note)


# --- arguments and memory ---------------------------------------------------------------------------------------------


def _check_arguments(task: Task, method: str, representation: str, atoms: int, stocks: int | Tensor) -> None:
    mdp, horizon = task.mdp, task.horizon
    for given, known in ((method, get_args(MethodName)), (representation, get_args(Representation))):
        if given not in known:
            raise ValueError(f"unknown method or representation {given!r}; choose one of {', '.join(known)}")
    if method == "exact" and representation != "particles":
        raise ValueError(
            f"method='exact' needs representation='particles', not {representation!r}; or use method='dvi'"
        )
    if horizon is not None and horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    if representation == "particles" and horizon is None:
        raise ValueError(
            "representation='particles' needs a horizon, without which the number of particles is unbounded; or use "
            "method='vi'"
        )
    if len(mdp.steps) > 1 and horizon != len(mdp.steps):
        raise ValueError(f"the table has {len(mdp.steps)} steps, the horizon is {horizon}; they must agree")
    if atoms < 2:
        raise ValueError(f"atoms must be at least 2, got {atoms}")
    _check_stocks(stocks)
    if task.gamma == 1 and horizon is None and method == "vi":
        require_ending(task.backups, task.over, mdp.start)


def _check_stocks(stocks: int | Tensor) -> None:
    if isinstance(stocks, int):
        if stocks < 2:
            raise ValueError(f"stocks must be at least 2, got {stocks}")
    elif stocks.ndim != 1 or len(stocks) < 2 or not (stocks.diff() > 0).all() or not torch.isfinite(stocks).all():
        raise ValueError("stocks must be at least two finite numbers in order (C,)")


def _require_projectable(task: Task) -> None:
    name = task.objective.name
    if task.objective.aversion is not None:
        raise ValueError(
            f"{name}: projected distributions lose the tail that its exponential weighs most; use method='vi', which "
            "is exact in log space"
        )
    if task.horizon is None and task.objective.degree != 1:
        raise ValueError(
            f"{name}: without a horizon its stocks leave every grid, and clamping them is right for degree 1 alone; "
            "use method='vi', or give a horizon"
        )


def _within(mdp: SparseMDP, limit: float) -> SparseMDP:
    _refuse_above(limit, table_bytes(mdp), "the dense table of this method", "use method='vi'")
    return mdp


def _require_memory(problem: stock_grid.Problem, method: str, limit: float) -> None:
    most = max(map(len, problem.grids))
    need = stock_grid.memory_bytes(problem.rows, len(problem.start), most, problem.count, problem.horizon, method)
    _refuse_above(limit, need, f"{method}, for {most} stocks and {problem.count} atoms,", "take fewer of them")


def _refuse_above(limit: float, need: float, what: str, instead: str) -> None:
    if need > limit:
        raise ValueError(
            f"{what} needs up to {need / 1e9:.2f} GB, more than max_bytes ({limit / 1e9:.2f} GB); {instead}"
        )


def _support(task: Task, atoms: int, ends: tuple[float, float] | None) -> Tensor:
    low, high = ends or _unclipped(*task.bounds, atoms, task.gamma, task.horizon)
    return torch.linspace(low, high, atoms, dtype=torch.float64)


def _unclipped(low: float, high: float, atoms: int, gamma: float, horizon: int | None) -> tuple[float, float]:
    """Return ends that no projection reaches, eq. (6.3): each may push an atom out by one spacing, discounted later.

    Where all returns are one, an atom lies on it, and no projection moves it.
    """
    if low == high:
        return low, low + 1.0
    pushes = float(horizon or 0) if gamma == 1 else (1 - gamma ** (horizon or math.inf)) / (1 - gamma)
    if atoms - 1 <= 2 * pushes:
        raise ValueError(f"{atoms} categories are too few for gamma = {gamma}: take more than {2 * pushes + 1:.0f}")
    beyond = pushes * (high - low) / (atoms - 1 - 2 * pushes)
    return low - beyond, high + beyond


def _grids(task: Task, stocks: int | Tensor) -> tuple[Tensor, ...]:
    """Return the stocks of every step: as given, or a grid that covers what can be reached at each."""
    fixed = task.objective.stock
    if isinstance(stocks, Tensor):
        grid = stocks.double()
        return (grid if fixed is None else torch.cat([grid, grid.new_tensor([float(fixed)])]).unique(),)
    axes = interpolated.axes_of(task, stocks)
    return tuple(torch.from_numpy(axis.points / task.gamma**t) for t, axis in enumerate(axes))


# --- value iteration --------------------------------------------------------------------------------------------------


def _value_iteration(
    task: Task, stocks: int | Tensor, tolerance: float, max_sweeps: int | None, limit: float, note: str
) -> Solution:
    if _needs_no_stock(task.objective):
        return _without_stock(task, note)
    if (sums := _enumerable(task, limit)) is None:
        return _interpolated(task, stocks, tolerance, max_sweeps, limit, note)
    return _enumerated(task, sums, enumerated.Known(task, sums), stocks, tolerance, note)


def _needs_no_stock(objective: Objective) -> bool:
    return objective.aversion is not None or objective.utility is utilities.identity


def _enumerable(task: Task, limit: float) -> enumerated.Sums | None:
    """Return the returns so far of every step, where there is time for them."""
    sums = enumerated.partial_sums(task)
    if sums is None or _work(task, sums) > WORK:
        return None
    cells = sum(len(p) for p in sums) * task.mdp.states
    _refuse_above(limit, task.action_bytes * cells + 64 * enumerated.CHUNK, "vi", "shorten the horizon")
    return sums


def _work(task: Task, sums: enumerated.Sums) -> float:
    """Return how many products an enumeration takes; ∞ where one array of it would be too large."""
    if max(map(len, sums)) * max(max(len(b.state), len(b.after)) for b in task.backups) > 3 * enumerated.CHUNK:
        return math.inf
    tries = 1 if task.objective.stock is not None else 3 * STARTS
    return float(sum(len(p) for p in sums) * max(b.matrix.nnz for b in task.backups) * tries)


def _without_stock(task: Task, note: str) -> Solution:
    """Return the solution of the mean or of an entropic objective; its value is that of the states, not of the law."""
    solved = neutral.solve_states(task)
    zero, figure = np.zeros(1), np.array([solved.value])
    tried = Tried(zero, figure, figure, solved.bound)

    def anew(objective: Objective) -> Solution:
        return _without_stock(replace(task, objective=objective), note)

    found = Found(task, tried, lambda start: solved.policy, solved.sweeps, 0.0, True, note, anew)
    return replace(evaluated(found), value=solved.value, error=0.0, lower=solved.value, bound=solved.bound)


def _enumerated(
    task: Task, sums: enumerated.Sums, known: enumerated.Known, stocks: int | Tensor, tolerance: float, note: str
) -> Solution:
    def anew(other: Objective) -> Solution:
        return _enumerated(replace(task, objective=other), sums, known, stocks, tolerance, note)

    tried = _searched(task, sums, known, stocks, tolerance)
    policy = partial(enumerated.policy_from, task, sums)
    return evaluated(Found(task, tried, policy, task.sweeps, 0.0, True, note, anew))


def _searched(
    task: Task, sums: enumerated.Sums, known: enumerated.Known, stocks: int | Tensor, tolerance: float
) -> Tried:
    """Return the starts that were tried, and what none exceeds."""
    objective = task.objective
    if objective.stock is not None:
        return search(objective, known, np.array([float(objective.stock)]), task.shape(0.0, 0.0), 0.0)
    every = -enumerated.possible_returns(task, sums)[::-1]
    if isinstance(stocks, Tensor):
        first = stocks.double().numpy(force=True)
    else:
        first = every[np.unique(np.linspace(0, len(every) - 1, STARTS).round().astype(int))]
    shape = task.shape(float(every[0] - every[-1]), float(every[-1] - every[0]))
    kinks = every if objective.degree == 1 else None
    tried = search(objective, known, first, shape, 1e-3 * tolerance, kinks)
    anywhere = partial(_searched, task, sums, known, STARTS, tolerance)
    return bounded_by_all(objective, tried, anywhere) if isinstance(stocks, Tensor) else tried


def _interpolated(
    task: Task, stocks: int | Tensor, tolerance: float, max_sweeps: int | None, limit: float, note: str
) -> Solution:
    solved, tried = _bracketed(task, stocks, tolerance, max_sweeps, limit)
    settled = solved.change <= tolerance

    def anew(other: Objective) -> Solution:
        return _interpolated(replace(task, objective=other), stocks, tolerance, max_sweeps, limit, note)

    return evaluated(Found(task, tried, lambda start: solved.policy, solved.sweeps, solved.change, settled, note, anew))


def _bracketed(
    task: Task, stocks: int | Tensor, tolerance: float, max_sweeps: int | None, limit: float
) -> tuple[interpolated.Solved, Tried]:
    """Return the sweeps on a grid, and what every c_0 of it stands for."""
    points = stocks.double().numpy(force=True) if isinstance(stocks, Tensor) else stocks
    axes = interpolated.axes_of(task, points)
    _refuse_above(limit, _grid_bytes(task, axes), "vi, on a grid,", "take fewer --stocks, or a shorter horizon")
    solved = interpolated.solve_on_grid(task, axes, tolerance, max_sweeps)
    objective, axis = task.objective, solved.axis
    lower, upper = (task.mdp.start @ solved.tables[side] for side in (interpolated.LOWER, interpolated.UPPER))
    if float(np.abs([lower, upper]).max()) > 1e100:
        raise ValueError(
            f"{objective.name}: the stocks are too many to be enumerated, and its utility jumps: nothing can be said "
            "between the points of a grid; shorten the horizon, or round the rewards"
        )
    kept = np.ones(len(axis.points), bool) if objective.stock is None else axis.points == float(objective.stock)
    low, high = (objective.score(axis.points[kept], side[kept]) for side in (lower, upper))
    if objective.outer == "min":
        bound = float(high.min())
    else:
        peaks, _ = peaks_between(objective, axis.points[kept], high, axis.shape)
        bound = max(float(high.max()), float(peaks.max(initial=-np.inf)))
    tried = Tried(axis.points[kept], low, high, bound)
    if isinstance(stocks, Tensor):
        every = partial(_bracketed, task, len(stocks), tolerance, max_sweeps, limit)
        tried = bounded_by_all(objective, tried, lambda: every()[1])
    return solved, tried


def _grid_bytes(task: Task, axes: list[interpolated.Axis]) -> float:
    most = max(len(axis.points) for axis in axes)
    actions = 1.0 * task.action_bytes * task.mdp.states * sum(len(axis.points) for axis in axes)
    return 8 * 12 * task.mdp.states * most + actions + 64 * interpolated.CHUNK


# --- the other methods ------------------------------------------------------------------------------------------------


def _from_projected(
    problem: stock_grid.Problem,
    task: Task,
    solved: stock_grid.SolvedGrid,
    tolerance: float,
    limit: float,
    note: str,
) -> Solution:
    """Return what a projected method found: its policy evaluated from the table, in the bracket of value iteration."""
    objective, stocks = problem.objective, problem.stocks.numpy(force=True)
    figures = objective.score(stocks, (problem.start @ solved.values).numpy(force=True))
    if objective.stock is not None:
        stocks, figures = _nearest_start(objective, stocks, figures)
    bracket = _bracket(task, len(problem.stocks), tolerance, limit)
    tried = Tried(stocks, figures, figures, bracket[1])
    grids = tuple(problem.grid(step) for step in range(len(solved.actions)))
    policy = SolvedPolicy(grids, tuple(narrow(table) for table in solved.actions))

    def anew(other: Objective) -> Solution:
        same, again = replace(problem, objective=other), replace(task, objective=other)
        return _from_projected(same, again, solved, tolerance, limit, note)

    settled = solved.change <= tolerance
    found = Found(task, tried, lambda start: policy, solved.sweeps, solved.change, settled, note, anew)
    one = evaluated(found)
    return replace(one, lower=max(one.value - one.error, bracket[0]), projected=(problem, solved))


def _nearest_start(objective: Objective, stocks: np.ndarray, figures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the objective's own c_0 (1,) with the figure of the nearest stock that was solved for."""
    start = float(objective.stock or 0)
    if not stocks[0] <= start <= stocks[-1]:
        raise ValueError(
            f"{objective.name} starts from stock {start:g}, outside [{stocks[0]:g}, {stocks[-1]:g}] that was solved "
            "for; solve for it anew"
        )
    return np.array([start]), figures[[int(np.abs(stocks - start).argmin())]]


def _bracket(task: Task, stocks: int, tolerance: float, limit: float) -> tuple[float, float]:
    """Return what some policy achieves and what none exceeds, by value iteration."""
    if _needs_no_stock(task.objective):
        solved = neutral.solve_states(task)
        return solved.value, solved.bound
    sums = _enumerable(task, limit)
    if sums is None:
        tried = _bracketed(task, max(stocks, 2), tolerance, None, limit)[1]
    else:
        tried = _searched(task, sums, enumerated.Known(task, sums), 2, tolerance)
    return -math.inf if task.objective.outer == "min" else float(tried.lower.max()), tried.bound


__all__ = ["MethodName", "Representation", "Solution", "SolvedPolicy", "solve"]
