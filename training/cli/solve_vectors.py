"""`surefoot solve` for objectives of a vector of returns: several set-points, or several budgets, at once."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from surefoot.agents.distributional.vectors import VectorSolution, is_vector, parse_vector, solve_vectors
from surefoot.agents.parts.tabular import TabularMDP
from surefoot.envs import EnvConfig, make_vec
from surefoot.evaluation.tables import is_table


def wanted(objectives: Sequence[str]) -> bool:
    """Return whether objectives are of a vector of returns; `ValueError` where only some are."""
    kinds = {is_vector(text) for text in objectives}
    if len(kinds) > 1:
        one, other = (next(text for text in objectives if is_vector(text) == kind) for kind in (True, False))
        raise ValueError(f"--objective {one} is of a vector of rewards, {other} of their sum; solve for them apart")
    return True in kinds


def solve_task(
    task: str, kwargs: dict[str, Any], objectives: Sequence[str], gamma: float | None, horizon: int | None
) -> list[VectorSolution]:
    """Return one solution for each objective, of a registered task with several rewards.

    Raises:
        ValueError: a task without them, or with no discount of its own, or what `solve_vectors` refuses.
    """
    goals = [parse_vector(text) for text in objectives]
    env: Any = None if is_table(task) else make_vec(EnvConfig(task, kwargs=kwargs))
    if not getattr(env, "parts", None):
        raise ValueError(f"{task} has one reward alone; --objective {goals[0].name} needs several: surefoot/Larder-v0")
    gamma = getattr(env, "discount", None) if gamma is None else gamma
    if gamma is None:
        raise ValueError(f"{task} has no discount of its own; add --gamma")
    mdp, limit = TabularMDP(*env.vector_tabular()), env.horizon if horizon is None else horizon
    return [solve_vectors(mdp, goal, gamma=gamma, horizon=limit) for goal in goals]


def table(title: str, solutions: Sequence[VectorSolution]) -> Table:
    """Return one row per objective."""
    caption = "value: the optimum of all policies, from the stocks `start`"
    shown = Table(title=title, caption=caption, box=SIMPLE_HEAD)
    shown.add_column("objective", overflow="fold")
    for name in ("value", "start", "mean returns"):
        shown.add_column(name, justify="right", no_wrap=True)
    for one in solutions:
        means = (one.chances @ one.returns).tolist()
        shown.add_row(one.objective.name, f"{float(one.value):.4f}", _row(one.stock), _row(means))
    return shown


def _row(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.4f}" for number in numbers)


def plain(one: VectorSolution) -> dict[str, Any]:
    """Return the numbers and the distribution of the vectors of returns as plain values."""
    return {
        "objective": one.objective.name,
        "value": float(one.value),
        "exact_value": str(one.value) if isinstance(one.value, Fraction) else None,
        "stock": list(one.stock),
        "returns": one.returns.tolist(),
        "chances": one.chances.tolist(),
    }
