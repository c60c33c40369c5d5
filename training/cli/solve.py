"""`surefoot solve`: the best policy of a tabular MDP for any sound objective of its return, without learning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table

from surefoot.agents.distributional import Solution, solve
from surefoot.agents.distributional.distributions import mean
from surefoot.agents.distributional.objectives import parse
from surefoot.agents.distributional.solve import MethodName, Representation
from surefoot.agents.parts.tabular import TabularMDP
from surefoot.envs import EnvConfig, make_vec
from surefoot.evaluation.storage import write_atomically
from surefoot.training.runs.console import print_table


@dataclass(frozen=True)
class Request:
    """The task, the objectives and the method of the solution."""

    task: tyro.conf.Positional[str]
    """Gymnasium id of a tabular MDP, such as surefoot/Fork-v0."""
    objective: tuple[str, ...] = ("cvar(0.1)",)
    """Objectives of the return to optimise: mean, cvar(0.1), target(2), …"""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the task's constructor."""
    gamma: float | None = None
    """Discount factor; default: the task's own."""
    horizon: int | None = None
    """Horizon in steps; default: the task's own, or infinite."""
    method: MethodName = "dvi"
    """`exact` backward induction in fractions, `dvi` or `dpi`: distributional value or policy iteration."""
    representation: Representation | None = None
    """Representation of the return distributions: `particles`, `quantiles` or `categorical`; default: particles for
    `exact`, else quantiles."""
    atoms: int = 256
    """Quantiles or categories per return distribution."""
    stocks: int = 200
    """Grid points of the stock."""
    stock_range: tuple[float, float] | None = None
    """Range of the stock grid; default: the range of the return."""
    return_range: tuple[float, float] | None = None
    """Range of the categories; default: wide enough that no return is clipped."""
    out: Path = Path("distributions.png")
    """Figure of the return distributions and of the search over the initial stock c_0."""
    json: Path | None = None
    """Also write values and distributions to this file."""


def main(arguments: list[str]) -> int:
    """Solve, print the table, draw the distributions, and return the exit code."""
    from surefoot.evaluation.figures.caption import task_with_dynamics
    from surefoot.evaluation.figures.distributions import solution_distributions

    torch.set_num_threads(1)  # the tensors are small, and threads would wait for each other
    request = tyro.cli(Request, args=arguments, prog="surefoot solve")
    solutions = solve_all(request)
    print_table(table(request.task, solutions))
    for note in dict.fromkeys(solution.note for solution in solutions):
        print(note)
    task = task_with_dynamics(asdict(EnvConfig(request.task, kwargs=request.kwargs)))
    print(f"figure: {solution_distributions(solutions, request.out, task)}")
    if request.json is not None:
        text = json.dumps([plain(solution) for solution in solutions], indent=2) + "\n"
        write_atomically(request.json, lambda file: file.write(text.encode()))
    return 0


def solve_all(request: Request) -> list[Solution]:
    """Return one solution per objective; those that differ in the search over the stock alone are solved once."""
    if not request.objective:
        raise ValueError("name at least one objective, such as --objective 'cvar(0.1)'")
    env: Any = make_vec(EnvConfig(request.task, kwargs=request.kwargs))
    if not hasattr(env, "tabular"):
        raise ValueError(f"{request.task} is not a tabular MDP; surefoot solve is for tasks such as surefoot/Fork-v0")
    gamma = request.gamma if request.gamma is not None else getattr(env, "discount", None)
    if gamma is None:
        raise ValueError(f"{request.task} has no discount of its own; add --gamma")
    options: dict[str, Any] = {
        "gamma": gamma,
        "horizon": request.horizon or env.horizon,
        "method": request.method,
        "representation": request.representation,
        "atoms": request.atoms,
        "stocks": _stocks(request),
        "return_range": request.return_range,
    }
    mdp, solutions = TabularMDP(*env.tabular()), list[Solution]()
    for objective in map(parse, request.objective):
        known = [one for one in solutions if objective.outer and one.objective.utility is objective.utility]
        solutions.append(known[0].again(objective) if known else solve(mdp, objective, **options))
    return solutions


def _stocks(request: Request) -> int | torch.Tensor:
    if request.stock_range is None:
        return request.stocks
    low, high = request.stock_range
    return torch.linspace(low, high, request.stocks, dtype=torch.float64)


def table(title: str, solutions: Sequence[Solution]) -> Table:
    """Return one row per objective."""
    caption = "start: c_0; distribution: the objective of the return distribution itself, projected unless it is exact"
    shown = Table(title=title, caption=caption, box=SIMPLE_HEAD)
    bounds = any(solution.bound is not None for solution in solutions)
    for name in ("objective", "start", "value", "distribution", "mean return", *(["bound"] if bounds else [])):
        shown.add_column(name, justify="left" if name == "objective" else "right", no_wrap=True)
    for one in solutions:
        figures = [one.stock, one.value, one.measured, float(mean(one.returns, one.chances))]
        bound = ["" if one.bound is None else f"{one.bound:.4f}"] if bounds else []
        shown.add_row(one.objective.name, *(f"{figure:.4f}" for figure in figures), *bound)
    return shown


def plain(solution: Solution) -> dict[str, Any]:
    """Return the numbers and the return distribution as plain values."""
    exact = solution.rational
    return {
        "objective": solution.objective.name,
        "value": solution.value,
        "stock": solution.stock,
        "bound": solution.bound,
        "of_the_distribution": solution.measured,
        "exact_value": None if exact is None else str(exact.best.score),
        "exact_stock": None if exact is None else str(exact.best.stock),
        "sweeps": solution.sweeps,
        "change": solution.change,
        "note": solution.note,
        "returns": solution.returns.tolist(),
        "chances": solution.chances.tolist(),
        "searched": {"stocks": solution.stocks.tolist(), "scores": solution.scores.tolist()},
    }
