"""`surefoot solve`: the best policy of a finite task for any sound wish about its return, without learning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from surefoot.agents.distributional import Solution, solve
from surefoot.agents.distributional.distributions import mean
from surefoot.agents.distributional.objectives import parse
from surefoot.agents.distributional.solve import LawName, MethodName
from surefoot.agents.parts.tabular import TabularMDP
from surefoot.envs import EnvConfig, make_vec
from surefoot.evaluation.storage import write_atomically


@dataclass(frozen=True)
class Request:
    """What to solve, for what, and how."""

    task: tyro.conf.Positional[str]
    """Gymnasium id of a task that is a table, such as surefoot/Fork-v0."""
    objective: tuple[str, ...] = ("cvar(0.1)",)
    """What is wanted of the return: mean, cvar(0.1), target(2), …; one or several."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the task's constructor."""
    gamma: float | None = None
    """Discount; by default the task's own."""
    horizon: int | None = None
    """Steps of an episode; by default the task's own, or none."""
    method: MethodName = "dvi"
    """`exact` backward induction in fractions, `dvi` or `dpi`: distributional value or policy iteration."""
    law: LawName | None = None
    """`particles`, `quantiles` or `categorical`; by default particles for `exact`, else quantiles."""
    atoms: int = 256
    """Quantiles or categories a law."""
    stocks: int = 200
    """Stocks of the grid."""
    stock_range: tuple[float, float] | None = None
    """Ends of the grid of stocks; by default what the return can be."""
    return_range: tuple[float, float] | None = None
    """Ends of the categories; by default wide enough that none is clipped."""
    out: Path = Path("laws.png")
    """Picture of the laws, and of the search over the initial stock."""
    json: Path | None = None
    """Write figures and laws to this file too."""


def main(arguments: list[str]) -> int:
    """Solve, print the table, draw the laws, and return the exit code."""
    from surefoot.evaluation.figures.distributions import solution_laws

    torch.set_num_threads(1)  # the tensors are small, and threads would wait for each other
    request = tyro.cli(Request, args=arguments, prog="surefoot solve")
    solutions = solve_all(request)
    Console().print(table(request.task, solutions))
    for note in dict.fromkeys(solution.note for solution in solutions):
        print(note)
    print(f"picture: {solution_laws(solutions, request.out)}")
    if request.json is not None:
        text = json.dumps([plain(solution) for solution in solutions], indent=2) + "\n"
        write_atomically(request.json, lambda file: file.write(text.encode()))
    return 0


def solve_all(request: Request) -> list[Solution]:
    """Return a solution an objective; those that differ in the search over the stock alone are solved once."""
    if not request.objective:
        raise ValueError("name at least one objective, such as --objective 'cvar(0.1)'")
    env: Any = make_vec(EnvConfig(request.task, kwargs=request.kwargs))
    if not hasattr(env, "tabular"):
        raise ValueError(
            f"{request.task} is no table of outcomes; surefoot solve is for tasks such as surefoot/Fork-v0"
        )
    gamma = request.gamma if request.gamma is not None else getattr(env, "discount", None)
    if gamma is None:
        raise ValueError(f"{request.task} has no discount of its own; add --gamma")
    options: dict[str, Any] = {
        "gamma": gamma,
        "horizon": request.horizon or env.horizon,
        "method": request.method,
        "law": request.law,
        "atoms": request.atoms,
        "stocks": _stocks(request),
        "return_range": request.return_range,
    }
    mdp, solutions = TabularMDP(*env.tabular()), list[Solution]()
    for wish in map(parse, request.objective):
        known = [one for one in solutions if wish.outer and one.objective.utility is wish.utility]
        solutions.append(known[0].again(wish) if known else solve(mdp, wish, **options))
    return solutions


def _stocks(request: Request) -> int | torch.Tensor:
    if request.stock_range is None:
        return request.stocks
    low, high = request.stock_range
    return torch.linspace(low, high, request.stocks, dtype=torch.float64)


def table(title: str, solutions: Sequence[Solution]) -> Table:
    """Return one row an objective."""
    caption = "start: c_0; of the law: the objective of the return's law itself, which is projected unless it is exact"
    shown = Table(title=title, caption=caption, box=SIMPLE_HEAD)
    bounds = any(solution.bound is not None for solution in solutions)
    for name in ("objective", "start", "value", "of the law", "mean return", *(["bound"] if bounds else [])):
        shown.add_column(name, justify="left" if name == "objective" else "right", no_wrap=True)
    for one in solutions:
        figures = [one.stock, one.value, one.measured, float(mean(one.returns, one.chances))]
        bound = ["" if one.bound is None else f"{one.bound:.4f}"] if bounds else []
        shown.add_row(one.objective.name, *(f"{figure:.4f}" for figure in figures), *bound)
    return shown


def plain(solution: Solution) -> dict[str, Any]:
    """Return the figures and the law as plain values."""
    exact = solution.rational
    return {
        "objective": solution.objective.name,
        "value": solution.value,
        "stock": solution.stock,
        "bound": solution.bound,
        "of_the_law": solution.measured,
        "exact_value": None if exact is None else str(exact.best.score),
        "exact_stock": None if exact is None else str(exact.best.stock),
        "sweeps": solution.sweeps,
        "change": solution.change,
        "note": solution.note,
        "returns": solution.returns.tolist(),
        "chances": solution.chances.tolist(),
        "searched": {"stocks": solution.stocks.tolist(), "scores": solution.scores.tolist()},
    }
