"""The worst case over a finite set of known models of real size: IWOCS and robust value iteration, certified or not.

Zouitine, Geist, Rachelson, arXiv 2410.06212; docs/derivations/iwocs.md §2. As `exact`, but sparse, from any
distribution of starts, and also with γ = 1 where every policy ends in every mixture of the models. What is wanted is

    max_π min_k V^π_k(start)   over stationary deterministic policies.

No policy has more than min_k V*_k(start), which is IWOCS's U_i (2.4) when the start is random; every policy that is
evaluated in all models has at least its worst value. Robust value iteration lets nature choose a model anew at every
state and action, so its value is a lower bound that its policy exceeds, and is exact where models differ rectangularly.
Optima of mixtures of the models (ours) are further candidates: more weight goes to the models where the last ones got
least. They prove nothing, and are often the best where models are many and alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import scipy

from surefoot.agents.parts.sparse import (
    Backup,
    SparseMDP,
    backup_of,
    ended,
    policy_values,
    reachable,
    require_ending,
    stationary_optimum,
    weights_of,
    worst_totals,
)

MIXTURES = 24  # mixtures whose optimum is tried
ROUNDING = 1e-9  # values that differ by less are equal: a gap of that size is certified


class Models(NamedTuple):
    """K models of one task side by side, without what cannot happen."""

    start: np.ndarray  # (S,)
    backups: tuple[Backup, ...]
    over: tuple[np.ndarray, ...]  # (S,) each
    actions: int
    gamma: float
    longest: float  # an upper bound of the expected discounted number of steps, whatever is done and mixed


class Turn(NamedTuple):
    """One turn of IWOCS."""

    model: int  # T_i
    upper: float  # U_i
    values: np.ndarray  # (K,) of π_i in every model; the least is L_i
    policy: np.ndarray  # (S,)


class RobustTable(NamedTuple):
    """The best policy that was found for the worst of K models, between two bounds of what the best can do."""

    policy: np.ndarray  # (S,) actions
    values: np.ndarray  # (K,) what it gets in every model
    lower: float  # in its worst model
    bound: float  # no policy's worst case exceeds this
    status: str  # certified, or gap
    optima: np.ndarray  # (K,) V*_k of every model alone
    iwocs: tuple[Turn, ...]
    hull: float  # the optimum where nature chooses anew everywhere
    hull_values: np.ndarray  # (K,) of that policy
    source: str  # what found the policy


def prepare(models: Iterable[SparseMDP], gamma: float) -> Models:
    """Return models side by side; of each, only what sweeps need is kept, so they may come one by one.

    Raises:
        ValueError: models of different sizes or starts, tables that differ by step; γ = 1 and a policy that never ends.
    """
    backups, over = list[Backup](), list[np.ndarray]()
    start, actions = np.zeros(0), 0
    for k, model in enumerate(models):
        start, actions = (model.start, model.actions) if k == 0 else (start, actions)
        _check_fits(k, model, start, actions)
        backups.append(backup_of(model.steps[0], actions))
        over.append(ended(model))
    longest = 1 / (1 - gamma) if gamma < 1 else 0.0
    if gamma == 1:
        done = np.all(over, axis=0)
        require_ending(backups, done, start)
        over = [one | ~reachable(backups, done, start) for one in over]
        ones = [np.ones(len(b.state)) for b in backups]
        longest = float(worst_totals(backups, ones, np.all(over, axis=0)).max())
    return Models(start, tuple(backups), tuple(over), actions, gamma, longest)


def _check_fits(k: int, model: SparseMDP, start: np.ndarray, actions: int) -> None:
    if len(model.steps) > 1:
        raise ValueError(f"model {k + 1} differs by step; the worst case is for tables that are the same at every one")
    if (model.states, model.actions) != (len(start), actions):
        raise ValueError(
            f"model {k + 1} has {model.states} states and {model.actions} actions, the first {len(start)} and "
            f"{actions}; they must agree"
        )
    if not np.allclose(model.start, start, rtol=0, atol=1e-12):
        raise ValueError(f"model {k + 1} starts elsewhere than the first; the starts must agree")


def values_in_all(models: Models, policy: np.ndarray) -> np.ndarray:
    """Return what a policy, (S,) actions or (S, A) probabilities, gets in every model (K,)."""
    return np.array(
        [
            models.start @ policy_values(b, weights_of(b, policy), over, models.gamma)
            for b, over in zip(models.backups, models.over, strict=True)
        ]
    )


def optimal_q(models: Models, k: int) -> tuple[np.ndarray, float]:
    """Return Q*_k (S, A) of one model, and V*_k at the start at most, with what rounding leaves open."""
    b = models.backups[k]
    found = stationary_optimum(b, models.over[k], models.gamma)
    q = (b.matrix @ (b.reward + models.gamma * found.values[b.after]))[b.of_pair]
    return q.reshape(-1, models.actions), float(models.start @ found.values) + found.residual * models.longest


def iwocs(models: Models, *, first: int = 0, iterations: int = 100) -> tuple[Turn, ...]:
    """Return the path of incremental worst-case search: solve the worst model, act by the least of all Q* so far.

    It ends when the worst model has been solved before: certified where its value is U_i, else stagnated (§2.1).
    """
    solved, turns, k = dict[int, np.ndarray](), list[Turn](), first
    upper = np.inf
    while k not in solved and len(turns) < iterations:
        solved[k], most = optimal_q(models, k)
        q = np.min(list(solved.values()), axis=0)
        upper = min(upper, most, _at_one_start(models, q))
        policy = q.argmax(1)
        values = values_in_all(models, policy)
        turns.append(Turn(k, upper, values, policy))
        if upper - values.min() <= ROUNDING * (1 + abs(upper)):
            break
        k = int(values.argmin())
    return tuple(turns)


def _at_one_start(models: Models, q: np.ndarray) -> float:
    """Return U_i = max_a min_j Q*_j(s₀, a), a bound where there is one start only."""
    return float(q.max(1) @ models.start) if models.start.max() == 1 else np.inf


def robust_values(models: Models, tolerance: float = 1e-10) -> tuple[float, np.ndarray]:
    """Return the value of the rectangular hull, to the tolerance from below, and its policy (S,): robust VI."""
    over = np.all(models.over, axis=0)
    values = np.full(len(over), 0.0)
    while True:
        q = np.min(
            [
                np.where(
                    done[:, None],
                    0.0,
                    (b.matrix @ (b.reward + models.gamma * values[b.after]))[b.of_pair].reshape(-1, models.actions),
                )
                for b, done in zip(models.backups, models.over, strict=True)
            ],
            axis=0,
        )
        new = np.where(over, 0.0, q.max(1))
        moved = float(np.abs(new - values).max())
        values = new
        if moved * models.longest <= tolerance * (1 + np.abs(values).max()):
            return float(models.start @ values) - moved * models.longest, q.argmax(1)


def mixture_of(models: Models, weights: np.ndarray) -> Backup:
    """Return the model whose outcomes are drawn from model k with chance weights[k], (K,), anew at every step."""
    kinds = np.unique(np.concatenate([np.column_stack([b.after, b.reward]) for b in models.backups]), axis=0)
    place = {tuple(kind): i for i, kind in enumerate(kinds.tolist())}
    total = scipy.sparse.csr_array((len(models.start) * models.actions, len(kinds)))
    for b, weight in zip(models.backups, weights, strict=True):
        column = [place[after, reward] for after, reward in zip(b.after.tolist(), b.reward.tolist(), strict=True)]
        share = (np.full(len(column), weight), (np.arange(len(column)), column))
        total = total + (b.matrix @ scipy.sparse.csr_array(share, shape=(len(column), len(kinds))))[b.of_pair]
    pair = np.arange(total.shape[0])
    after, reward = kinds[:, 0].astype(np.int64), kinds[:, 1]
    return Backup(after, reward, total, pair % models.actions, pair[:: models.actions], pair // models.actions, pair)


def mixtures(models: Models, rounds: int = MIXTURES) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the optimal policies (S,) of mixtures, and what each gets in every model (K,).

    The first mixes all alike; then weights are multiplied down where the policies so far got much (Freund and Schapire
    1999), by the spread of the first over the models.
    """
    count, over = len(models.backups), np.all(models.over, axis=0)
    weights, total, spread = np.full(count, 1 / count), np.zeros(count), 0.0
    found = list[tuple[np.ndarray, np.ndarray]]()
    for _ in range(rounds):
        b = mixture_of(models, weights)
        policy = b.action[stationary_optimum(b, over, models.gamma).chosen]
        values = values_in_all(models, policy)
        found.append((policy, values))
        total, spread = total + values, spread or float(np.ptp(values))
        if spread == 0:  # all models alike
            break
        logs = -np.sqrt(8 * np.log(count) / rounds) * (total - total.min()) / spread
        weights = np.exp(logs) / np.exp(logs).sum()
    return found


def solve_worst_case(models: Models, iterations: int = 100) -> RobustTable:
    """Return the best worst-case policy of IWOCS's path, robust value iteration, every model alone and mixtures."""
    path = iwocs(models, iterations=iterations)
    hull, policy = robust_values(models)
    singles = [optimal_q(models, k) for k in range(len(models.backups))]
    optima = np.array([most for _, most in singles])
    hull_values = values_in_all(models, policy)
    candidates = [("IWOCS", turn.policy, turn.values) for turn in path]
    candidates += [("robust value iteration on the hull", policy, hull_values)]
    candidates += [("the optimum of one model", one := q.argmax(1), values_in_all(models, one)) for q, _ in singles]
    bound = min(float(optima.min()), path[-1].upper)
    slack = ROUNDING * (1 + abs(bound))
    if bound - max(values.min() for *_, values in candidates) > slack:
        candidates += [("the optimum of a mixture of the models", *one) for one in mixtures(models)]
    source, policy, values = max(candidates, key=lambda candidate: candidate[2].min())
    lower = float(values.min())
    status = "certified" if bound - lower <= slack else "gap"
    return RobustTable(policy, values, lower, bound, status, optima, path, hull, hull_values, source)
