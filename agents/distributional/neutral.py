"""The two objectives that need no stock: the mean, and the entropic one in log space.

docs/derivations/distributional.md §4.7. With u(x) = −exp(−λx) the stock is a factor, u(w + γᵗG) = e^(−λw)·u(γᵗG), so
the certainty equivalent of what is still to come obeys risk-sensitive dynamic programming (Howard and Matheson 1972),

    V_t(s) = max_a −log E exp(−λ(γᵗR + V_{t+1}(S')))/λ,   V_T = 0.                                     (4.13)

In float64 and never above 1 in an exponential: |λG| may be as large as it likes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from surefoot.agents.distributional.policy import SolvedPolicy
from surefoot.agents.distributional.task import TIE, Task
from surefoot.agents.parts.sparse import Backup, first_best, stationary_optimum, worst_totals
from surefoot.agents.parts.tabular import narrow


class SolvedStates(NamedTuple):
    """What a policy without a stock comes to: its value, and what no policy exceeds."""

    policy: SolvedPolicy
    value: float
    bound: float
    sweeps: int


def solve_states(task: Task) -> SolvedStates:
    """Return the optimum of the mean or of an entropic objective."""
    if task.horizon is None:
        return _endless_mean(task)
    values, means, tables = np.zeros(task.mdp.states), np.zeros(task.mdp.states), []
    for step in reversed(range(task.horizon)):
        b, paid = task.backup(step), task.gamma**step * task.backup(step).reward
        worth = certain(b, paid + values[b.after], task.objective.aversion)
        mean = b.matrix @ (paid + means[b.after])
        best = b.best(worth)
        tied = worth >= (best - TIE * np.abs(best) - 1e-13 * np.abs(values).max())[b.state]
        chosen = first_best(b, np.where(tied, mean, -np.inf))
        values, means = worth[chosen], mean[chosen]
        tables.append(narrow(torch.from_numpy(b.action[chosen][:, None])))
    no_stock = torch.zeros(1, dtype=torch.float64)
    policy = SolvedPolicy((no_stock,) * task.horizon, tuple(tables[::-1]))
    value = float(_equivalent(values, task.mdp.start, task.objective.aversion))
    return SolvedStates(policy, value, value, task.horizon)


def certain(b: Backup, worth: np.ndarray, aversion: float | None) -> np.ndarray:
    """Return, of each choice (Q,), the mean of what its outcomes are worth (M,), or the certainty equivalent."""
    if aversion is None:
        mean: np.ndarray = b.matrix @ worth
        return mean
    each, starts = worth[b.matrix.indices], b.matrix.indptr[:-1]
    least = np.minimum.reduceat(each, starts)
    surplus = each - np.repeat(least, np.diff(b.matrix.indptr))
    return least - np.log(np.add.reduceat(b.matrix.data * np.exp(-aversion * surplus), starts)) / aversion


def _equivalent(values: np.ndarray, chance: np.ndarray, aversion: float | None) -> np.ndarray:
    values, chance = values[chance > 0], chance[chance > 0]
    if aversion is None:
        return np.asarray(chance @ values)
    least = values.min()
    return np.asarray(least - np.log(chance @ np.exp(-aversion * (values - least))) / aversion)


def _endless_mean(task: Task) -> SolvedStates:
    """Return the mean's optimum without a horizon, by policy iteration.

    What no policy exceeds follows from the residual ε = max(TV − V): V + ε/(1 − γ), or with γ = 1 V + ε·(the largest
    expected number of steps).
    """
    b, mdp, gamma = task.backups[0], task.mdp, task.gamma
    best = stationary_optimum(b, task.aside, gamma)
    rest = 1 / (1 - gamma) if gamma < 1 else float(worst_totals([b], [np.ones(len(b.state))], task.aside).max())
    value = float(mdp.start @ best.values)
    table = narrow(torch.from_numpy(b.action[best.chosen][:, None]))
    policy = SolvedPolicy((torch.zeros(1, dtype=torch.float64),), (table,))
    return SolvedStates(policy, value, value + best.residual * rest, best.turns)
