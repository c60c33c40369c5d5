"""What a solve comes to: a policy, its own return distribution and value, and a bracket of the optimum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.distributional import distributions, exact, stock_grid
from surefoot.agents.distributional.mixture import Drawn, best_mixture
from surefoot.agents.distributional.objectives import Objective, parse
from surefoot.agents.distributional.policy import Law, SolvedPolicy, law_of
from surefoot.agents.distributional.start_search import Tried
from surefoot.agents.distributional.task import Task
from surefoot.agents.parts.tabular import narrow

LAWS = 8  # starts whose policies are evaluated exactly
CERTAIN = 1e-8  # relative: figures and bounds that are nearer than this are equal
UPPER_LAWS = 48  # of an upper tail, where the search over c_0 says little of single policies


@dataclass(frozen=True)
class Solution:
    """The best that was found: start with `stock` and act by `policy`, and the return is distributed as stated here."""

    objective: Objective
    value: float
    """What the policy achieves: the objective of its own return distribution, computed forwards from the table."""
    error: float
    """By which the value may be off; 0 where the distribution is exact but for rounding."""
    lower: float
    """Some policy achieves this: the value, or a bound where its distribution could not be had exactly."""
    bound: float
    """No policy achieves more. Of an upper tail: attained by a mixture of policies drawn at time 0."""
    stock: float
    """c_0."""
    policy: SolvedPolicy
    """What to do in a state, with a stock, at a step."""
    returns: Tensor
    """The policy's return distribution from c_0: its atoms (K,), in order, …"""
    chances: Tensor
    """… and their probabilities (K,)."""
    stocks: Tensor
    """Every c_0 that was tried (C,), in order, …"""
    scores: Tensor
    """… and the figure that each stands for (C,), as the method sees it."""
    note: str
    """Why stock alone was enough, or not."""
    sweeps: int
    """Of value iteration over the states, or policies of policy iteration."""
    change: float
    """Of E u(c + G), or of its bounds, in the last sweep."""
    settled: bool
    """Whether that is at most the tolerance. If not, more sweeps may find a better policy; the bracket holds."""
    rational: exact.StartSearch | None
    """All of it in fractions, where the representation is `particles`."""
    anew: Callable[[Objective], Solution]
    """Searches for the start of another objective, for `again`."""
    projected: tuple[stock_grid.Problem, stock_grid.SolvedGrid] | None = None
    """The tables of `dvi` or `dpi`."""
    mixed: float | None = None
    """What the best mixture of policies achieves, where one was found that is better than the policy; else None."""
    mixture: tuple[Drawn, ...] = ()
    """That mixture: one of these is drawn at the start of an episode, and followed to its end."""

    def again(self, objective: Objective | str) -> Solution:
        """Return the solution of another objective with the same utility, as all cvars have, or all targets.

        What was swept is used again where that is possible.
        """
        objective = parse(objective) if isinstance(objective, str) else objective
        if objective.utility is not self.objective.utility:
            raise ValueError(f"{objective.name} has another utility than {self.objective.name}; solve for it anew")
        return self.anew(objective)


@dataclass(frozen=True)
class Found:
    """What a method found, before its policy is evaluated."""

    task: Task
    tried: Tried
    policy: Callable[[float], SolvedPolicy]  # from c_0
    sweeps: int
    change: float
    settled: bool
    note: str
    anew: Callable[[Objective], Solution]


def evaluated(found: Found) -> Solution:
    """Return the solution of the best start: by the objective of the return distributions themselves, then the mean."""
    objective, tried = found.task.objective, found.tried
    starts = _contenders(objective, tried)
    laws = [(start, policy := found.policy(start), law(found.task, policy, start)) for start in starts]
    figures = np.array([float(objective.measure(one.values, one.chances)) for _, _, one in laws])
    means = [float(distributions.mean(one.values, one.chances)) for _, _, one in laws]
    near = figures >= figures.max() - 1e-9 * (1e-3 + abs(figures.max()))
    best = max(np.flatnonzero(near), key=lambda k: (round(means[k], 9), starts[k]))
    start, policy, one = laws[best]
    value, error = float(figures[best]), error_of(found.task, one, start)
    lower = value - error
    if objective.outer != "min":
        lower = max(lower, float(tried.lower.max()))
    mixed, mixture = _mixture(objective, value, [(c, act, each.values, each.chances) for c, act, each in laws])
    return Solution(
        mixed=mixed,
        mixture=mixture,
        objective=objective,
        value=value,
        error=error,
        lower=lower,
        bound=max(tried.bound, value - error),
        stock=start,
        policy=policy,
        returns=one.values,
        chances=one.chances,
        stocks=torch.from_numpy(tried.stocks),
        scores=torch.from_numpy((tried.lower + tried.upper) / 2),
        note=found.note,
        sweeps=found.sweeps,
        change=found.change,
        settled=found.settled,
        rational=None,
        anew=found.anew,
    )


def _mixture(
    objective: Objective, value: float, laws: Sequence[tuple[float, SolvedPolicy, Tensor, Tensor]]
) -> tuple[float | None, tuple[Drawn, ...]]:
    """Return what the best mixture of policies, each with its c_0 and distribution, achieves, if more than `value`."""
    if objective.outer != "min":
        return None, ()
    found = best_mixture([(v.numpy(force=True), w.numpy(force=True)) for *_, v, w in laws], 1 / float(objective.weight))
    if found.value <= value + CERTAIN * (1 + abs(value)):
        return None, ()
    return found.value, tuple(Drawn(chance, *laws[which][:2]) for chance, which in found.parts)


def law(task: Task, policy: SolvedPolicy, start: float) -> Law:
    """Return the return distribution of a policy from c_0."""
    largest = max(map(abs, task.bounds)) if task.gamma < 1 else 0.0
    return law_of(task.mdp, task.backups, policy, task.gamma, task.horizon, start, largest)


def error_of(task: Task, one: Law, start: float) -> float:
    """Return by how much the objective of a distribution may be off, from how far its atoms were moved."""
    if one.moved == 0 and one.missing <= 1e-9:
        return 0.0
    shape = task.objective.shape(start + float(one.values[0]), start + float(one.values[-1]))
    steepest = max(abs(shape.least_slope), abs(shape.largest_slope)) if task.objective.aversion is None else 1.0
    return float(task.objective.weight) * steepest * (one.moved + one.missing)


def _contenders(objective: Objective, tried: Tried) -> list[float]:
    """Return the starts c_0 whose policies may be the best."""
    if objective.outer == "min":
        every = max(1, len(tried.stocks) // UPPER_LAWS)
        around = tried.stocks[np.argsort(tried.upper)[:LAWS]]
        return sorted({*tried.stocks[::every].tolist(), *around.tolist()})
    middle = (tried.lower + tried.upper) / 2
    order = np.argsort(-middle, kind="stable")[:LAWS]
    if tried.bound - tried.lower.max() <= CERTAIN * (1 + abs(tried.bound)):  # only what ties with it may be better
        order = order[middle[order] >= middle.max() - CERTAIN * (1 + abs(tried.bound))][:3]
    return sorted(tried.stocks[order].tolist())


# --- in fractions -----------------------------------------------------------------------------------------------------


def from_particles(program: exact.Program, note: str, method: str) -> Solution:
    """Return the solution in fractions of a program, by a method of `exact`."""
    found = exact.best_start(program, method)
    atoms = sorted(found.best.distribution.items())
    value, policy = float(found.best.score), _particle_policy(program, found.solved.actions)
    laws = [
        (float(start.stock), policy, _float64([*start.distribution]), _float64([*start.distribution.values()]))
        for start in found.tried
    ]
    mixed, mixture = _mixture(program.objective, value, laws)
    return Solution(
        mixed=mixed,
        mixture=mixture,
        objective=program.objective,
        value=value,
        error=0.0,
        lower=value,
        bound=value if found.bound is None else float(found.bound),
        stock=float(found.best.stock),
        policy=policy,
        returns=_float64([value for value, _ in atoms]),
        chances=_float64([weight for _, weight in atoms]),
        stocks=_float64([start.stock for start in found.tried]),
        scores=_float64([start.score for start in found.tried]),
        note=note,
        sweeps=found.solved.sweeps,
        change=0.0,
        settled=True,
        rational=found,
        anew=lambda objective: from_particles(replace(program, objective=objective), note, method),
    )


def _particle_policy(program: exact.Program, actions: dict[exact.Node, int]) -> SolvedPolicy:
    """Return the actions by step; a state takes that of its nearest stock that can be reached."""
    states = len(program.outcomes[0])
    stocks, tables = [], []
    for step in range(program.horizon):
        nodes = {(state, stock): action for (t, state, stock), action in actions.items() if t == step}
        points = sorted({stock for _, stock in nodes}) or [Fraction(0)]
        table = torch.zeros(states, len(points), dtype=torch.int64)
        for state in {state for state, _ in nodes}:
            known = [k for k, stock in enumerate(points) if (state, stock) in nodes]
            chosen = torch.tensor([nodes[state, points[k]] for k in known])
            between = _float64([(points[a] + points[b]) / 2 for a, b in pairwise(known)])
            table[state] = chosen[torch.bucketize(_float64(points), between)]
        stocks.append(_float64(points))
        tables.append(narrow(table))
    return SolvedPolicy(tuple(stocks), tuple(tables))


def _float64(numbers: list[Fraction]) -> Tensor:
    return torch.tensor([float(number) for number in numbers], dtype=torch.float64)
