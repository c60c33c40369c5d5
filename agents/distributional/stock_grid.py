"""The method with projected distributions on a grid of stocks: all states, actions and stocks in a few tensor
operations.

docs/derivations/distributional.md; the paper's own numbers are not known to us.

| derivation | paper | here |
|---|---|---|
| (1.2), (6.4) stock axis, nearest neighbour | – | `stock_grid.following_stock` |
| (1.8) F of distributions | – | `stock_grid.values` |
| §4.2 step 3, (4.2) the worth of every action, before projection | – | `stock_grid.action_values` |
| (4.3) greedy step; §4.5 ties | – | `stock_grid.greedy` |
| (4.4) with the projections (6.1), (6.2) | – | `stock_grid.project` |
| §4.2 distributional value iteration (DVI) | – | `stock_grid.value_iteration` |
| §4.3 distributional policy iteration (DPI), (4.5) | – | `stock_grid.policy_iteration`, `stock_grid.evaluate` |
| (4.12) the scalar recursion, a second opinion | – | `stock_grid.scalar_recursion` |
| (6.7) | – | `stock_grid.memory_bytes` |

Shapes: S states, A actions, C stocks, m atoms per distribution, R outcomes that can happen ("rows"), at most K of
them per action. Everything is float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.agents.distributional import distributions
from surefoot.agents.distributional.objectives import Objective, next_stock
from surefoot.agents.parts.tabular import TabularMDP

TIE = 1e-9  # relative: expected utilities that differ by less are equal, and the mean return decides


class OutcomeRows(NamedTuple):
    """The outcomes of one step that can happen, one after the other."""

    pair: Tensor  # (R,) int64, state·A + action
    chance: Tensor  # (R,)
    after: Tensor  # (R,) int64
    reward: Tensor  # (R,)
    of_pair: Tensor  # (S·A, K) int64: the rows of every pair, padded by its first
    probability: Tensor  # (S·A, K): theirs, 0 for padding


@dataclass(frozen=True)
class Problem:
    """A finite MDP laid out for sweeps, with an objective of its return."""

    rows: list[OutcomeRows]  # of every step, or of the one that is every step
    start: Tensor  # (S,)
    actions: int
    objective: Objective
    gamma: float
    horizon: int | None
    scaled: bool
    grids: tuple[Tensor, ...]  # (C,) in order, of every step and of the end, or the one that is every step's
    support: Tensor | None  # (m,) of categorical distributions; None for quantiles
    count: int  # m

    def at(self, step: int) -> OutcomeRows:
        """Return what can happen at a step."""
        return self.rows[step if len(self.rows) > 1 else 0]

    @property
    def stocks(self) -> Tensor:
        """The stocks c_0 (C,)."""
        return self.grids[0]

    def grid(self, step: int) -> Tensor:
        """Return the stocks (C,) of a step."""
        return self.grids[step if len(self.grids) > 1 else 0]

    @property
    def unit(self) -> float:
        """The size of the utility on the grid, which ties are relative to."""
        return float(self.objective.utility(self.stocks).abs().max()) or 1.0

    def scale(self, step: int) -> float:
        """Return γ^t where the utility needs it, else 1."""
        return self.gamma**step if self.scaled else 1.0


def make_rows(mdp: TabularMDP) -> list[OutcomeRows]:
    """Return the rows of every step of the table."""
    return [_rows(*fields) for fields in zip(mdp.probability, mdp.next_state, mdp.reward, strict=True)]


def _rows(probability: Tensor, next_state: Tensor, reward: Tensor) -> OutcomeRows:
    mass = probability.double().flatten(0, 1)  # (S·A, K)
    pair, outcome = (mass > 0).nonzero(as_tuple=True)
    numbers = torch.zeros(mass.shape, dtype=torch.int64, device=mass.device)
    numbers[pair, outcome] = torch.arange(len(pair), device=mass.device)
    ordered, order = mass.sort(dim=-1, descending=True, stable=True)
    width = int((mass > 0).sum(-1).max())
    of_pair = numbers.gather(-1, order)
    of_pair = torch.where(ordered > 0, of_pair, of_pair[:, :1])[:, :width]
    cells = (pair, outcome)
    after, pay = next_state.flatten(0, 1)[cells], reward.double().flatten(0, 1)[cells]
    return OutcomeRows(pair, mass[cells], after, pay, of_pair, ordered[:, :width])


# --- memory -----------------------------------------------------------------------------------------------------------


def memory_bytes(
    rows: list[OutcomeRows], states: int, stocks: int, count: int, horizon: int | None, method: str
) -> int:
    """Return what a solve needs at most: 8·C·m·(max(5·R, 8·S·K) + L·S) + 8·C·(6·R + 3·T·S) bytes.

    L distributions of every state and stock are held: 3, or T + 3 where policy iteration keeps those of every step. T
    is 1 without a horizon.
    """
    largest, width, steps = (
        max(len(each.pair) for each in rows),
        max(each.probability.shape[1] for each in rows),
        horizon or 1,
    )
    held = 3 + (steps if method == "dpi" and horizon else 0)
    per_atom = max(5 * largest, 8 * states * width) + held * states
    return 8 * stocks * (count * per_atom + 6 * largest + 3 * steps * states)


# --- one sweep --------------------------------------------------------------------------------------------------------


def following_stock(problem: Problem, rows: OutcomeRows, step: int) -> Tensor:
    """Return the index (R, C) of the stock of the next grid nearest to (c + r)/γ; beyond its ends, the end."""
    grid = problem.grid(step + 1)
    moved = next_stock(problem.grid(step), rows.reward[:, None], problem.gamma)
    return torch.bucketize(moved, (grid[1:] + grid[:-1]) / 2)


def expected(problem: Problem, following: Tensor, reward: Tensor, discount: float, step: int) -> Tensor:
    """Return E u(z·(c + r + discount·G)) (…, C) of distributions of G (…, C, m) and rewards (…)."""
    stocks, scale = problem.grid(step), problem.scale(step)
    if problem.support is None:
        x = stocks[:, None] + reward[..., None, None] + discount * following
        return problem.objective.utility(scale * x).mean(-1)
    x = stocks[:, None] + (reward[..., None] + discount * problem.support)[..., None, :]
    return (following * problem.objective.utility(scale * x)).sum(-1)


def mean(problem: Problem, distribution: Tensor) -> Tensor:
    """Return E G (…) of distributions (…, m)."""
    return distribution.mean(-1) if problem.support is None else distribution @ problem.support


def values(problem: Problem, distribution: Tensor, step: int = 0) -> Tensor:
    """Return F(s, c) = E u(c + G) (S, C) of distributions (S, C, m)."""
    return expected(problem, distribution, distribution.new_zeros(len(distribution)), 1.0, step)


def action_values(problem: Problem, following: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Return E u(c + R + γG(S', C')) and the mean of R + γG(S', C') of every action, (S, A, C), before projection."""
    rows = problem.at(step)
    near = following_stock(problem, rows, step)
    after = rows.after[:, None]
    worth = expected(problem, following[after, near], rows.reward, problem.gamma, step)
    means = rows.reward[:, None] + problem.gamma * mean(problem, following)[after, near]
    pairs = worth.new_zeros(2, len(rows.probability), worth.shape[1])
    pairs.index_add_(1, rows.pair, torch.stack([worth, means]) * rows.chance[:, None])
    return tuple(pairs.unflatten(1, (-1, problem.actions)))


def greedy(worth: Tensor, means: Tensor, unit: float, keep: Tensor | None = None) -> Tensor:
    """Return the action (S, C) of the largest worth (S, A, C). Ties: `keep`, else the larger mean, else the first.

    Tied is what differs by 10⁻⁹ of itself or of `unit`, the size of the utility.
    """
    most = worth.amax(1, keepdim=True)
    best = worth >= most - TIE * (unit + most.abs())
    ranked = means.masked_fill(~best, -math.inf)
    top = ranked.amax(1, keepdim=True)
    chosen = (ranked >= top - TIE * (means.abs().max() + top.abs())).to(torch.int8).argmax(1)
    if keep is None:
        return chosen
    return torch.where(best.gather(1, keep[:, None]).squeeze(1), keep, chosen)


def project(problem: Problem, following: Tensor, step: int, chosen: Tensor) -> Tensor:
    """Return the projected distributions of R + γ·G(S', C') (S, C, m) of the `chosen` actions (S, C)."""
    rows = problem.at(step)
    stock = torch.arange(chosen.shape[1], device=chosen.device)
    pair = torch.arange(len(chosen), device=chosen.device)[:, None] * problem.actions + chosen
    row, probability = rows.of_pair[pair], rows.probability[pair]  # (S, C, K)
    near = following_stock(problem, rows, step)[row, stock[:, None]]
    if problem.support is not None:
        atoms = rows.reward[row][..., None] + problem.gamma * problem.support
        weights = probability[..., None] * following[rows.after[row], near]
        return distributions.project_categorical(atoms.flatten(-2), weights.flatten(-2), problem.support)
    first = row[..., 0]
    new = rows.reward[first][..., None] + problem.gamma * following[rows.after[first], near[..., 0]]
    if rows.probability.shape[1] > 1:
        several = probability[..., 1] > 0  # a single outcome has the quantiles of the distribution that follows
        row, near, probability = row[several], near[several], probability[several]
        atoms = rows.reward[row][..., None] + problem.gamma * following[rows.after[row], near]
        weights = (probability / problem.count)[..., None].expand_as(atoms)
        new[several] = distributions.project_quantiles(atoms.flatten(-2), weights.flatten(-2), problem.count)
    return new


# --- the methods ------------------------------------------------------------------------------------------------------


class SolvedGrid(NamedTuple):
    """What a method leaves; T is 1 without a horizon."""

    actions: list[Tensor]  # (S, C) of every step
    distribution: Tensor  # (S, C, m), from the first step
    values: Tensor  # (S, C), F of those distributions
    sweeps: int
    change: float  # of F in the last sweep; 0 with a horizon, where the last is exact


def no_return(problem: Problem) -> Tensor:
    """Return δ₀ for every state and stock (S, C, m) at the end."""
    stocks = len(problem.grid(problem.horizon or 0))
    distribution = torch.zeros(len(problem.start), stocks, problem.count, dtype=torch.float64)
    distribution = distribution.to(problem.stocks.device)
    if problem.support is None:
        return distribution
    zero = distribution.new_zeros(*distribution.shape[:-1], 1)
    return distributions.project_categorical(zero, zero + 1.0, problem.support)


def value_iteration(problem: Problem, tolerance: float, max_sweeps: int) -> SolvedGrid:
    """Return the greedy policy and its distributions: of T sweeps backwards, or when F moves by at most `tolerance`."""
    distribution = no_return(problem)
    if problem.horizon is not None:
        actions = []
        for step in reversed(range(problem.horizon)):
            actions.append(greedy(*action_values(problem, distribution, step), problem.unit))
            distribution = project(problem, distribution, step, actions[-1])
        return SolvedGrid(actions[::-1], distribution, values(problem, distribution), problem.horizon, 0.0)
    before, sweeps, change = values(problem, distribution), 0, math.inf
    while sweeps < max_sweeps and change > tolerance:
        chosen = greedy(*action_values(problem, distribution, 0), problem.unit)
        distribution = project(problem, distribution, 0, chosen)
        after = values(problem, distribution)
        change, before, sweeps = float((after - before).abs().max()), after, sweeps + 1
    return SolvedGrid([chosen], distribution, after, sweeps, change)


def evaluate(
    problem: Problem, actions: list[Tensor], distribution: Tensor, tolerance: float, max_sweeps: int
) -> list[Tensor]:
    """Return the distributions of a policy: T + 1 of them; without a horizon one, from `distribution` on."""
    if problem.horizon is not None:
        found = [no_return(problem)]
        for step in reversed(range(problem.horizon)):
            found.append(project(problem, found[-1], step, actions[step]))
        return found[::-1]
    for _ in range(max_sweeps):
        new = project(problem, distribution, 0, actions[0])
        moved = float(
            (new - distribution).abs().mean(-1).max()
        )  # w₁ of quantiles; for categories a bound up to the support
        distribution = new
        if moved <= tolerance:
            break
    return [distribution]


def policy_iteration(problem: Problem, tolerance: float, max_sweeps: int) -> SolvedGrid:
    """Return the last of policies each greedy for the distributions of the one before, from the first action
    everywhere.

    It ends when the policy is greedy for its own distributions: with a horizon after as many turns, the last steps
    first. Without one also when F no longer rises anywhere: with projections it may cycle.
    """
    steps, device = problem.horizon or 1, problem.stocks.device
    sizes = [(len(problem.start), len(problem.grid(step))) for step in range(steps)]
    actions = [torch.zeros(size, dtype=torch.int64, device=device) for size in sizes]
    found = evaluate(problem, actions, no_return(problem), tolerance, max_sweeps)
    best = values(problem, found[0])
    for sweep in range(1, max_sweeps + 1):
        improved = [
            greedy(*action_values(problem, found[min(t + 1, len(found) - 1)], t), problem.unit, keep=actions[t])
            for t in range(steps)
        ]
        if all(map(torch.equal, improved, actions)):
            return SolvedGrid(actions, found[0], best, sweep, 0.0)
        improved_found = evaluate(problem, improved, found[0], tolerance, max_sweeps)
        after = values(problem, improved_found[0])
        rise = float((after - best).max())
        if rise <= tolerance and problem.horizon is None:
            break
        actions, found, best = improved, improved_found, after
    return SolvedGrid(actions, found[0], best, sweep, rise)


METHODS = {"dvi": value_iteration, "dpi": policy_iteration}


# --- a second opinion -------------------------------------------------------------------------------------------------


def scalar_recursion(
    mdp: TabularMDP,
    objective: Objective,
    gamma: float,
    stocks: Tensor,
    horizon: int | None = None,
    tolerance: float = 1e-9,
    max_sweeps: int = 10_000,
) -> Tensor:
    """Return sup E u(c + G) (S, C), without any distribution: eq. (4.12), linear between the `stocks` (C,).

    h(s, c) = max_a E[u(c + R) − u(c) + γ^p·h(S', (c + R)/γ)], for u of degree p > 0; one table for all steps.
    """
    if not objective.degree:
        raise ValueError(f"{objective.name}: the scalar recursion needs a utility of degree p > 0")
    (rows,), actions = make_rows(mdp), mdp.reward.shape[2]
    u = objective.utility
    moved = stocks + rows.reward[:, None]
    paid, after = u(moved) - u(stocks), moved / gamma
    right = torch.searchsorted(stocks, after).clamp(1, len(stocks) - 1)
    fraction = ((after - stocks[right - 1]) / (stocks[right] - stocks[right - 1])).clamp(0, 1)
    h = stocks.new_zeros(len(mdp.start), len(stocks))
    for _ in range(horizon or max_sweeps):
        following = h[rows.after[:, None], right - 1] * (1 - fraction) + h[rows.after[:, None], right] * fraction
        pairs = h.new_zeros(len(rows.probability), len(stocks))
        pairs.index_add_(0, rows.pair, rows.chance[:, None] * (paid + gamma**objective.degree * following))
        new = pairs.unflatten(0, (-1, actions)).amax(1)
        done = float((new - h).abs().max()) <= tolerance
        h = new
        if done and horizon is None:
            break
    return h + u(stocks)
