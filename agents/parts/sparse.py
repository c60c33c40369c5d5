"""Finite MDPs of real size: only the outcomes that can happen are held, and a backup is a sparse product.

S states, A actions, R outcomes. Arrays are NumPy's, float64 and int64. An *ended* state is never left and never pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # which imports `scipy.sparse` when it is used, as few commands do
import torch

from surefoot.agents.parts.tabular import TabularMDP

SUM_TOLERANCE = 1e-9  # by which the probabilities of a row may miss 1
DENSE_STATES = 2_000  # up to which a linear system is solved as a dense one, which is faster
LONGEST = 100_000  # sweeps of a value iteration without discount


class Rows(NamedTuple):
    """The outcomes of one step, in the order of the pairs."""

    pair: np.ndarray  # (R,) state·A + action
    after: np.ndarray  # (R,) next state
    probability: np.ndarray  # (R,) positive
    reward: np.ndarray  # (R,)


class SparseMDP(NamedTuple):
    """A finite MDP; `steps` has one entry for every step, or one where every step is alike."""

    start: np.ndarray  # (S,) probabilities
    actions: int
    steps: tuple[Rows, ...]

    @property
    def states(self) -> int:
        return len(self.start)

    def at(self, step: int) -> Rows:
        """Return what can happen at a step."""
        return self.steps[step if len(self.steps) > 1 else 0]


class Backup(NamedTuple):
    """A step as a product: what the choices are worth is `matrix` @ (what the distinct outcomes are worth).

    A choice is a state with one of its actions; actions of a state with the same outcomes are one choice, the first.
    """

    after: np.ndarray  # (M,) distinct pairs of a next state …
    reward: np.ndarray  # (M,) … and a reward
    matrix: scipy.sparse.csr_array  # (Q, M) probabilities
    action: np.ndarray  # (Q,) of each choice, the states one after the other
    first: np.ndarray  # (S,) the first choice of each state
    state: np.ndarray  # (Q,) whose choice it is
    of_pair: np.ndarray  # (S·A,) the choice that each pair is

    def best(self, worth: np.ndarray) -> np.ndarray:
        """Return the largest of worths (Q, …) in each state (S, …)."""
        return np.maximum.reduceat(worth, self.first, axis=0)


def from_tabular(mdp: TabularMDP) -> SparseMDP:
    """Return the same MDP without what cannot happen."""
    fields = (mdp.probability, mdp.next_state, mdp.reward)
    steps = [_rows(*(field.flatten(0, 1).numpy(force=True) for field in step)) for step in zip(*fields, strict=True)]
    return SparseMDP(mdp.start.double().numpy(force=True), mdp.reward.shape[2], tuple(steps))


def _rows(probability: np.ndarray, after: np.ndarray, reward: np.ndarray) -> Rows:
    pair, outcome = np.nonzero(probability)
    cells = (pair, outcome)
    return Rows(pair, after[cells].astype(np.int64), probability[cells].astype(float), reward[cells].astype(float))


def to_tabular(mdp: SparseMDP) -> TabularMDP:
    """Return the table with as many outcomes per pair as the pair with most has; `table_bytes` is what that takes."""
    width, pairs = _width(mdp), mdp.states * mdp.actions
    shape = (len(mdp.steps), pairs, width)
    after, probability, reward = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape)
    for step, rows in enumerate(mdp.steps):
        first = np.searchsorted(rows.pair, rows.pair)
        cells = (step, rows.pair, np.arange(len(rows.pair)) - first)
        after[cells], probability[cells], reward[cells] = rows.after, rows.probability, rows.reward
    tables = (torch.from_numpy(one.reshape(shape[0], mdp.states, -1, width)) for one in (after, probability, reward))
    return TabularMDP(torch.from_numpy(mdp.start), *tables)


def table_bytes(mdp: SparseMDP) -> int:
    """Return the bytes of `to_tabular`."""
    return 24 * len(mdp.steps) * mdp.states * mdp.actions * _width(mdp)


def _width(mdp: SparseMDP) -> int:
    return max(int(np.bincount(rows.pair).max()) for rows in mdp.steps)


def absorb(mdp: SparseMDP, terminal: np.ndarray) -> SparseMDP:
    """Return the MDP whose `terminal` states (S,) are ended: what their rows say is never taken, so it is left out."""
    return mdp._replace(steps=tuple(_absorbed(rows, terminal, mdp.actions) for rows in mdp.steps))


def _absorbed(rows: Rows, terminal: np.ndarray, actions: int) -> Rows:
    keep = ~terminal[rows.pair // actions]
    pair = (np.flatnonzero(terminal)[:, None] * actions + np.arange(actions)).flatten()
    ends = Rows(pair, pair // actions, np.ones(len(pair)), np.zeros(len(pair)))
    joined = [np.concatenate([old[keep], new]) for old, new in zip(rows, ends, strict=True)]
    order = np.argsort(joined[0], kind="stable")
    return Rows(*(field[order] for field in joined))


def check(mdp: SparseMDP) -> None:
    """Raise `ValueError` where a table is none: in one line, with the first place that is wrong."""
    if mdp.start.ndim != 1 or not _is_distribution(mdp.start):
        raise ValueError(f"the start probabilities must be at least 0 and sum to 1; they sum to {mdp.start.sum():.6g}")
    for step, rows in enumerate(mdp.steps):
        where = f"step {step}, " if len(mdp.steps) > 1 else ""
        if len(rows.after) and not (rows.after.min() >= 0 and rows.after.max() < mdp.states):
            raise ValueError(f"{where}next states must lie in 0 … {mdp.states - 1}, one is {_outside(rows, mdp)}")
        if not np.isfinite(rows.reward).all():
            k = int(np.argmin(np.isfinite(rows.reward)))
            raise ValueError(f"{where}{_place(rows.pair[k], mdp)}: the reward is {rows.reward[k]}; it must be finite")
        if not (rows.probability >= 0).all():
            k = int(np.argmin(rows.probability >= 0))
            raise ValueError(f"{where}{_place(rows.pair[k], mdp)}: a probability is {rows.probability[k]:g}")
        total = np.bincount(rows.pair, rows.probability, mdp.states * mdp.actions)
        if (wrong := np.abs(total - 1) > SUM_TOLERANCE).any():
            k = int(wrong.argmax())
            raise ValueError(
                f"{where}{_place(k, mdp)}: the probabilities sum to {total[k]:.10g}, not 1 "
                f"({wrong.sum()} of {len(total)} pairs are wrong)"
            )


def _is_distribution(mass: np.ndarray) -> bool:
    return bool((mass >= 0).all() and abs(mass.sum() - 1) <= SUM_TOLERANCE)


def _outside(rows: Rows, mdp: SparseMDP) -> int:
    return int(rows.after[(rows.after < 0) | (rows.after >= mdp.states)][0])


def _place(pair: int, mdp: SparseMDP) -> str:
    return f"state {pair // mdp.actions}, action {pair % mdp.actions}"


def ended(mdp: SparseMDP) -> np.ndarray:
    """Return which states (S,) are never left and never pay, whatever the action and the step."""
    over = np.ones(mdp.states, dtype=bool)
    for rows in mdp.steps:
        state = rows.pair // mdp.actions
        over[state[(rows.after != state) | (rows.reward != 0)]] = False
    return over


def backup_of(rows: Rows, actions: int) -> Backup:
    """Return a step as a product."""
    pairs = int(rows.pair[-1]) + 1
    reward, kind = np.unique(rows.reward, return_inverse=True)
    outcome, column = np.unique(rows.after * len(reward) + kind, return_inverse=True)
    matrix = scipy.sparse.csr_array((rows.probability, (rows.pair, column)), shape=(pairs, len(outcome)))
    matrix.sum_duplicates()
    # Equal rows have the same product with random numbers, bit for bit; different ones a different one.
    signature = matrix @ np.random.default_rng(0).random((len(outcome), 2))
    state = np.arange(pairs) // actions
    _, choice, same = np.unique(np.column_stack([state, signature]), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(choice)
    of_pair = np.argsort(order)[same.ravel()]
    choice = choice[order]
    chosen = state[choice]
    first = np.searchsorted(chosen, np.arange(pairs // actions))
    values = reward[outcome % len(reward)]
    return Backup(outcome // len(reward), values, matrix[choice], choice % actions, first, chosen, of_pair)


# --- the same policy at every step ------------------------------------------------------------------------------------


def weights_of(b: Backup, policy: np.ndarray) -> scipy.sparse.csr_array:
    """Return the chances (S, Q) of the choices under a policy: actions (S,), or their probabilities (S, A)."""
    states, actions = len(b.first), len(b.of_pair) // len(b.first)
    if policy.ndim == 1:
        policy = np.eye(actions)[policy]
    rows = np.arange(states).repeat(actions)
    return scipy.sparse.csr_array((policy.ravel().astype(float), (rows, b.of_pair)), shape=(states, len(b.state)))


def policy_values(b: Backup, weights: scipy.sparse.csr_array, over: np.ndarray, gamma: float) -> np.ndarray:
    """Return V (S,) of a policy for ever, by a linear solve; 0 in the states `over`. With γ = 1 it must end."""
    chances = weights @ b.matrix
    into = scipy.sparse.csr_array(
        (np.ones(len(b.after)), (np.arange(len(b.after)), b.after)), (len(b.after), len(over))
    )
    moves, reward = (chances @ into)[~over][:, ~over], (chances @ b.reward)[~over]
    values = np.zeros(len(over))
    if len(reward) <= DENSE_STATES:
        values[~over] = np.linalg.solve(np.eye(len(reward)) - gamma * moves.toarray(), reward)
    else:
        from scipy.sparse.linalg import spsolve

        values[~over] = spsolve((scipy.sparse.eye_array(len(reward)) - gamma * moves).tocsc(), reward)
    return values


class Optimum(NamedTuple):
    """The optimum of a task that never changes, by policy iteration."""

    values: np.ndarray  # (S,)
    chosen: np.ndarray  # (S,) choices
    residual: float  # ε = max(TV − V), by which a sweep would still raise it
    turns: int


def stationary_optimum(b: Backup, over: np.ndarray, gamma: float) -> Optimum:
    """Return V* without a horizon; with γ = 1 every policy must end."""
    chosen, turns = first_best(b, b.matrix @ b.reward), 0
    while True:
        turns += 1
        weights = scipy.sparse.csr_array(
            (np.ones(len(over)), (np.arange(len(over)), chosen)), (len(over), len(b.state))
        )
        values = policy_values(b, weights, over, gamma)
        worth = b.matrix @ (b.reward + gamma * values[b.after])
        gain = np.where(over, 0.0, b.best(worth) - values)
        better = gain > 1e-12 * (1 + np.abs(values))
        if not better.any():
            return Optimum(values, chosen, max(0.0, float(gain.max())), turns)
        chosen = np.where(better, first_best(b, worth), chosen)


def first_best(b: Backup, worth: np.ndarray) -> np.ndarray:
    """Return the first choice (S,) of each state whose worth (Q,) is the largest."""
    top = worth >= b.best(worth)[b.state]
    return np.minimum.reduceat(np.where(top, np.arange(len(top)), len(top)), b.first)


# --- does every policy end? -------------------------------------------------------------------------------------------
#
# Of one model, or of several among which nature chooses at every state and action.


def endless(models: Sequence[Backup], over: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return which states (S,) some policy can stay among for ever, with certainty, without their being `over`.

    The largest set of states each of which has a choice whose outcomes all lie within it (an end component, de Alfaro
    1997), by taking away the others until none is left to take. Empty: every policy ends with probability 1.
    """
    inside: np.ndarray = ~over & reachable(models, over, start)
    while True:
        stays = np.zeros_like(inside)
        for b in models:
            stays |= b.best((b.matrix @ (~inside[b.after]).astype(float)) == 0)
        stays &= inside
        if (stays == inside).all():
            return inside
        inside = stays


def reachable(models: Sequence[Backup], over: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return which states (S,) can come at all."""
    seen = start > 0
    while True:
        new = seen.copy()
        for b in models:
            new[b.after[b.matrix.T @ (seen & ~over)[b.state].astype(float) > 0]] = True
        if (new == seen).all():
            return seen
        seen = new


def require_ending(models: Sequence[Backup], over: np.ndarray, start: np.ndarray) -> None:
    """Raise `ValueError` where some policy never ends, with a state that it stays in."""
    if (stuck := endless(models, over, start)).any():
        raise ValueError(
            f"gamma = 1 needs a horizon here: a policy can go on for ever in state {int(stuck.argmax())} "
            f"({stuck.sum()} such states), so its return need not be finite; add --horizon, or --gamma below 1"
        )


def worst_totals(
    models: Sequence[Backup], costs: Sequence[np.ndarray], over: np.ndarray, tolerance: float = 1e-9
) -> np.ndarray:
    """Return an upper bound (S,) of what costs (Q,) ≥ 0 of each model add up to until the end, whatever is chosen.

    Value iteration from 0 gives a lower bound v. With T v ≤ v + ε off the end and n the largest expected number of
    steps, v + ε·n is an upper one; and v with T v ≤ v + 1/2 for costs of 1 gives n ≤ 2v.
    """
    ones = [np.ones(len(b.state)) for b in models]
    longest = 2 * _ascended(models, ones, over, 0.5).max()
    slack = tolerance * max(1.0, *(float(cost.max()) for cost in costs))
    return np.where(over, 0.0, _ascended(models, costs, over, slack) + slack * longest)


def _ascended(models: Sequence[Backup], costs: Sequence[np.ndarray], over: np.ndarray, tolerance: float) -> np.ndarray:
    """Return v with T v ≤ v + tolerance, by value iteration from 0."""
    values = np.zeros(len(over))
    for _ in range(LONGEST):
        swept = [b.best(cost + b.matrix @ values[b.after]) for b, cost in zip(models, costs, strict=True)]
        new = np.where(over, 0.0, np.max(swept, axis=0))
        if (new - values).max() <= tolerance:
            return values
        values = new
    raise ValueError(f"episodes are too long: not over within {LONGEST} steps; add --horizon, or --gamma below 1")
