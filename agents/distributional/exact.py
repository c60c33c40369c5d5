"""The method in rational arithmetic, on every stock that is reachable: no projection, no rounding, small MDPs.

docs/derivations/distributional.md; the paper's own numbers are not known to us.

| derivation | paper | here |
|---|---|---|
| §4.1 backward induction | – | `exact.backward_induction`, `exact.make_program` |
| §4.2 distributional value iteration (DVI), (4.3), (4.4) | – | `exact.value_iteration` |
| §4.3 distributional policy iteration (DPI), (4.5) | – | `exact.policy_iteration` |
| (1.5), (4.1) one step of the operator | – | `exact.bellman` |
| (4.2), scaled: (2.4) | – | `exact.expected_utility` |
| (2.1) greedy step; §4.5 ties | – | `exact.greedy` |
| §5.2 search over c_0 | – | `exact.best_start`, `exact.returns` |
| (5.4), (5.5) the search of an upper tail | – | `exact._least` |
| (3.4), (5.7) the search of mean − variance | – | `exact._vertices`, `exact._crossing` |

A distribution is {return: probability}. A node is (step, state, stock); its distribution is that of the return still
to come.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

from surefoot.agents.distributional.objectives import as_fraction, next_stock
from surefoot.agents.distributional.vector import Vector, sum_of
from surefoot.agents.parts.tabular import TabularMDP

Distribution = dict[Any, Fraction]  # of returns: fractions, or a `Vector` of them
Node = tuple[int, int, Any]  # the stock: as the returns
Outcome = tuple[Fraction, int, Any]  # probability, next state, reward

MAX_NODES = 200_000
NOTHING_MORE: Distribution = {Fraction(0): Fraction(1)}


@dataclass(frozen=True)
class Program:
    """A finite MDP in fractions, with an objective of its return within `horizon` steps."""

    start: tuple[tuple[int, Fraction], ...]  # states that can come first, with their chances
    outcomes: list[list[list[list[Outcome]]]]  # of every step (or of one that is every step), state and action
    objective: Any  # an `Objective`, or a `VectorObjective`
    gamma: Fraction
    horizon: int
    scaled: bool  # maximise E u(γ^t·(c + G)) instead of E u(c + G)

    def after(self, step: int, state: int, action: int) -> list[Outcome]:
        """Return what can happen."""
        return self.outcomes[step if len(self.outcomes) > 1 else 0][state][action]

    def is_over(self, node: Node) -> bool:
        """Whether nothing more can be earned: the horizon, or a state that is never left and never paid."""
        return node[0] == self.horizon or node[1] in self._ends

    @cached_property
    def _ends(self) -> set[int]:
        def stays(state: int) -> bool:
            rows = (row for table in self.outcomes for row in table[state])
            return all(after == state and not reward for row in rows for _, after, reward in row)

        return {state for state in range(len(self.outcomes[0])) if stays(state)}


def make_program(mdp: TabularMDP, objective: Any, gamma: float, horizon: int, scaled: bool) -> Program:
    """Return the MDP with every float as the simplest fraction that rounds to it; chances sum to 1 exactly."""
    table = [
        [[_outcomes(*row) for row in zip(*state, strict=True)] for state in zip(*step, strict=True)]
        for step in zip(*(field.tolist() for field in (mdp.probability, mdp.next_state, mdp.reward)), strict=True)
    ]
    chances = [as_fraction(chance) for chance in mdp.start.tolist()]
    start = tuple((state, chance / sum(chances)) for state, chance in enumerate(chances) if chance)
    return Program(start, table, objective, as_fraction(gamma), horizon, scaled)


def _outcomes(chances: list[float], states: list[int], rewards: list[Any]) -> list[Outcome]:
    exact = [as_fraction(chance) for chance in chances]
    whole = sum(exact)
    rows = zip(exact, states, rewards, strict=True)
    return [(chance / whole, state, _exact(reward)) for chance, state, reward in rows if chance]


def _exact(reward: float | list[float]) -> Fraction | Vector:
    return Vector(tuple(map(as_fraction, reward))) if isinstance(reward, list) else as_fraction(reward)


# --- one step ---------------------------------------------------------------------------------------------------------


def bellman(program: Program, node: Node, action: int, distributions: dict[Node, Distribution]) -> Distribution:
    """Return the distribution of R + γ·G(S', (c + R)/γ), eq. (1.5); `distributions` are those of the next step."""
    step, state, stock = node
    distribution: Distribution = {}
    for chance, after, reward in program.after(step, state, action):
        for value, weight in distributions[step + 1, after, next_stock(stock, reward, program.gamma)].items():
            total = reward + program.gamma * value
            distribution[total] = distribution.get(total, Fraction(0)) + chance * weight
    return distribution


def expected_utility(program: Program, node: Node, distribution: Distribution) -> Any:
    """Return E u(c + G), or E u(γ^t·(c + G)) where the utility needs it.

    Of the exponential its certainty equivalent, eq. (4.13), which orders alike and which a float can hold.
    """
    scale = program.gamma ** node[0] if program.scaled else Fraction(1)
    if program.objective.aversion is not None:
        atoms = [(scale * (node[2] + value), weight) for value, weight in distribution.items()]
        return certainty_equivalent(atoms, program.objective.aversion)
    return sum(weight * program.objective.rational(scale * (node[2] + value)) for value, weight in distribution.items())


def certainty_equivalent(atoms: list[tuple[Fraction, Fraction]], aversion: float) -> float:
    """Return −log E exp(−λX)/λ of (value, probability), relative to the least value so that nothing overflows."""
    least = min(value for value, _ in atoms)
    rest = sum(float(weight) * math.exp(-aversion * float(value - least)) for value, weight in atoms)
    return float(least) - math.log(rest) / aversion


def greedy(
    program: Program, node: Node, distributions: dict[Node, Distribution], keep: int | None = None
) -> tuple[int, Distribution]:
    """Return the action of the largest E u and its distribution. Ties: `keep`, else the larger mean, else the first."""
    found = [bellman(program, node, action, distributions) for action in range(len(program.outcomes[0][node[1]]))]
    worth = [(expected_utility(program, node, distribution), _mean(distribution)) for distribution in found]
    most = max(worth)[0]
    slack = 1e-12 * (1 + abs(most)) if isinstance(most, float) else 0  # floats that differ by rounding are tied
    tied = [action for action, (utility, _) in enumerate(worth) if utility >= most - slack]
    best = keep if keep in tied else max(tied, key=lambda action: (worth[action][1], -action))
    return best, found[best]


# --- all nodes --------------------------------------------------------------------------------------------------------


@dataclass
class SolvedNodes:
    """The result of a method: the distribution and the action at every node, and the number of sweeps."""

    distributions: dict[Node, Distribution]
    actions: dict[Node, int] = field(default_factory=dict)
    sweeps: int = 1


def reachable(program: Program, stocks: Iterable[Any]) -> list[list[Node]]:
    """Return the nodes that any policy can reach from the start with any of `stocks`, one list per step.

    Raises:
        ValueError: there are more than `MAX_NODES`.
    """
    layers = [sorted({(0, state, stock) for state, _ in program.start for stock in stocks})]
    for step in range(program.horizon):
        alive = [node for node in layers[-1] if not program.is_over(node)]
        following = {
            (step + 1, after, next_stock(stock, reward, program.gamma))
            for _, state, stock in alive
            for action in range(len(program.outcomes[0][state]))
            for _, after, reward in program.after(step, state, action)
        }
        layers.append(sorted(following))
        if sum(map(len, layers)) > MAX_NODES:
            raise ValueError(
                f"more than {MAX_NODES} pairs of state and stock can be reached within {step + 1} of {program.horizon} "
                "steps; exact distributions are for small MDPs, so use representation='quantiles' with method='dvi'"
            )
    return layers


def backward_induction(program: Program, layers: list[list[Node]]) -> SolvedNodes:
    """Return the optimum, from the last step to the first."""
    solved = SolvedNodes({})
    for node in _backwards(layers):
        if program.is_over(node):
            solved.distributions[node] = NOTHING_MORE
        else:
            solved.actions[node], solved.distributions[node] = greedy(program, node, solved.distributions)
    return solved


def value_iteration(program: Program, layers: list[list[Node]]) -> SolvedNodes:
    """Return what sweeps over all nodes at once come to, from η_0 = δ_0, when one changes nothing."""
    solved = SolvedNodes({node: NOTHING_MORE for layer in layers for node in layer}, sweeps=0)
    while True:
        distributions = dict(solved.distributions)
        for node in solved.distributions:
            if not program.is_over(node):
                solved.actions[node], distributions[node] = greedy(program, node, solved.distributions)
        solved.sweeps += 1
        if distributions == solved.distributions:
            return solved
        solved.distributions = distributions


def evaluate(program: Program, layers: list[list[Node]], actions: dict[Node, int]) -> dict[Node, Distribution]:
    """Return the return distributions of a policy."""
    distributions: dict[Node, Distribution] = {}
    for node in _backwards(layers):
        distributions[node] = (
            NOTHING_MORE if program.is_over(node) else bellman(program, node, actions[node], distributions)
        )
    return distributions


def policy_iteration(program: Program, layers: list[list[Node]]) -> SolvedNodes:
    """Return the last of policies each greedy for the previous one's distributions, starting from the first action."""
    actions = {node: 0 for layer in layers for node in layer if not program.is_over(node)}
    sweeps = 0
    while True:
        distributions = evaluate(program, layers, actions)
        improved = {node: greedy(program, node, distributions, keep=action)[0] for node, action in actions.items()}
        sweeps += 1
        if improved == actions:
            return SolvedNodes(distributions, actions, sweeps)
        actions = improved


METHODS: dict[str, Callable[[Program, list[list[Node]]], SolvedNodes]] = {
    "exact": backward_induction,
    "dvi": value_iteration,
    "dpi": policy_iteration,
}


# --- the search over the initial stock --------------------------------------------------------------------------------


class Start(NamedTuple):
    """What starting from a stock comes to."""

    stock: Fraction
    score: Any  # the figure of the objective that c_0 and E u(c_0 + G) stand for
    distribution: Distribution  # of the whole return


class StartSearch(NamedTuple):
    """The best start, all that were tried, and for an upper tail the bound on mixtures of policies."""

    best: Start
    tried: list[Start]
    bound: Any | None
    solved: SolvedNodes


def best_start(program: Program, method: str) -> StartSearch:
    """Return where to start from, by a search that is exact: no grid.

    Scores of lower tails are piecewise linear in c_0 with every maximum at −(a return that can happen); those of mean
    minus variance are largest at −(mean of a policy's return); those of upper tails are convex.
    """
    search = _Search(program, METHODS[method])
    objective = program.objective
    if objective.stock is not None:
        best = search.at([objective.stock])[0]
        return StartSearch(best, search.starts(), None, search.solved)
    kinks = sorted(-total for total in returns(program))
    search.at(kinks)
    if objective.outer == "min":
        bound = _least(search, kinks[0], kinks[-1])
        tau = 1 / objective.weight
        best = max(search.starts(), key=lambda start: (_upper_cvar(start.distribution, tau), start.stock))
        return StartSearch(
            best._replace(score=_upper_cvar(best.distribution, tau)), search.starts(), bound, search.solved
        )
    if objective.degree is None:
        _vertices(search, kinks[0], kinks[-1])
    best = max(search.starts(), key=lambda start: (start.score, _moment(start.distribution, 1), start.stock))
    return StartSearch(best, search.starts(), None, search.solved)


class _Search:
    """Solves for stocks on demand, and caches the result."""

    def __init__(self, program: Program, method: Callable[[Program, list[list[Node]]], SolvedNodes]):
        self.program, self.method = program, method
        self.known: dict[Fraction, Start] = {}
        self.solved = SolvedNodes({}, sweeps=0)

    def at(self, stocks: list[Fraction]) -> list[Start]:
        if new := [stock for stock in stocks if stock not in self.known]:
            solved = self.method(self.program, reachable(self.program, new))
            self.solved = SolvedNodes(
                self.solved.distributions | solved.distributions,
                self.solved.actions | solved.actions,
                max(solved.sweeps, self.solved.sweeps),
            )
            self.known |= {stock: self._start(stock) for stock in new}
        return [self.known[stock] for stock in stocks]

    def starts(self) -> list[Start]:
        return [self.known[stock] for stock in sorted(self.known)]

    def _start(self, stock: Fraction) -> Start:
        distribution: Distribution = {}
        for state, chance in self.program.start:
            for value, weight in self.solved.distributions[0, state, stock].items():
                distribution[value] = distribution.get(value, Fraction(0)) + chance * weight
        return Start(stock, self.score(stock, distribution), distribution)

    def score(self, stock: Fraction, distribution: Distribution) -> Any:
        expected = expected_utility(self.program, (0, 0, stock), distribution)
        objective = self.program.objective
        return expected if objective.aversion is not None else objective.score(stock, expected)


def returns(program: Program) -> set[Fraction]:
    """Return every return that can happen."""
    layers = reachable(program, [Fraction(0)])
    return {program.gamma ** node[0] * node[2] for layer in layers for node in layer if program.is_over(node)}


def _least(search: _Search, low: Fraction, high: Fraction) -> Fraction:
    """Return min over c_0 of a convex, piecewise linear score: cut by tangents until one is touched where two meet."""
    weight: Fraction = search.program.objective.weight
    tau = 1 / weight

    def slope(start: Start) -> Fraction:
        return sum((w for value, w in start.distribution.items() if start.stock + value > 0), Fraction(0)) / tau - 1

    left, right = search.at([low, high])
    while slope(left) < 0 < slope(right):
        run = left.score - slope(left) * left.stock - right.score + slope(right) * right.stock
        cut = search.at([run / (slope(right) - slope(left))])[0]
        if cut.score == left.score + slope(left) * (cut.stock - left.stock):
            touched: Fraction = cut.score
            return touched
        left, right = (cut, right) if slope(cut) < 0 else (left, cut)
    least: Fraction = min(left.score, right.score)
    return least


def _vertices(search: _Search, low: Fraction, high: Fraction) -> None:
    """Try −(mean return) of every policy that is best for some c_0.

    For u = x − λx² the score plus λ·c_0² is a maximum of lines in c_0, one a policy. They are found by trying where two
    neighbours meet; no line passes above both there, or it is a new one.
    """
    aversion = 1 - Fraction(search.program.objective.rational(Fraction(1)))
    spans = [(*search.at([low, high]),)]
    while spans:
        left, right = spans.pop()
        meet = _crossing(left.distribution, right.distribution, aversion)
        if meet is not None and left.stock < meet < right.stock:
            middle = search.at([meet])[0]
            if middle.score > search.score(meet, left.distribution):
                spans += [(left, middle), (middle, right)]
    search.at([-_moment(start.distribution, 1) for start in search.starts()])


def _crossing(one: Distribution, other: Distribution, aversion: Fraction) -> Fraction | None:
    """Return c_0 where E[G − λ(c_0 + G)²] of two distributions are equal; None where their difference is constant."""
    mean, square = (_moment(one, power) - _moment(other, power) for power in (1, 2))
    return None if mean == 0 else 1 / (2 * aversion) - square / (2 * mean)


def _mean(distribution: Distribution) -> Fraction:
    """Return E[G]; of a vector, the sum of its entries' means."""
    return sum((weight * sum_of(value) for value, weight in distribution.items()), Fraction(0))


def _moment(distribution: Distribution, power: int) -> Fraction:
    return sum((weight * value**power for value, weight in distribution.items()), Fraction(0))


def _upper_cvar(distribution: Distribution, tau: Fraction) -> Fraction:
    left, total = tau, Fraction(0)
    for value in sorted(distribution, reverse=True):
        weight = min(left, distribution[value])
        total, left = total + weight * value, left - weight
    return total / tau


def _backwards(layers: list[list[Node]]) -> Iterable[Node]:
    return (node for layer in reversed(layers) for node in layer)
