"""What a solution is: which action to take in a state with a stock, and how the return is distributed then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.parts.sparse import Backup, SparseMDP, ended

MAX_ATOMS = 20_000  # pairs of a state and a return so far; above, nearby returns are merged
FEW_TOTALS = 16  # different returns so far, up to which a step is one sparse product
DIGITS = 12  # of the largest return; returns that agree in them are equal
NEGLIGIBLE = 1e-12  # chance, or discount, after which a return is complete


class SolvedPolicy(NamedTuple):
    """What to do in a state with a stock: the action at the nearest stock that was solved for."""

    stocks: tuple[Tensor, ...]  # (C,) of every step, in order; one where every step is alike
    actions: tuple[Tensor, ...]  # (S, C)

    def __call__(self, state: Tensor, stock: Tensor, step: int = 0) -> Tensor:
        """Return actions (N,) in states (N,) with stocks (N,), after `step` steps; `ValueError` for a stock of NaN."""
        if stock.isnan().any():
            raise ValueError(f"stock {int(stock.isnan().int().argmax())} of {len(stock)} is NaN; it must be a number")
        step = min(step, len(self.stocks) - 1)
        stocks = self.stocks[step].to(state.device)
        nearest = torch.bucketize(stock.to(stocks), (stocks[1:] + stocks[:-1]) / 2)
        return self.actions[step].to(state.device)[state, nearest].long()


class Law(NamedTuple):
    """A return distribution: exact but for rounding where `moved` and `missing` are 0."""

    values: Tensor  # (K,) in order
    chances: Tensor  # (K,)
    moved: float  # by at most this was a return moved when nearby ones were merged
    missing: float  # at most this, in the mean, is a return still to come


def law_of(
    mdp: SparseMDP,
    backups: Sequence[Backup],
    policy: SolvedPolicy,
    gamma: float,
    horizon: int | None,
    stock: float,
    largest: float,
) -> Law:
    """Return the distribution of the return of a policy from c_0 = `stock`: all atoms, step by step, forwards.

    `largest` bounds |return| from any state, for γ < 1 without a horizon.
    """
    over, actions = ended(mdp), mdp.actions
    state = np.flatnonzero(mdp.start)
    chance, total = mdp.start[state], np.zeros(len(state))
    finished: list[tuple[np.ndarray, np.ndarray]] = []
    quantum = moved = 0.0
    step, starts = 0, [np.searchsorted(rows.pair, np.arange(mdp.states * actions + 1)) for rows in mdp.steps]
    while True:
        done = over[state]
        finished.append((total[done], chance[done]))
        state, total, chance = state[~done], total[~done], chance[~done]
        if step == horizon or chance.sum() * _weight(gamma, step, largest) <= NEGLIGIBLE:
            break
        scale = gamma**step
        stocks, table = (field[min(step, len(policy.stocks) - 1)].numpy(force=True) for field in policy)
        near = np.searchsorted((stocks[1:] + stocks[:-1]) / 2, (stock + total) / scale)
        pair = state * actions + table[state, near]
        totals, group = np.unique(total, return_inverse=True)
        if len(totals) <= FEW_TOTALS:
            b = backups[step if len(backups) > 1 else 0]
            state, total, chance = _flown(b, b.of_pair[pair], group, totals, chance, scale)
        else:
            rows, parent, outcome = mdp.at(step), *_outcomes(pair, starts[step if len(starts) > 1 else 0])
            state, chance = rows.after[outcome], chance[parent] * rows.probability[outcome]
            total = total[parent] + scale * rows.reward[outcome]
        state, total, chance, quantum = _merged(state, total, chance, quantum)
        moved += quantum / 2
        step += 1
    missing = 0.0 if step == horizon else float(chance.sum()) * _weight(gamma, step, largest)
    finished.append((total, chance))
    return _law(finished, moved, missing)


def _weight(gamma: float, step: int, largest: float) -> float:
    """Return what a unit of chance may still earn; with γ = 1 the chance itself goes to 0."""
    return 1.0 if gamma == 1 else gamma**step * largest


def _law(finished: list[tuple[np.ndarray, np.ndarray]], moved: float, missing: float) -> Law:
    total, chance = (np.concatenate(side) for side in zip(*finished, strict=True))
    values, which = np.unique(total, return_inverse=True)
    weights = np.bincount(which, chance)
    return Law(torch.from_numpy(values), torch.from_numpy(weights / weights.sum()), moved, missing)


def _flown(
    b: Backup, choice: np.ndarray, group: np.ndarray, totals: np.ndarray, chance: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return atoms a step later by a sparse product, where many states share few returns so far."""
    many = len(totals)
    mass = np.bincount(choice * many + group, chance, len(b.state) * many).reshape(-1, many)
    flow = b.matrix.T @ mass
    outcome, which = np.nonzero(flow)
    return b.after[outcome], totals[which] + scale * b.reward[outcome], flow[outcome, which]


def _outcomes(pair: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, of every outcome of some pairs, which of them it belongs to and its number among the rows."""
    count = start[pair + 1] - start[pair]
    parent = np.repeat(np.arange(len(pair)), count)
    within = np.arange(len(parent)) - np.repeat(np.cumsum(count) - count, count)
    return parent, start[pair][parent] + within


def _merged(
    state: np.ndarray, total: np.ndarray, chance: np.ndarray, quantum: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return atoms with equal ones added up; too many are brought to multiples of a quantum, the one that is needed."""
    total = snapped(total)
    while True:
        place = np.round(total / quantum) * quantum if quantum else total
        order = np.lexsort((place, state))
        new = np.ones(len(order), dtype=bool)
        new[1:] = (np.diff(state[order]) != 0) | (np.diff(place[order]) != 0)
        if new.sum() <= MAX_ATOMS:
            first = np.flatnonzero(new)
            return state[order][first], place[order][first], np.add.reduceat(chance[order], first), quantum
        quantum = max(2 * quantum, float(np.ptp(total)) / MAX_ATOMS)


def snapped(numbers: np.ndarray) -> np.ndarray:
    """Return numbers to `DIGITS` digits of the largest: sums that are equal but for rounding become equal."""
    largest = float(np.abs(numbers).max(initial=0.0))
    decimals = DIGITS - 1 - int(np.floor(np.log10(largest))) if largest else DIGITS
    return np.round(numbers, decimals) + 0.0
