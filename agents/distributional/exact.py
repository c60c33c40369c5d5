"""The method in rational arithmetic, on every stock that can be reached: no projection, no rounding, small MDPs.

| brief | here |
|---|---|
| 4.1, backward induction | `backward_induction` |
| 4.2, distributional value iteration (DVI) | `value_iteration` |
| 4.3, distributional policy iteration (DPI) | `policy_iteration` |
| (3), (4), one step of the operator | `bellman` |
| greedy step and its tie-break, A6 | `greedy` |
| 4.4, search over c_0 | `best_start` |

A law is {return: probability}. A node is (step, state, stock); its law is that of the return still to come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

from surefoot.agents.distributional.objectives import Objective, as_fraction, next_stock
from surefoot.agents.parts.tabular import TabularMDP

Law = dict[Fraction, Fraction]
Node = tuple[int, int, Fraction]
Outcome = tuple[Fraction, int, Fraction]  # probability, next state, reward

MAX_NODES = 200_000
NOTHING_MORE: Law = {Fraction(0): Fraction(1)}


@dataclass(frozen=True)
class Program:
    """A finite MDP in fractions, with what is wanted of its return within `horizon` steps."""

    start: tuple[tuple[int, Fraction], ...]  # states that can come first, with their chances
    outcomes: list[list[list[list[Outcome]]]]  # of every step (or of one that is every step), state and action
    objective: Objective
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
            return all(after == state and reward == 0 for row in rows for _, after, reward in row)

        return {state for state in range(len(self.outcomes[0])) if stays(state)}


def make_program(mdp: TabularMDP, objective: Objective, gamma: float, horizon: int, scaled: bool) -> Program:
    """Return the MDP with every float as the simplest fraction that rounds to it; chances sum to 1 exactly."""
    table = [
        [[_outcomes(*row) for row in zip(*state, strict=True)] for state in zip(*step, strict=True)]
        for step in zip(*(field.tolist() for field in (mdp.probability, mdp.next_state, mdp.reward)), strict=True)
    ]
    chances = [as_fraction(chance) for chance in mdp.start.tolist()]
    start = tuple((state, chance / sum(chances)) for state, chance in enumerate(chances) if chance)
    return Program(start, table, objective, as_fraction(gamma), horizon, scaled)


def _outcomes(chances: list[float], states: list[int], rewards: list[float]) -> list[Outcome]:
    exact = [as_fraction(chance) for chance in chances]
    total = sum(exact)
    rows = zip(exact, states, rewards, strict=True)
    return [(chance / total, state, as_fraction(reward)) for chance, state, reward in rows if chance]


# --- one step ---------------------------------------------------------------------------------------------------------


def bellman(program: Program, node: Node, action: int, laws: dict[Node, Law]) -> Law:
    """Return the law of R + γ·G(S', (c + R)/γ), equations (1) and (3), where `laws` has the laws that follow."""
    step, state, stock = node
    law: Law = {}
    for chance, after, reward in program.after(step, state, action):
        for value, weight in laws[step + 1, after, next_stock(stock, reward, program.gamma)].items():
            total = reward + program.gamma * value
            law[total] = law.get(total, Fraction(0)) + chance * weight
    return law


def expected_utility(program: Program, node: Node, law: Law) -> Any:
    """Return E u(c + G), or E u(γ^t·(c + G)) where the utility needs it."""
    scale = program.gamma ** node[0] if program.scaled else Fraction(1)
    return sum(weight * program.objective.rational(scale * (node[2] + value)) for value, weight in law.items())


def greedy(program: Program, node: Node, laws: dict[Node, Law], keep: int | None = None) -> tuple[int, Law]:
    """Return the action of the largest E u, and its law. Ties: `keep`, else the larger mean, else the first."""
    found = [bellman(program, node, action, laws) for action in range(len(program.outcomes[0][node[1]]))]
    worth = [(expected_utility(program, node, law), _moment(law, 1)) for law in found]
    if keep is not None and worth[keep][0] == max(worth)[0]:
        return keep, found[keep]
    best = worth.index(max(worth))
    return best, found[best]


# --- all nodes --------------------------------------------------------------------------------------------------------


@dataclass
class Solved:
    """What a method leaves: the law and the action at every node, and how often it went over them."""

    laws: dict[Node, Law]
    actions: dict[Node, int] = field(default_factory=dict)
    sweeps: int = 1


def reachable(program: Program, stocks: Iterable[Fraction]) -> list[list[Node]]:
    """Return the nodes that any policy can reach from the start with any of `stocks`, a list a step.

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
                "steps; exact laws are for small MDPs, so use law='quantiles' with method='dvi'"
            )
    return layers


def backward_induction(program: Program, layers: list[list[Node]]) -> Solved:
    """Return the optimum, from the last step to the first."""
    solved = Solved({})
    for node in _backwards(layers):
        if program.is_over(node):
            solved.laws[node] = NOTHING_MORE
        else:
            solved.actions[node], solved.laws[node] = greedy(program, node, solved.laws)
    return solved


def value_iteration(program: Program, layers: list[list[Node]]) -> Solved:
    """Return what sweeps over all nodes at once come to, from η_0 = δ_0, when one changes nothing."""
    solved = Solved({node: NOTHING_MORE for layer in layers for node in layer}, sweeps=0)
    while True:
        laws = dict(solved.laws)
        for node in solved.laws:
            if not program.is_over(node):
                solved.actions[node], laws[node] = greedy(program, node, solved.laws)
        solved.sweeps += 1
        if laws == solved.laws:
            return solved
        solved.laws = laws


def evaluate(program: Program, layers: list[list[Node]], actions: dict[Node, int]) -> dict[Node, Law]:
    """Return the laws of a policy."""
    laws: dict[Node, Law] = {}
    for node in _backwards(layers):
        laws[node] = NOTHING_MORE if program.is_over(node) else bellman(program, node, actions[node], laws)
    return laws


def policy_iteration(program: Program, layers: list[list[Node]]) -> Solved:
    """Return the last of policies each greedy to the laws of the one before, from the first action everywhere."""
    actions = {node: 0 for layer in layers for node in layer if not program.is_over(node)}
    sweeps = 0
    while True:
        laws = evaluate(program, layers, actions)
        improved = {node: greedy(program, node, laws, keep=action)[0] for node, action in actions.items()}
        sweeps += 1
        if improved == actions:
            return Solved(laws, actions, sweeps)
        actions = improved


METHODS: dict[str, Callable[[Program, list[list[Node]]], Solved]] = {
    "exact": backward_induction,
    "dvi": value_iteration,
    "dpi": policy_iteration,
}


# --- the search over the initial stock --------------------------------------------------------------------------------


class Start(NamedTuple):
    """What starting from a stock comes to."""

    stock: Fraction
    score: Any  # the figure of the objective that c_0 and E u(c_0 + G) stand for
    law: Law  # of the whole return


class Found(NamedTuple):
    """The best start, all that were tried, and for an upper tail the bound on mixtures of policies."""

    best: Start
    tried: list[Start]
    bound: Any | None
    solved: Solved


def best_start(program: Program, method: str) -> Found:
    """Return where to start from, by a search that is exact: no grid.

    Scores of lower tails are piecewise linear in c_0 with every maximum at −(a return that can happen); those of mean
    minus variance are largest at −(mean of a policy's return); those of upper tails are convex.
    """
    search = _Search(program, METHODS[method])
    objective = program.objective
    if objective.stock is not None:
        best = search.at([objective.stock])[0]
        return Found(best, search.starts(), None, search.solved)
    kinks = sorted(-total for total in returns(program))
    search.at(kinks)
    if objective.outer == "min":
        bound = _least(search, kinks[0], kinks[-1])
        tau = 1 / objective.weight
        best = max(search.starts(), key=lambda start: (_upper_cvar(start.law, tau), start.stock))
        return Found(best._replace(score=_upper_cvar(best.law, tau)), search.starts(), bound, search.solved)
    if objective.degree is None:
        _vertices(search, kinks[0], kinks[-1])
    best = max(search.starts(), key=lambda start: (start.score, _moment(start.law, 1), start.stock))
    return Found(best, search.starts(), None, search.solved)


class _Search:
    """Solves for stocks as they are asked for, and remembers."""

    def __init__(self, program: Program, method: Callable[[Program, list[list[Node]]], Solved]):
        self.program, self.method = program, method
        self.known: dict[Fraction, Start] = {}
        self.solved = Solved({}, sweeps=0)

    def at(self, stocks: list[Fraction]) -> list[Start]:
        if new := [stock for stock in stocks if stock not in self.known]:
            solved = self.method(self.program, reachable(self.program, new))
            self.solved = Solved(
                self.solved.laws | solved.laws,
                self.solved.actions | solved.actions,
                max(solved.sweeps, self.solved.sweeps),
            )
            self.known |= {stock: self._start(stock) for stock in new}
        return [self.known[stock] for stock in stocks]

    def starts(self) -> list[Start]:
        return [self.known[stock] for stock in sorted(self.known)]

    def _start(self, stock: Fraction) -> Start:
        law: Law = {}
        for state, chance in self.program.start:
            for value, weight in self.solved.laws[0, state, stock].items():
                law[value] = law.get(value, Fraction(0)) + chance * weight
        return Start(stock, self.score(stock, law), law)

    def score(self, stock: Fraction, law: Law) -> Any:
        return self.program.objective.score(stock, expected_utility(self.program, (0, 0, stock), law))


def returns(program: Program) -> set[Fraction]:
    """Return every return that can happen."""
    layers = reachable(program, [Fraction(0)])
    return {program.gamma ** node[0] * node[2] for layer in layers for node in layer if program.is_over(node)}


def _least(search: _Search, low: Fraction, high: Fraction) -> Fraction:
    """Return min over c_0 of a convex, piecewise linear score: cut by tangents until one is touched where two meet."""
    tau = 1 / search.program.objective.weight

    def slope(start: Start) -> Fraction:
        return sum((w for value, w in start.law.items() if start.stock + value > 0), Fraction(0)) / tau - 1

    left, right = search.at([low, high])
    while slope(left) < 0 < slope(right):
        run = left.score - slope(left) * left.stock - right.score + slope(right) * right.stock
        cut = search.at([run / (slope(right) - slope(left))])[0]
        if cut.score == left.score + slope(left) * (cut.stock - left.stock):
            return cut.score
        left, right = (cut, right) if slope(cut) < 0 else (left, cut)
    return min(left.score, right.score)


def _vertices(search: _Search, low: Fraction, high: Fraction) -> None:
    """Try −(mean return) of every policy that is best for some c_0.

    For u = x − λx² the score plus λ·c_0² is a maximum of lines in c_0, one a policy. They are found by trying where two
    neighbours meet; no line passes above both there, or it is a new one.
    """
    aversion = 1 - Fraction(search.program.objective.rational(Fraction(1)))
    spans = [(*search.at([low, high]),)]
    while spans:
        left, right = spans.pop()
        meet = _crossing(left.law, right.law, aversion)
        if meet is not None and left.stock < meet < right.stock:
            middle = search.at([meet])[0]
            if middle.score > search.score(meet, left.law):
                spans += [(left, middle), (middle, right)]
    search.at([-_moment(start.law, 1) for start in search.starts()])


def _crossing(one: Law, other: Law, aversion: Fraction) -> Fraction | None:
    """Return c_0 where E[G − λ(c_0 + G)²] of two laws are equal; None where they differ by the same everywhere."""
    mean, square = (_moment(one, power) - _moment(other, power) for power in (1, 2))
    return None if mean == 0 else 1 / (2 * aversion) - square / (2 * mean)


def _moment(law: Law, power: int) -> Fraction:
    return sum((weight * value**power for value, weight in law.items()), Fraction(0))


def _upper_cvar(law: Law, tau: Fraction) -> Fraction:
    left, total = tau, Fraction(0)
    for value in sorted(law, reverse=True):
        share = min(left, law[value])
        total, left = total + share * value, left - share
    return total / tau


def _backwards(layers: list[list[Node]]) -> Iterable[Node]:
    return (node for layer in reversed(layers) for node in layer)
