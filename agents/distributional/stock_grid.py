"""The method with projected laws on a grid of stocks: all states, actions and stocks in a few tensor operations.

| brief | here |
|---|---|
| (1), stock axis, nearest neighbour | `following_stock` |
| E u of the law of R + γ·G(S', C') of every action, before projection (V3) | `action_values` |
| greedy step (V4), ties broken by the mean | `greedy` |
| the projections of section 5 (V5) | `project` |
| 4.2, distributional value iteration (DVI) | `value_iteration` |
| 4.3, distributional policy iteration (DPI) | `policy_iteration` |
| (8), the scalar recursion, a second opinion | `scalar_recursion` |

Shapes: S states, A actions, C stocks, m atoms a law, R outcomes that can happen ("rows"), K of them at most an action.
Everything is float64.
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

TIE = 1e-9  # expected utilities that differ by less are equal, and the mean return decides


class Rows(NamedTuple):
    """The outcomes of one step that can happen, one after the other."""

    pair: Tensor  # (R,) int64, state·A + action
    chance: Tensor  # (R,)
    after: Tensor  # (R,) int64
    reward: Tensor  # (R,)
    of_pair: Tensor  # (S·A, K) int64: the rows of every pair, padded by its first
    share: Tensor  # (S·A, K): their chances, 0 for padding


@dataclass(frozen=True)
class Problem:
    """A finite MDP laid out for sweeps, with what is wanted of its return."""

    rows: list[Rows]  # of every step, or of the one that is every step
    start: Tensor  # (S,)
    actions: int
    objective: Objective
    gamma: float
    horizon: int | None
    scaled: bool
    stocks: Tensor  # (C,) in order
    support: Tensor | None  # (m,) of categorical laws; None for quantiles
    count: int  # m

    def at(self, step: int) -> Rows:
        """Return what can happen at a step."""
        return self.rows[step if len(self.rows) > 1 else 0]

    def scale(self, step: int) -> float:
        """Return γ^t where the utility needs it, else 1."""
        return self.gamma**step if self.scaled else 1.0


def make_rows(mdp: TabularMDP) -> list[Rows]:
    """Return the rows of every step of the table."""
    return [_rows(*fields) for fields in zip(mdp.probability, mdp.next_state, mdp.reward, strict=True)]


def _rows(probability: Tensor, next_state: Tensor, reward: Tensor) -> Rows:
    mass = probability.double().flatten(0, 1)  # (S·A, K)
    pair, outcome = (mass > 0).nonzero(as_tuple=True)
    numbers = torch.zeros(mass.shape, dtype=torch.int64, device=mass.device)
    numbers[pair, outcome] = torch.arange(len(pair), device=mass.device)
    share, order = mass.sort(dim=-1, descending=True, stable=True)
    width = int((mass > 0).sum(-1).max())
    of_pair = numbers.gather(-1, order)
    of_pair = torch.where(share > 0, of_pair, of_pair[:, :1])[:, :width]
    cells = (pair, outcome)
    after, pay = next_state.flatten(0, 1)[cells], reward.double().flatten(0, 1)[cells]
    return Rows(pair, mass[cells], after, pay, of_pair, share[:, :width])


# --- memory -----------------------------------------------------------------------------------------------------------


def memory_bytes(rows: list[Rows], states: int, stocks: int, count: int, horizon: int | None, method: str) -> int:
    """Return what a solve needs at most: 8·C·m·(max(5·R, 8·S·K) + L·S) + 8·C·(6·R + 3·T·S) bytes.

    L laws of every state and stock are held: 3, or T + 3 where policy iteration keeps those of every step. T is 1
    without a horizon.
    """
    largest, width, steps = (
        max(len(each.pair) for each in rows),
        max(each.share.shape[1] for each in rows),
        horizon or 1,
    )
    held = 3 + (steps if method == "dpi" and horizon else 0)
    per_atom = max(5 * largest, 8 * states * width) + held * states
    return 8 * stocks * (count * per_atom + 6 * largest + 3 * steps * states)


# --- one sweep --------------------------------------------------------------------------------------------------------


def following_stock(problem: Problem, rows: Rows) -> Tensor:
    """Return the index (R, C) of the stock of the grid nearest to (c + r)/γ; beyond its ends, the end."""
    between = (problem.stocks[1:] + problem.stocks[:-1]) / 2
    return torch.bucketize(next_stock(problem.stocks, rows.reward[:, None], problem.gamma), between)


def expected(problem: Problem, following: Tensor, reward: Tensor, discount: float, scale: float) -> Tensor:
    """Return E u(scale·(c + r + discount·G)) (…, C) of laws G (…, C, m) and rewards (…)."""
    if problem.support is None:
        x = problem.stocks[:, None] + reward[..., None, None] + discount * following
        return problem.objective.utility(scale * x).mean(-1)
    x = problem.stocks[:, None] + (reward[..., None] + discount * problem.support)[..., None, :]
    return (following * problem.objective.utility(scale * x)).sum(-1)


def mean(problem: Problem, law: Tensor) -> Tensor:
    """Return E G (…) of laws (…, m)."""
    return law.mean(-1) if problem.support is None else law @ problem.support


def values(problem: Problem, law: Tensor, step: int = 0) -> Tensor:
    """Return F(s, c) = E u(c + G) (S, C) of laws (S, C, m)."""
    return expected(problem, law, law.new_zeros(len(law)), 1.0, problem.scale(step))


def action_values(problem: Problem, following: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Return E u(c + R + γG(S', C')) and the mean of R + γG(S', C') of every action, (S, A, C), before projection."""
    rows = problem.at(step)
    near = following_stock(problem, rows)
    after = rows.after[:, None]
    worth = expected(problem, following[after, near], rows.reward, problem.gamma, problem.scale(step))
    means = rows.reward[:, None] + problem.gamma * mean(problem, following)[after, near]
    pairs = worth.new_zeros(2, len(rows.share), worth.shape[1])
    pairs.index_add_(1, rows.pair, torch.stack([worth, means]) * rows.chance[:, None])
    return tuple(pairs.unflatten(1, (-1, problem.actions)))


def greedy(worth: Tensor, means: Tensor, keep: Tensor | None = None) -> Tensor:
    """Return the action (S, C) of the largest worth (S, A, C). Ties: `keep`, else the larger mean, else the first."""
    best = worth >= worth.amax(1, keepdim=True) - TIE
    ranked = means.masked_fill(~best, -math.inf)
    chosen = (ranked >= ranked.amax(1, keepdim=True) - TIE).to(torch.int8).argmax(1)
    if keep is None:
        return chosen
    return torch.where(best.gather(1, keep[:, None]).squeeze(1), keep, chosen)


def project(problem: Problem, following: Tensor, step: int, chosen: Tensor) -> Tensor:
    """Return Π law(R + γ·G(S', C')) (S, C, m) of the `chosen` actions (S, C)."""
    rows = problem.at(step)
    stock = torch.arange(len(problem.stocks), device=chosen.device)
    pair = torch.arange(len(chosen), device=chosen.device)[:, None] * problem.actions + chosen
    row, share = rows.of_pair[pair], rows.share[pair]  # (S, C, K)
    near = following_stock(problem, rows)[row, stock[:, None]]
    if problem.support is not None:
        atoms = rows.reward[row][..., None] + problem.gamma * problem.support
        weights = share[..., None] * following[rows.after[row], near]
        return distributions.project_categorical(atoms.flatten(-2), weights.flatten(-2), problem.support)
    first = row[..., 0]
    new = rows.reward[first][..., None] + problem.gamma * following[rows.after[first], near[..., 0]]
    if rows.share.shape[1] > 1:
        several = share[..., 1] > 0  # where one thing alone can happen, its quantiles are those of the law that follows
        row, near, share = row[several], near[several], share[several]
        atoms = rows.reward[row][..., None] + problem.gamma * following[rows.after[row], near]
        weights = (share / problem.count)[..., None].expand_as(atoms)
        new[several] = distributions.project_quantiles(atoms.flatten(-2), weights.flatten(-2), problem.count)
    return new


# --- the methods ------------------------------------------------------------------------------------------------------


class Solved(NamedTuple):
    """What a method leaves; T is 1 without a horizon."""

    actions: Tensor  # (T, S, C)
    law: Tensor  # (S, C, m), from the first step
    values: Tensor  # (S, C), F of those laws
    sweeps: int
    change: float  # of F in the last sweep; 0 with a horizon, where the last is exact


def no_return(problem: Problem) -> Tensor:
    """Return δ₀ for every state and stock (S, C, m)."""
    law = torch.zeros(len(problem.start), len(problem.stocks), problem.count, dtype=torch.float64)
    law = law.to(problem.stocks.device)
    if problem.support is None:
        return law
    zero = law.new_zeros(*law.shape[:-1], 1)
    return distributions.project_categorical(zero, zero + 1.0, problem.support)


def value_iteration(problem: Problem, tolerance: float, max_sweeps: int) -> Solved:
    """Return the greedy policy and its laws: of T sweeps from the last step, or when F moves by at most `tolerance`."""
    law = no_return(problem)
    if problem.horizon is not None:
        actions = []
        for step in reversed(range(problem.horizon)):
            actions.append(greedy(*action_values(problem, law, step)))
            law = project(problem, law, step, actions[-1])
        return Solved(torch.stack(actions[::-1]), law, values(problem, law), problem.horizon, 0.0)
    before, sweeps, change = values(problem, law), 0, math.inf
    while sweeps < max_sweeps and change > tolerance:
        chosen = greedy(*action_values(problem, law, 0))
        law = project(problem, law, 0, chosen)
        after = values(problem, law)
        change, before, sweeps = float((after - before).abs().max()), after, sweeps + 1
    return Solved(chosen[None], law, after, sweeps, change)


def evaluate(problem: Problem, actions: Tensor, law: Tensor, tolerance: float, max_sweeps: int) -> list[Tensor]:
    """Return the laws of a policy (T, S, C), T + 1 of them, or one, started from `law`, without a horizon."""
    if problem.horizon is not None:
        found = [no_return(problem)]
        for step in reversed(range(problem.horizon)):
            found.append(project(problem, found[-1], step, actions[step]))
        return found[::-1]
    for _ in range(max_sweeps):
        new = project(problem, law, 0, actions[0])
        moved = float((new - law).abs().mean(-1).max())  # w₁ of quantiles; for categories a bound up to the support
        law = new
        if moved <= tolerance:
            break
    return [law]


def policy_iteration(problem: Problem, tolerance: float, max_sweeps: int) -> Solved:
    """Return the last of policies each greedy to the laws of the one before, from the first action everywhere.

    It ends when the policy is greedy to its own laws, or when F no longer rises anywhere: projected laws may go round.
    """
    steps, shape = problem.horizon or 1, (len(problem.start), len(problem.stocks))
    actions = torch.zeros(steps, *shape, dtype=torch.int64, device=problem.stocks.device)
    found = evaluate(problem, actions, no_return(problem), tolerance, max_sweeps)
    best = values(problem, found[0])
    for sweep in range(1, max_sweeps + 1):
        improved = torch.stack(
            [
                greedy(*action_values(problem, found[min(t + 1, len(found) - 1)], t), keep=actions[t])
                for t in range(steps)
            ]
        )
        if torch.equal(improved, actions):
            return Solved(actions, found[0], best, sweep, 0.0)
        laws_of_improved = evaluate(problem, improved, found[0], tolerance, max_sweeps)
        after = values(problem, laws_of_improved[0])
        rise = float((after - best).max())
        if rise <= tolerance:
            break
        actions, found, best = improved, laws_of_improved, after
    return Solved(actions, found[0], best, sweep, rise)


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
    """Return sup E u(c + G) (S, C), without any law: equation (8), linear between the `stocks` (C,).

    h(s, c) = max_a E[u(c + R) − u(c) + γ^p·h(S', (c + R)/γ)], for u of degree p > 0; one table for all steps.
    """
    if not objective.degree:
        raise ValueError(f"{objective.name}: the scalar recursion needs a utility of degree p > 0")
    (rows,), actions = make_rows(mdp), mdp.reward.shape[2]
    u = objective.utility
    moved = stocks + rows.reward[:, None]
    paid, after = u(moved) - u(stocks), moved / gamma
    right = torch.searchsorted(stocks, after).clamp(1, len(stocks) - 1)
    share = ((after - stocks[right - 1]) / (stocks[right] - stocks[right - 1])).clamp(0, 1)
    h = stocks.new_zeros(len(mdp.start), len(stocks))
    for _ in range(horizon or max_sweeps):
        following = h[rows.after[:, None], right - 1] * (1 - share) + h[rows.after[:, None], right] * share
        pairs = h.new_zeros(len(rows.share), len(stocks))
        pairs.index_add_(0, rows.pair, rows.chance[:, None] * (paid + gamma**objective.degree * following))
        new = pairs.unflatten(0, (-1, actions)).amax(1)
        done = float((new - h).abs().max()) <= tolerance
        h = new
        if done and horizon is None:
            break
    return h + u(stocks)
