"""`surefoot solve`: the best policy of a tabular MDP for any sound objective of its return, without learning."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table

from surefoot.agents.distributional import Solution, solve
from surefoot.agents.distributional.distributions import mean
from surefoot.agents.distributional.objectives import Objective, parse
from surefoot.agents.distributional.solve import MethodName, Representation
from surefoot.agents.parts.ranges import unread_where
from surefoot.agents.parts.sparse import SparseMDP
from surefoot.agents.parts.tabular import TabularMDP
from surefoot.envs import EnvConfig, make_vec
from surefoot.evaluation.storage import write_atomically
from surefoot.evaluation.tables import is_table, read_table
from surefoot.training.cli import solve_models, solve_vectors
from surefoot.training.cli.options import read_options
from surefoot.training.cli.outputs import require_output, require_own
from surefoot.training.config.unread import refuse_given
from surefoot.training.runs.console import print_table

MOST = 10_000_000  # steps, atoms or grid points
DEFAULT_OBJECTIVE = ("cvar(0.1)",)


@dataclass(frozen=True)
class Request:
    """The task, the objectives and the method of the solution."""

    task: tyro.conf.Positional[str] = ""
    """Gymnasium id of a tabular MDP, such as surefoot/Fork-v0, or a file of one: table.npz, table.csv."""
    objective: tuple[str, ...] = DEFAULT_OBJECTIVE
    """Objectives of the return to optimise: mean, cvar(0.1), target(2), …; or of several rewards: targets(2, 1), …"""
    models: tuple[Path, ...] = ()
    """Files of several models of one task, in place of it: find the best mean return in the worst of them."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the constructor of a registered task."""
    gamma: float | None = None
    """Discount factor; default: the task's own. 1 needs a horizon, or a task in which every policy ends."""
    horizon: int | None = None
    """Horizon in steps; default: the task's own, or infinite."""
    method: MethodName = "vi"
    """`vi`: value iteration over states and stocks; `exact`: backward induction in fractions, for small tasks; `dvi`,
    `dpi`: distributional value or policy iteration, as in the paper."""
    representation: Representation | None = None
    """Representation of the return distributions of `exact`, `dvi` and `dpi`: `particles`, `quantiles` or
    `categorical`; default: particles for `exact`, else quantiles."""
    atoms: int = 256
    """Quantiles or categories per return distribution."""
    stocks: int = 200
    """Grid points of the stock, where the stocks that can be reached are too many to be enumerated."""
    stock_range: tuple[float, float] | None = None
    """Range of the initial stocks that are tried; default: wide enough for the objective. The bound of all policies
    stays that of every initial stock."""
    return_range: tuple[float, float] | None = None
    """Range of the categories; default: wide enough that no return is clipped."""
    out: Path = Path("distributions.png")
    """Figure of the return distributions and of the search over the initial stock c_0."""
    json: Path | None = None
    """Also write values and distributions to this file."""


def main(arguments: list[str]) -> int:
    """Solve, print the table, draw the distributions, and return the exit code."""
    torch.set_num_threads(1)  # the tensors are small, and threads would wait for each other
    request = read_options(Request, args=arguments, prog="surefoot solve")
    require_output(request.json, ".json")
    require_own(request.json, "a solution", "objective", "worst_case")
    require_output(request.out, ".png", ".pdf", ".svg")
    refuse_given(request, Request(), unread_of(request))
    if request.models:
        return _worst_case(request)
    if solve_vectors.wanted(request.objective):
        return _of_vectors(request)
    from surefoot.evaluation.figures.distributions import solution_distributions

    solutions = solve_all(request)
    print_table(table(request.task, solutions))
    for note in dict.fromkeys(note for solution in solutions for note in notes(solution)):
        print(note)
    print(f"figure: {solution_distributions(solutions, request.out, _named(request))}")
    if request.json is not None:
        write_json(request.json, [plain(solution) for solution in solutions])
    return 0


def unread_of(request: Request) -> dict[str, str]:
    """Return the options that a solution does not read as the others are, and why."""
    kind = request.representation or ("particles" if request.method == "exact" else "quantiles")
    of_distributions = ("representation", "atoms", "return_range")
    of_stocks = (*of_distributions, "stocks", "stock_range", "out")
    in_fractions = "with objectives of several rewards, which are solved in fractions and drawn by no figure"
    of_vectors = not request.models and solve_vectors.wanted(request.objective)
    return unread_where(
        (kind != "categorical", ("return_range",), "without --representation categorical"),
        (kind == "particles", ("atoms",), "on particles, of which there are as many as different returns"),
        (kind == "particles", ("stocks", "stock_range"), "on particles, which are carried for every stock in reach"),
        (request.method == "vi", of_distributions, "with --method vi"),
        (of_vectors, of_stocks, in_fractions),
        (of_vectors and request.method != "exact", ("method",), in_fractions),
        (bool(request.models), ("method", *of_stocks), "beside --models"),
    )


def _worst_case(request: Request) -> int:
    """Solve for the worst of several models, print what each comes to, and return the exit code."""
    taken = {"TASK": bool(request.task), "--kwargs": bool(request.kwargs), "--horizon": request.horizon is not None}
    if wrong := [name for name, given in taken.items() if given]:
        raise ValueError(f"{wrong[0]} has no meaning beside --models, whose files are the task, without a horizon")
    if request.objective not in (DEFAULT_OBJECTIVE, ("mean",)):
        raise ValueError(f"--models is for the mean return in the worst model, not {', '.join(request.objective)}")
    _check_numbers(request)
    found = solve_models.solve_files(request.models, request.gamma)
    print_table(solve_models.table(request.models, found))
    print("\n".join(solve_models.summary(request.models, found)))
    if request.json is not None:
        write_json(request.json, solve_models.plain(request.models, found))
    return 0


def _of_vectors(request: Request) -> int:
    """Solve for objectives of several rewards, print what each comes to, and return the exit code."""
    _require_task(request)
    _check_numbers(request)
    found = solve_vectors.solve_task(request.task, request.kwargs, request.objective, request.gamma, request.horizon)
    print_table(solve_vectors.table(request.task, found))
    if request.json is not None:
        write_json(request.json, [solve_vectors.plain(one) for one in found])
    return 0


def _named(request: Request) -> str:
    from surefoot.evaluation.figures.caption import task_with_dynamics

    if is_table(request.task):
        return Path(request.task).name
    return task_with_dynamics(asdict(EnvConfig(request.task, kwargs=request.kwargs)))


def write_json(path: Path, content: Any) -> None:
    """Write plain values to a file."""
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def solve_all(request: Request) -> list[Solution]:
    """Return one solution per objective; those that differ in the search over the stock alone are solved once."""
    if not request.objective:
        raise ValueError("name at least one objective, such as --objective 'cvar(0.1)'")
    objectives = list(map(parse, request.objective))
    _check_numbers(request)
    mdp, options = _problem(request)
    solutions = list[Solution]()
    for objective in objectives:
        alike = [one for one in solutions if _alike(one.objective, objective)]
        solutions.append(alike[0].again(objective) if alike else solve(mdp, objective, **options))
    return solutions


def _alike(one: Objective, other: Objective) -> bool:
    return bool(one.outer and other.outer) and one.utility is other.utility


def _check_numbers(request: Request) -> None:
    """Raise `ValueError` for a number that is out of its range, by the name of its option."""
    for name, value, least in (
        *(("--horizon", request.horizon, 1), ("--atoms", request.atoms, 2), ("--stocks", request.stocks, 2)),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
        if value is not None and value > MOST:
            raise ValueError(f"{name} must be at most {MOST:,}, got {value}")
    if request.gamma is not None and not 0 < request.gamma <= 1:
        raise ValueError(f"--gamma must lie in (0, 1], not {request.gamma}: the stock update divides by it")
    for name, ends in (("--stock-range", request.stock_range), ("--return-range", request.return_range)):
        if ends is not None and not -math.inf < ends[0] < ends[1] < math.inf:
            raise ValueError(f"{name} must be two finite numbers, the smaller one first, got {ends[0]:g} {ends[1]:g}")


def _problem(request: Request) -> tuple[TabularMDP | SparseMDP, dict[str, Any]]:
    """Return the table of the task, and how it is to be solved."""
    mdp, own_gamma, own_horizon = _from_file(request) if is_table(request.task) else _from_task(request)
    gamma = request.gamma if request.gamma is not None else own_gamma
    if gamma is None:
        raise ValueError(f"{request.task} has no discount of its own; add --gamma")
    return mdp, _options(request, gamma, request.horizon if request.horizon is not None else own_horizon)


def _from_file(request: Request) -> tuple[SparseMDP, float | None, int | None]:
    if request.kwargs:
        raise ValueError(f"--kwargs is for registered tasks; {request.task} is a file")
    return read_table(Path(request.task))


def _from_task(request: Request) -> tuple[TabularMDP, float | None, int | None]:
    _require_task(request)
    env: Any = make_vec(EnvConfig(request.task, kwargs=request.kwargs))
    if not hasattr(env, "tabular"):
        raise ValueError(f"{request.task} is not a tabular MDP; surefoot solve is for tasks such as surefoot/Fork-v0")
    return TabularMDP(*env.tabular()), getattr(env, "discount", None), env.horizon


def _require_task(request: Request) -> None:
    if not request.task:
        raise ValueError("name a task, such as surefoot/Fork-v0 or table.npz, or several files after --models")


def _options(request: Request, gamma: float, horizon: int | None) -> dict[str, Any]:
    return {
        "gamma": gamma,
        "horizon": horizon,
        "method": request.method,
        "representation": request.representation,
        "atoms": request.atoms,
        "stocks": _stocks(request),
        "return_range": request.return_range,
    }


def _stocks(request: Request) -> int | torch.Tensor:
    if request.stock_range is None:
        return request.stocks
    low, high = request.stock_range
    return torch.linspace(low, high, request.stocks, dtype=torch.float64)


def table(title: str, solutions: Sequence[Solution]) -> Table:
    """Return one row per objective."""
    caption = "value: what the policy achieves from the stock `start`; at most: what no policy exceeds"
    shown = Table(title=title, caption=caption, box=SIMPLE_HEAD)
    shown.add_column("objective", overflow="fold")
    for name in ("value", "at most", "start", "mean return"):
        shown.add_column(name, justify="right", no_wrap=True)
    for one in solutions:
        figures = one.bound, one.stock, float(mean(one.returns, one.chances))
        shown.add_row(one.objective.name, _value(one), *(f"{figure:.4f}" for figure in figures))
    return shown


def _value(one: Solution) -> str:
    return f"{one.value:.4f}" if one.error < 5e-5 else f"{one.value:.4f} ± {one.error:.2g}"


def notes(one: Solution) -> Iterator[str]:
    """Yield what must be known beside the figures of a solution."""
    if one.note:
        yield one.note
    if not one.settled:
        yield (
            f"{one.objective.name}: not settled after {one.sweeps} sweeps, the last still changed it by "
            f"{one.change:.2g}: a better policy may exist, up to `at most`; add --stocks"
        )
    if one.error >= 5e-5:
        yield (
            f"{one.objective.name}: the policy has too many different returns; nearby ones were merged, which may "
            "have moved the value by what follows the ±"
        )
    if one.mixed is not None:
        drawn = " or ".join(f"{part.stock:.4f} (chance {part.chance:.3g})" for part in one.mixture)
        yield f"{one.objective.name}: {one.mixed:.4f} with the start drawn before each episode, from {drawn}"


def plain(solution: Solution) -> dict[str, Any]:
    """Return the numbers and the return distribution as plain values."""
    exact = solution.rational
    return {
        "objective": solution.objective.name,
        "value": solution.value,
        "error": solution.error,
        "bracket": [solution.lower, solution.bound],
        "stock": solution.stock,
        "mixed": solution.mixed,
        "mixture": [{"chance": part.chance, "stock": part.stock} for part in solution.mixture],
        "exact_value": None if exact is None else str(exact.best.score),
        "exact_stock": None if exact is None else str(exact.best.stock),
        "sweeps": solution.sweeps,
        "change": solution.change,
        "settled": solution.settled,
        "note": solution.note,
        "returns": solution.returns.tolist(),
        "chances": solution.chances.tolist(),
        "searched": {"stocks": solution.stocks.tolist(), "scores": solution.scores.tolist()},
    }
