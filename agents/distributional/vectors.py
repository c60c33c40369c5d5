"""Several stocks at once: set-points or budgets of a vector of rewards, one stock for each. Exact, for small MDPs.

docs/derivations/distributional.md §3.5. Operator, greedy step and proofs are those of one stock, componentwise.

| derivation | paper | here |
|---|---|---|
| (3.5) c' = (c + r)/γ of vectors | – | `Vector`, with `objectives.next_stock` |
| (3.6) utilities of a vector, positively homogeneous | – | `OBJECTIVES` |
| §4.1 backward induction on the stocks that are reachable | – | `solve_vectors`, with `exact.backward_induction` |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.agents.distributional import exact
from surefoot.agents.distributional.objectives import Number, Objective, parse
from surefoot.agents.distributional.parsing import numbers_of
from surefoot.agents.distributional.vector import Vector
from surefoot.agents.parts.tabular import TabularMDP, check


@dataclass(frozen=True)
class VectorObjective:
    """E u(c_0 + G) of a vector of returns. Made by `parse_vector`, or with a utility of your own."""

    name: str
    """As it is written, `targets(2, 1)`."""
    rational: Callable[[Vector], Number]
    """u of stock plus return."""
    degree: int | None
    """p with u(ax) = a^p·u(x) for every a > 0; None where there is no such p, and then γ^t is carried along."""
    stock: Vector
    """c_0."""
    utility: Callable[[Tensor], Tensor] | None = None
    """The same u of tensors (…, m), which DηN needs."""
    flat: bool = False
    """Whether u is constant somewhere: then actions tie often, and the sum of the mean returns breaks the ties."""
    aversion: None = None
    """No exponential: `exact.expected_utility` asks."""
    outer: None = None
    """Nothing is searched for: c_0 is given."""

    def expected(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return E u (…) of stocks plus returns (…, K, m); without weights (…, K) all weigh the same."""
        assert self.utility is not None
        u = self.utility(values)
        return u.mean(-1) if weights is None else (weights * u).sum(-1)

    def pooled(self, stock: Tensor, expected: Tensor, chances: Tensor) -> Tensor:
        """Return the figures (C,) of initial stocks (C, m), from `expected` (S, C) at states with chances (S,)."""
        return (chances[:, None] * expected).sum(0)

    def measure(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the objective (…) of distributions (…, K, m) of returns; without weights (…, K) all weigh the same."""
        start = torch.tensor([float(entry) for entry in self.stock.entries], dtype=values.dtype, device=values.device)
        return self.expected(start + values, weights)


class _Kind(NamedTuple):
    rational: Callable[[Vector], Number]
    degree: int
    utility: Callable[[Tensor], Tensor]
    flat: bool


def _distance(x: Vector) -> float:
    return -math.sqrt(sum(entry * entry for entry in x.entries))


def _shortfall(x: Vector) -> Fraction:
    return sum((min(entry, Fraction(0)) for entry in x.entries), Fraction(0))


def _all_kept(x: Vector) -> Fraction:
    return Fraction(all(entry >= 0 for entry in x.entries))


def _distances(x: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return -norms


def _shortfalls(x: Tensor) -> Tensor:
    return x.clamp(max=0).sum(-1)


def _kept(x: Tensor) -> Tensor:
    return (x >= 0).all(-1).to(x.dtype)


OBJECTIVES: dict[str, _Kind] = {
    "targets": _Kind(_distance, 1, _distances, False),
    "shortfalls": _Kind(_shortfall, 1, _shortfalls, True),
    "joint-probability": _Kind(_all_kept, 0, _kept, True),
}
FORMS = tuple(f"{word}(a, b, ...)" for word in OBJECTIVES)


def is_vector(text: str) -> bool:
    """Return whether a text names an objective of a vector of returns."""
    return text.strip().partition("(")[0].strip() in OBJECTIVES


AnyObjective = Objective | VectorObjective  # of one reward, or of several


def parse_vector(text: str) -> VectorObjective:
    """Return the objective that a text such as `targets(2, 1)` names, with one number for each reward.

    `targets`: minus the mean Euclidean distance to the targets; `shortfalls`: the sum of what is lacking to the budgets
    in the mean, at most 0; `joint-probability`: the chance that every budget is kept.

    Raises:
        ValueError: an unknown objective, or what are no numbers; in one line.
    """
    if not is_vector(text):
        raise ValueError(f"unknown objective {text!r} of vector rewards; choose one of {', '.join(FORMS)}")
    word = text.strip().partition("(")[0].strip()
    goals = numbers_of(text, f"{word}(a, b, ...)")
    if not goals:
        raise ValueError(f"objective {text!r} has no numbers; write {word}(a, b, ...), one for each reward")
    kind = OBJECTIVES[word]
    stock = Vector(tuple(-goal for goal in goals))
    return VectorObjective(text.strip(), kind.rational, kind.degree, stock, kind.utility, kind.flat)


def parse_any(text: str) -> AnyObjective:
    """Return the objective, of one reward or of several, that a text names; `ValueError` where it names none."""
    return parse_vector(text) if is_vector(text) else parse(text)


class VectorPolicy(NamedTuple):
    """What to do in a state with a vector of stocks: the action at the nearest one that can be reached there."""

    states: tuple[Tensor, ...]  # (C,) of every step
    stocks: tuple[Tensor, ...]  # (C, m)
    actions: tuple[Tensor, ...]  # (C,)

    def __call__(self, state: Tensor, stock: Tensor, step: int = 0) -> Tensor:
        """Return actions (N,) in states (N,) with stocks (N, m), after `step` steps.

        Raises:
            ValueError: a state that cannot be reached then, a stock that is NaN.
        """
        states, stocks = self.states[step], self.stocks[step]
        plainly = "donot_use_mm_for_euclid_dist"  # by a product near stocks far from 0 would be taken for each other
        distance = torch.cdist(stock.to(stocks), stocks, compute_mode=plainly)
        distance = distance.masked_fill(state[:, None] != states, math.inf)
        nearest = distance.min(-1)
        if not (nearest.values < math.inf).all():
            wrong = int((~(nearest.values < math.inf)).int().argmax())
            raise ValueError(
                f"state {int(state[wrong])} with the stock {stock[wrong].tolist()} cannot be reached in {step} steps"
            )
        return self.actions[step][nearest.indices]


@dataclass(frozen=True)
class VectorSolution:
    """The best of all history-dependent policies: start with `stock` and act by `policy`."""

    objective: VectorObjective
    value: Number
    """E u(c_0 + G); a fraction where u gives fractions."""
    policy: VectorPolicy
    returns: Tensor
    """The vectors of returns (K, m) that the policy has, …"""
    chances: Tensor
    """… and their probabilities (K,)."""

    @property
    def stock(self) -> tuple[float, ...]:
        """c_0 (m,)."""
        return tuple(map(float, self.objective.stock.entries))


def solve_vectors(
    mdp: TabularMDP, objective: VectorObjective | str, *, gamma: float, horizon: int | None
) -> VectorSolution:
    """Return the optimum in fractions, on every vector of stocks that can be reached.

    Args:
        mdp: the task, with vectors of rewards: `reward` is (H or 1, S, A, K, m).
        objective: a text such as `targets(2, 1)`, or your own.
        gamma: discount, in (0, 1].
        horizon: steps of an episode.

    Raises:
        ValueError: an invalid MDP, arguments that do not fit, more states with stocks than `exact.MAX_NODES`.
    """
    goal = parse_vector(objective) if isinstance(objective, str) else objective
    _check(mdp, goal, gamma, horizon)
    assert horizon is not None
    program = exact.make_program(mdp, goal, gamma, horizon, scaled=goal.degree is None and gamma < 1)
    solved = exact.backward_induction(program, exact.reachable(program, [goal.stock]))
    law: dict[Vector, Fraction] = {}
    for state, chance in program.start:
        for value, weight in solved.distributions[0, state, goal.stock].items():
            total = goal.stock * 0 + value  # what is over before it begins has no vector of its own
            law[total] = law.get(total, Fraction(0)) + chance * weight
    value = exact.expected_utility(program, (0, 0, goal.stock), law)
    atoms = sorted(law.items())
    returns = torch.tensor([list(map(float, total.entries)) for total, _ in atoms], dtype=torch.float64)
    chances = torch.tensor([float(weight) for _, weight in atoms], dtype=torch.float64)
    return VectorSolution(goal, value, _policy(horizon, goal, solved.actions), returns, chances)


def _policy(horizon: int, goal: VectorObjective, actions: dict[exact.Node, int]) -> VectorPolicy:
    """Return the actions at the nodes as tables, a step each."""
    by_step: list[list[tuple[int, list[float], int]]] = [[] for _ in range(horizon)]
    for (step, state, stock), action in actions.items():
        by_step[step].append((state, list(map(float, stock.entries)), action))
    m = len(goal.stock.entries)
    return VectorPolicy(
        tuple(torch.tensor([state for state, _, _ in rows], dtype=torch.int64) for rows in by_step),
        tuple(torch.tensor([stock for _, stock, _ in rows], dtype=torch.float64).view(-1, m) for rows in by_step),
        tuple(torch.tensor([action for _, _, action in rows], dtype=torch.int64) for rows in by_step),
    )


def _check(mdp: TabularMDP, goal: VectorObjective, gamma: float, horizon: int | None) -> None:
    if mdp.reward.ndim != 5:
        raise ValueError(
            f"{goal.name} is for vectors of rewards (H or 1, S, A, K, m), these are {tuple(mdp.reward.shape)}"
        )
    check(mdp._replace(reward=mdp.reward[..., 0]))
    if not torch.isfinite(mdp.reward).all():
        raise ValueError("rewards must be finite")
    if (given := len(goal.stock.entries)) != (wanted := mdp.reward.shape[-1]):
        raise ValueError(f"{goal.name} has {given} numbers, the task {wanted} rewards; give one for each")
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must lie in (0, 1], not {gamma}: the stock update divides by it")
    if horizon is None or horizon < 1:
        raise ValueError(f"{goal.name} needs a horizon of at least 1 step, not {horizon}: stocks are enumerated")
    if len(mdp.reward) > 1 and horizon != len(mdp.reward):
        raise ValueError(f"the table has {len(mdp.reward)} steps, the horizon is {horizon}; they must agree")
