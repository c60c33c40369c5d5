"""The optimum on every stock that can be reached, in float64: nothing is projected, rounded to a grid or clamped.

docs/derivations/distributional.md §6.5, eq. (6.8). The returns so far that can occur at a step do not depend on c_0, so
the sweep backwards is over states and returns so far, for many c_0 at once:

    V_t(s, p) = max_a E V_{t+1}(S', p + γᵗR),   V_T(s, p) = u(c_0 + p).

V states, P returns so far, N stocks c_0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.distributional.policy import SolvedPolicy, snapped
from surefoot.agents.distributional.task import TIE, Bracketed, Task
from surefoot.agents.parts.sparse import Backup
from surefoot.agents.parts.tabular import narrow

MAX_SUMS = 20_000  # returns so far at one step
MAX_CELLS = 5e8  # states × returns so far × steps: above, a sweep takes minutes
CHUNK = 1e7  # numbers of one array of a sweep

Sums = list[np.ndarray]


def partial_sums(task: Task) -> Sums | None:
    """Return the returns so far (P,) at every step in states that go on, in order; None where they are too many.

    Of every step's rewards in states that can be reached by then, whatever the state: perhaps more than can occur.
    """
    mdp, sums = task.mdp, [np.zeros(1)]
    alive, cells, known = (mdp.start > 0) & ~task.over, 0.0, dict[tuple[int, bytes], tuple[np.ndarray, np.ndarray]]()
    for step in range(task.sweeps):
        key = step if len(mdp.steps) > 1 else 0, alive.tobytes()
        if key not in known:
            rows = mdp.at(step)
            taken = alive[rows.pair // mdp.actions] & ~task.over[rows.after]
            following = np.zeros_like(alive)
            following[rows.after[taken]] = True
            known[key] = np.unique(rows.reward[taken]), following
        rewards, alive = known[key]
        if not len(rewards):  # everything is over by then
            sums.append(sums[-1][:1])
            continue
        if len(rewards) * len(sums[-1]) > 50 * MAX_SUMS:
            return None
        sums.append(np.unique(snapped((sums[-1][:, None] + task.gamma**step * rewards).ravel())))
        cells += len(sums[-1]) * mdp.states
        if len(sums[-1]) > MAX_SUMS or cells > MAX_CELLS:
            return None
    return sums


def possible_returns(task: Task, sums: Sums) -> np.ndarray:
    """Return every return that can occur, in order, and perhaps some that cannot."""
    found = [sums[-1]]
    for step in range(task.sweeps):
        b = task.backup(step)
        rewards = np.unique(b.reward[task.over[b.after]])
        found.append((sums[step][:, None] + task.gamma**step * rewards).ravel())
    return np.unique(snapped(np.concatenate(found)))


def optimum(task: Task, sums: Sums, starts: np.ndarray) -> Bracketed:
    """Return the largest E u(c_0 + G) of every c_0 (N,); the bounds differ by what is left after the sweeps."""
    widest = max(map(len, sums)) * max(len(task.backups[0].state), len(task.backups[0].after))
    pieces = np.array_split(starts, max(1, min(len(starts), round(len(starts) * widest / CHUNK))))
    values = np.concatenate([_values(task, sums, piece) for piece in pieces])
    slack = _slack(task, float(starts.min() + sums[-1][0]), float(starts.max() + sums[-1][-1]))
    return Bracketed(values - slack, values + slack)


class Known:
    """`optimum` of stocks on demand; what was computed is kept, for another objective with the same utility."""

    def __init__(self, task: Task, sums: Sums):
        self.task, self.sums = task, sums
        self.found: dict[float, tuple[float, float]] = {}

    def __call__(self, starts: np.ndarray) -> Bracketed:
        new = np.array([start for start in starts.tolist() if start not in self.found])
        if len(new):
            fresh = optimum(self.task, self.sums, new)
            self.found |= dict(zip(new.tolist(), zip(fresh.lower, fresh.upper, strict=True), strict=True))
        lower, upper = np.array([self.found[start] for start in starts.tolist()]).reshape(-1, 2).T
        return Bracketed(lower, upper)


def policy_from(task: Task, sums: Sums, start: float) -> SolvedPolicy:
    """Return the best policy from c_0; among equally good actions that of the larger mean return."""
    worth = np.broadcast_to(task.utility(start + sums[-1]), (task.mdp.states, len(sums[-1])))
    means, actions = np.zeros(worth.shape), list[Tensor]()
    for step in reversed(range(task.sweeps)):
        b, paid = task.backup(step), task.gamma**step * task.backup(step).reward
        total, near, ends = _following(task, b, sums, step)
        ahead, later = worth[b.after[:, None], near], means[b.after[:, None], near]
        ahead[ends], later[ends] = task.utility(start + total[ends]), 0.0
        (worth,), means, chosen = choose(b, ahead[None], later + paid[:, None])
        actions.append(narrow(torch.from_numpy(b.action[chosen])))
    stocks = tuple(torch.from_numpy((start + p) / task.gamma**t) for t, p in enumerate(sums[:-1]))
    return SolvedPolicy(stocks, tuple(actions[::-1]))


def _values(task: Task, sums: Sums, starts: np.ndarray) -> np.ndarray:
    """Return the largest E u(c_0 + G), G the return within the sweeps, of every c_0 (N,)."""
    end = task.utility(sums[-1][:, None] + starts)
    worth = np.broadcast_to(end, (task.mdp.states, *end.shape))  # (S, P, N)
    for step in reversed(range(task.sweeps)):
        b = task.backup(step)
        total, near, ends = _following(task, b, sums, step)
        ahead = worth[b.after[:, None], near]  # (M, P, N)
        ahead[ends] = task.utility(total[ends][..., None] + starts)
        worth = b.best(b.matrix @ ahead.reshape(len(ahead), -1)).reshape(-1, *ahead.shape[1:])
    values: np.ndarray = task.mdp.start @ worth[:, 0]
    return values


def _following(task: Task, b: Backup, sums: Sums, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the returns so far a step later (M, P), where they are among its own, and which outcomes (M,) end."""
    total = snapped(sums[step] + task.gamma**step * b.reward[:, None])
    return total, _nearest(sums[step + 1], total), task.over[b.after]


def _slack(task: Task, low: float, high: float) -> float:
    """Return by how much E u may change through what is left after the sweeps."""
    if task.left == 0:
        return 0.0
    if task.objective.degree == 0:
        steps = task.utility(np.array([-1.0, 0.0, 1.0]))
        return float(np.ptp(steps)) * task.left
    shape = task.shape(low - task.left, high + task.left)
    return max(abs(shape.least_slope), abs(shape.largest_slope)) * task.left


def choose(b: Backup, ahead: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the worth (V, S, …), the mean return (S, …) and the choice (S, …) of the best action.

    `ahead` (V, M, …) is what the distinct outcomes are worth, `later` (M, …) the mean return from now on. The first of
    the V worths decides; ties by the larger mean, then by the first action. The others are each maximised.
    """
    shape = ahead.shape[2:]
    worth = [(b.matrix @ one.reshape(len(one), -1)) for one in ahead]
    mean = b.matrix @ later.reshape(len(later), -1)
    best = [b.best(one) for one in worth]
    size = np.abs(ahead[0]).max(initial=0.0)
    tied = worth[0] >= (best[0] - TIE * np.abs(best[0]) - 1e-13 * size)[b.state]
    ranked = np.where(tied, mean, -np.inf)
    top = b.best(ranked)
    tied &= ranked >= (top - TIE * np.abs(top) - 1e-13 * np.abs(mean).max(initial=0.0))[b.state]
    numbers = np.where(tied, np.arange(len(b.state))[:, None], len(b.state))
    chosen = np.minimum.reduceat(numbers, b.first, axis=0)
    mean = np.take_along_axis(mean, chosen, 0)
    return (
        np.stack(best).reshape(len(best), -1, *shape),
        mean.reshape(-1, *shape),
        chosen.reshape(-1, *shape),
    )


def _nearest(points: np.ndarray, x: np.ndarray) -> np.ndarray:
    near: np.ndarray = np.searchsorted((points[1:] + points[:-1]) / 2, x)
    return near
