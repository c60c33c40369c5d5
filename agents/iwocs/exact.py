"""IWOCS on finite sets of finite models, exactly: for teaching, for tests, and where the models are known.

Zouitine, Geist, Rachelson, *Solving robust MDPs as a sequence of static RL problems*, arXiv 2410.06212;
docs/derivations/iwocs.md §1 to §3.

| derivation | paper | here |
|---|---|---|
| (1.2), (2.8), (2.9) robust value iteration on the hull | – | `exact.robust_backup`, `exact.robust_optimum` |
| (2.1) Q_i = min_j Q*_{T_j}, (2.2) π_i, (2.3) T_{i+1} | – | `exact.iwocs` |
| (2.4) U_i, L_i | – | `exact.Iteration` |
| (2.5) and §2.1, how the loop ends | – | `exact.Status` |
| (2.6), (2.7) one model | – | `parts.tabular.stationary_values`, `parts.tabular.stationary_optimum` |
| (2.10), (2.11) search over a finite set, exact or by rollouts | – | `exact.worst_of`, `exact.rollout_returns` |
| (4.17) which policy has the better worst case, by rollouts | – | `exact.deploy`, `choice.compare` |
| (2.12), (2.13) search over a rectangular set | – | `exact.worst_mixture` |
| (2.14), (2.15) whose Q* is the smallest | – | `exact.specialist_fractions` |
| (2.16) the hull variant | – | `exact.iwocs` |
| (1.4), (3.3) both values of the game, by enumeration | – | `exact.brute_force` |

Where this differs (§13): the static problems are solved by policy iteration in place of value iteration to 10⁻³, so
they are exact. The *best* policy of the path is returned, not the last; by rollouts it is a later one only where it
is better with 97.5% confidence, on rollouts that the search has not seen (4.17). A worst model that was solved before
ends the loop with a status of its own. Monte-Carlo search never certifies. `hull` is an extension: π_i is then the
robust optimum of the rectangular hull of the models so far, and the loop always ends certified.

K models side by side are `CandidateModels`: S states, A actions, float64, one start state, discount γ < 1. In a
rectangular set nature picks one of the K kernels at every state and action, so a model is a choice (S, A) of kernels;
in a finite set it picks one for all. Policies are deterministic: one action per state (S,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from surefoot.agents.iwocs.choice import Comparison, compare
from surefoot.agents.parts.tabular import (
    TabularMDP,
    check,
    from_dense,
    stationary_optimum,
    stationary_values,
    transition_matrix,
)

Status = Literal["certified", "stagnated", "repeat", "budget"]
Search = Callable[..., tuple[Tensor, float]]
LARGEST_ENUMERATION = 1_000_000  # pairs of a policy and a model


class CandidateModels(NamedTuple):
    """K models of one task."""

    start: Tensor  # (S,) one-hot
    transition: Tensor  # (K, S, A, S)
    reward: Tensor  # (K, S, A), expected


class Iteration(NamedTuple):
    """One turn of the loop; `lower` is of the whole set, found by the search."""

    model: Tensor  # (S, A) the kernels of T_i
    policy: Tensor  # (S,) π_i
    upper: float  # U_i = max_a Q_i(s₀, a)
    lower: float  # L_i = V of π_i in the worst model
    worst: Tensor  # (S, A) the kernels of T_{i+1}
    fractions: Tensor  # (i + 1,) of discounted time under π_i in T_{i+1}: whose Q* is the smallest


class RobustSolution(NamedTuple):
    """The best policy of the path, what it gets in its worst model, and how the loop ended."""

    policy: Tensor  # (S,)
    value: float  # by rollouts an estimate, from others than those that the search saw
    worst: Tensor  # (S, A)
    status: Status
    path: tuple[Iteration, ...]
    comparisons: tuple[Comparison, ...] = ()  # by rollouts: each later policy of the path with that deployed before it


class Deployed(NamedTuple):
    """Which of some policies is deployed, and the comparisons that decided."""

    chosen: int  # which
    value: float  # the least mean over the models
    model: int  # in which that is
    comparisons: tuple[Comparison, ...]


def stack(models: Sequence[TabularMDP]) -> CandidateModels:
    """Return models side by side; `ValueError` where they are no models of one stationary task with one start state."""
    for model in models:
        check(model)
    shapes = {(tuple(model.start.shape), model.reward.shape[2]) for model in models}
    if len(shapes) != 1 or any(len(model.reward) > 1 for model in models):
        raise ValueError("models need the same states and actions, and one table for all steps")
    start = models[0].start
    if start.max() < 1 or any(not torch.equal(model.start, start) for model in models):
        raise ValueError("models need the same single start state; add a state before it with one action")
    moves = torch.cat([transition_matrix(model) for model in models])
    return CandidateModels(start, moves, torch.cat([model.mean_reward for model in models]))


def constant(candidates: CandidateModels, k: int) -> Tensor:
    """Return the choice (S, A) of model k everywhere."""
    return torch.full(candidates.reward.shape[1:], k)


def mixture(candidates: CandidateModels, choice: Tensor) -> TabularMDP:
    """Return the model that has kernel `choice` (S, A) at every state and action."""
    states, actions = (torch.arange(size) for size in choice.shape)
    where = (choice, states[:, None], actions)
    return from_dense(candidates.start, candidates.transition[where][None], candidates.reward[where][None])


# --- robust dynamic programming on the rectangular hull ---------------------------------------------------------------


def robust_backup(candidates: CandidateModels, values: Tensor, discount: float) -> tuple[Tensor, Tensor]:
    """Return min_k E[r + γV(s')] (S, A) over the kernels of each pair, and which kernel that is."""
    return (candidates.reward + discount * (candidates.transition @ values)).min(0)


def robust_optimum(candidates: CandidateModels, discount: float, tolerance: float = 1e-10) -> Tensor:
    """Return Q*_𝒯 (S, A) of the rectangular hull by robust value iteration, to `tolerance` in the sup norm."""
    values = torch.zeros_like(candidates.start)
    while True:
        q, _ = robust_backup(candidates, values, discount)
        change = (q.amax(-1) - values).abs().max()
        values = q.amax(-1)
        if change <= tolerance * (1 - discount):
            return q


# --- the search: the worst model for a fixed policy -------------------------------------------------------------------


def worst_of(candidates: CandidateModels, policy: Tensor, discount: float) -> tuple[Tensor, float]:
    """Return the model of a finite set in which a policy gets least, as a choice (S, A), and what it gets there."""
    acting = greedy_of(policy, candidates)
    values = [
        stationary_values(mixture(candidates, constant(candidates, k)), acting, discount) for k in _indices(candidates)
    ]
    returns = torch.stack(values) @ candidates.start
    k = int(returns.argmin())
    return constant(candidates, k), float(returns[k])


def worst_mixture(candidates: CandidateModels, policy: Tensor, discount: float) -> tuple[Tensor, float]:
    """Return the worst model of a rectangular set for a policy, and its value there.

    For a fixed policy nature solves an ordinary MDP, whose actions are the kernels. What the kernels of actions *off*
    the policy are does not matter for the value, but for the path (pitfall 15): they are the worst against nature's
    values too.
    """
    rows = torch.arange(len(policy))
    moves, reward = (table[:, rows, policy].transpose(0, 1) for table in candidates[1:])  # (S, K, S), (S, K)
    values = -stationary_optimum(from_dense(candidates.start, moves[None], -reward[None]), discount).amax(-1)
    _, choice = robust_backup(candidates, values, discount)
    return choice, float(values @ candidates.start)


def worst_by_rollouts(
    candidates: CandidateModels, policy: Tensor, discount: float, *, episodes: int, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Return as `worst_of`, by Monte-Carlo estimates."""
    means = rollout_returns(candidates, policy, discount, episodes=episodes, generator=generator).mean(1)
    return constant(candidates, int(means.argmin())), float(means.min())


def deploy(
    candidates: CandidateModels,
    policies: Sequence[Tensor],
    discount: float,
    *,
    episodes: int,
    generator: torch.Generator,
) -> Deployed:
    """Return which of the policies (S,), in their order, replaces the one before it: (4.17), as the deep agent does.

    All meet the same `episodes` random numbers in every model, so that luck is as equal as it can be.
    """
    seed, chosen = int(torch.randint(2**62, (), generator=generator)), 0
    returns = [
        rollout_returns(candidates, policy, discount, episodes=episodes, generator=torch.Generator().manual_seed(seed))
        for policy in policies
    ]
    comparisons = []
    for i in range(1, len(policies)):
        comparisons.append(compare(returns[i], returns[chosen], generator))
        chosen = i if comparisons[-1].better else chosen
    means = returns[chosen].mean(1)
    return Deployed(chosen, float(means.min()), int(means.argmin()), tuple(comparisons))


def rollout_returns(
    candidates: CandidateModels,
    policy: Tensor,
    discount: float,
    *,
    episodes: int = 300,
    steps: int = 10_000,
    generator: torch.Generator,
) -> Tensor:
    """Return the discounted returns (K, E) of a policy in every model, of E = `episodes` of at most `steps`.

    Ends earlier when what could still come is below 10⁻⁹.
    """
    models, states = candidates.reward.shape[:2]
    rows = torch.arange(states)
    moves = candidates.transition[:, rows, policy].cumsum(-1)  # (K, S, S)
    reward = candidates.reward[:, rows, policy]  # (K, S)
    model = torch.arange(models)[:, None].expand(models, episodes)
    state = candidates.start.argmax().expand(models, episodes)
    total, factor = torch.zeros(models, episodes, dtype=reward.dtype), 1.0
    for _ in range(steps):
        total += factor * reward[model, state]
        factor *= discount
        if factor * float(reward.abs().max()) < 1e-9 * (1 - discount):
            break
        draw = torch.rand(models, episodes, 1, generator=generator, dtype=moves.dtype)
        state = (draw >= moves[model, state]).sum(-1).clamp(max=states - 1)
    return total


# --- the loop ---------------------------------------------------------------------------------------------------------


def iwocs(
    candidates: CandidateModels,
    discount: float,
    *,
    first: int = 0,
    rectangular: bool = False,
    hull: bool = False,
    epsilon: float = 1e-6,
    iterations: int = 100,
    rollouts: int | None = None,
    generator: torch.Generator | None = None,
) -> RobustSolution:
    """Return the solution of max_π min_T V^π_T(s₀) by incremental worst-case search, from model `first` on.

    `rectangular`: nature mixes kernels freely. `hull`: the extension named in the header. `rollouts`: search a finite
    set by that many episodes per model. Statuses: `certified`, within ε of the best deterministic stationary policy;
    `stagnated`, the worst model was solved before and the gap is open; `repeat`, the same with rollouts, which prove
    nothing; `budget`, no end within `iterations` (§2.1). By rollouts `deploy` chooses the policy, with an interval.

    Raises:
        ValueError: rollouts of a rectangular set, or without a generator.
    """
    search = _search_of(rectangular, rollouts, generator)
    models = [constant(candidates, first)]
    status: Status = "budget"
    qs: list[Tensor] = []
    path: list[Iteration] = []
    for _ in range(iterations):
        qs.append(stationary_optimum(mixture(candidates, models[-1]), discount))
        q = robust_optimum(_of(candidates, models), discount) if hull else torch.stack(qs).amin(0)
        policy, upper = q.argmax(-1), float(q.amax(-1) @ candidates.start)
        worst, lower = search(candidates, policy, discount)
        fractions = specialist_fractions(candidates, torch.stack(qs), policy, worst, discount)
        path.append(Iteration(models[-1], policy, upper, lower, worst, fractions))
        if rollouts is None and abs(upper - lower) <= epsilon:
            status = "certified"
            break
        if any(torch.equal(worst, model) for model in models):
            status = "stagnated" if rollouts is None else "repeat"
            break
        models.append(worst)
    if rollouts is None or generator is None:
        best = max(path, key=lambda iteration: iteration.lower)
        return RobustSolution(best.policy, best.lower, best.worst, status, tuple(path))
    policies = [iteration.policy for iteration in path]
    found = deploy(candidates, policies, discount, episodes=rollouts, generator=generator)
    worst = constant(candidates, found.model)
    return RobustSolution(policies[found.chosen], found.value, worst, status, tuple(path), found.comparisons)


def _search_of(rectangular: bool, rollouts: int | None, generator: torch.Generator | None) -> Search:
    if rollouts is None:
        return worst_mixture if rectangular else worst_of
    if rectangular or generator is None:
        raise ValueError("rollouts search a finite set, with a generator")
    return partial(worst_by_rollouts, episodes=rollouts, generator=generator)


def specialist_fractions(
    candidates: CandidateModels, qs: Tensor, policy: Tensor, worst: Tensor, discount: float
) -> Tensor:
    """Return the fraction (i + 1,) of discounted time in which each solved model's Q* (i + 1, S, A) is the smallest."""
    acting = greedy_of(policy, candidates)
    moves = (acting[..., None] * transition_matrix(mixture(candidates, worst))[0]).sum(1)  # (S, S)
    identity = torch.eye(len(policy), dtype=moves.dtype)
    time = (1 - discount) * torch.linalg.solve(identity - discount * moves.T, candidates.start)
    smallest = (qs * acting).sum(-1).argmin(0)  # (S,)
    return torch.zeros(len(qs), dtype=time.dtype).index_add(0, smallest, time)


def _of(candidates: CandidateModels, choices: Sequence[Tensor]) -> CandidateModels:
    """Return the models of some choices as candidates of their own."""
    chosen = [mixture(candidates, choice) for choice in choices]
    moves = torch.cat([transition_matrix(one) for one in chosen])
    return CandidateModels(candidates.start, moves, torch.cat([one.mean_reward for one in chosen]))


def greedy_of(policy: Tensor, candidates: CandidateModels) -> Tensor:
    """Return a deterministic policy (S,) as probabilities (S, A)."""
    return torch.nn.functional.one_hot(policy, candidates.reward.shape[2]).to(candidates.reward.dtype)


def _indices(candidates: CandidateModels) -> range:
    return range(len(candidates.reward))


# --- by enumeration ---------------------------------------------------------------------------------------------------


class Enumerated(NamedTuple):
    """All deterministic stationary policies against all models."""

    max_min: float  # the best worst case
    min_max: float  # the worst optimum
    policy: Tensor  # (S,), of the best worst case


def brute_force(candidates: CandidateModels, discount: float, *, rectangular: bool = False) -> Enumerated:
    """Return both values of the game at the start state; `ValueError` above a million pairs."""
    models, states, actions = candidates.reward.shape
    if actions**states * models ** (states * actions if rectangular else 1) > LARGEST_ENUMERATION:
        raise ValueError(f"{states} states, {actions} actions, {models} models are too many to enumerate")
    policies = torch.tensor(list(product(range(actions), repeat=states)))
    if rectangular:
        choices = torch.tensor(list(product(range(models), repeat=states * actions))).view(-1, states, actions)
    else:
        choices = torch.stack([constant(candidates, k) for k in _indices(candidates)])
    acting = torch.nn.functional.one_hot(policies, actions).to(candidates.reward.dtype)
    returns = torch.stack(
        [stationary_values(mixture(candidates, c), acting, discount) @ candidates.start for c in choices]
    )
    best = int(returns.amin(0).argmax())  # returns are (models, policies)
    return Enumerated(float(returns.amin(0).max()), float(returns.amax(1).min()), policies[best])
