"""Small tasks whose optimal policy depends on the objective of the return and on the reward so far.

None is the paper's (its layouts are not known to us). docs/derivations/distributional.md §9 defines them, §13.1 has
their exact values by objective. Each is a tabular MDP. `discount` is the γ that those values are for. Moves are
0 up, 1 down, 2 left, 3 right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, ClassVar

import torch

from surefoot.envs.tasks.finite import FiniteEnv, Outcomes

Chances = Sequence[tuple[float, int, float]]  # probability, next state, reward
Rewards = Sequence[tuple[float, float]]  # probability, reward
Cell = tuple[int, int]  # row, column

MOVES: tuple[Cell, ...] = ((-1, 0), (1, 0), (0, -1), (0, 1))
STAY: Cell = (0, 0)


def tabulate(states: int, actions: int, chances: Callable[[int, int], Chances], start: int = 0) -> Outcomes:
    """Return the table of what `chances(state, action)` may do, one for all steps, float64."""
    rows = [[chances(state, action) for action in range(actions)] for state in range(states)]
    width = max(len(row) for line in rows for row in line)
    padded = [[[*row, *[(0.0, state, 0.0)] * (width - len(row))] for row in line] for state, line in enumerate(rows)]
    probability, next_state, reward = torch.tensor(padded, dtype=torch.float64)[None].unbind(-1)
    first = torch.zeros(states, dtype=torch.float64)
    first[start] = 1.0
    return Outcomes(first, next_state.long(), probability, reward)


class Ladder(FiniteEnv):
    """Steps one after the other, each with the same choice of gambles or its own; the last state is the end.

    State and observation contain the step, so an episode ends by termination, after `horizon` steps.
    """

    gambles: ClassVar[Sequence[Sequence[Rewards]]]  # of every step, of every action
    discount: ClassVar[float]

    def __init__(self, num_envs: int = 1, **kwargs: Any):
        steps, actions = len(self.gambles), len(self.gambles[0])

        def chances(state: int, action: int) -> Chances:
            if state == steps:
                return [(1.0, steps, 0.0)]
            return [(chance, state + 1, reward) for chance, reward in self.gambles[state][action]]

        outcomes = tabulate(steps + 1, actions, chances)
        super().__init__(outcomes, num_envs, terminal=torch.arange(steps + 1) == steps, **kwargs)
        self.horizon = steps


class Gate(Ladder):
    """Two steps, γ = 1/2: a safe 0 or a gamble at each. The best tail gambles at the second when behind. Actions: 0
    safe, 1 risk."""

    discount = 0.5
    gambles = (
        ([(1.0, 0.0)], [(0.5, 3.0), (0.5, 0.0)]),
        ([(1.0, 0.0)], [(0.5, 6.0), (0.5, -3.0)]),
    )


class Bet(Ladder):
    """The same three bets, three times, γ = 9/10. Actions: 0 hold, 1 small, 2 big."""

    discount = 0.9
    gambles = (([(1.0, 0.0)], [(0.9, 1.0), (0.1, -1.0)], [(0.6, 5.0), (0.4, -2.0)]),) * 3


class Larder(FiniteEnv):
    """What to fetch, three times, γ = 9/10: two stocks at once. Actions: 0 rest, 1 food, 2 water.

    The rewards by name, `food` and `water`, are in the info of a step and in `vector_tabular`; the reward is their sum.
    State and observation contain the step, so an episode ends by termination.
    """

    discount = 0.9
    times = 3
    needs = ("food", "water")
    pays: ClassVar[Sequence[Sequence[tuple[float, tuple[float, float]]]]] = (  # of every action: probability, rewards
        [(1.0, (0.0, 0.0))],
        [(0.75, (2.0, -1.0)), (0.25, (0.0, -1.0))],
        [(0.5, (0.0, 2.0)), (0.5, (0.0, 1.0))],
    )

    def __init__(self, num_envs: int = 1, **kwargs: Any):
        def table(reward: Callable[[tuple[float, float]], float]) -> Outcomes:
            def chances(state: int, action: int) -> Chances:
                if state == self.times:
                    return [(1.0, state, 0.0)]
                return [(chance, state + 1, reward(pay)) for chance, pay in self.pays[action]]

            return tabulate(self.times + 1, len(self.pays), chances)

        parts = {name: table(itemgetter(i)).reward for i, name in enumerate(self.needs)}
        end = torch.arange(self.times + 1) == self.times
        super().__init__(table(sum), num_envs, terminal=end, parts=parts, **kwargs)
        self.horizon = self.times


class Grid(FiniteEnv):
    """A map of cells, `#` a wall; a move off the map or into a wall stays put. One-hot observations of the cell.

    S marks the start in `layout`; `ends` lists the marks that end an episode.
    """

    layout: ClassVar[Sequence[str]]
    ends: ClassVar[str]
    moves: ClassVar[Sequence[Cell]] = MOVES
    discount: ClassVar[float]

    def __init__(self, num_envs: int = 1, **kwargs: Any):
        self.cells = [(i, j) for i, row in enumerate(self.layout) for j, mark in enumerate(row) if mark != "#"]
        ends = [self.mark(cell) in self.ends for cell in self.cells]

        def chances(state: int, action: int) -> Chances:
            if ends[state]:
                return [(1.0, state, 0.0)]
            after = self.after(self.cells[state], self.moves[action])
            landed = self.cells.index(after)
            return [(chance, landed, reward) for chance, reward in self.rewards(self.cells[state], after)]

        start = [self.mark(cell) for cell in self.cells].index("S")
        outcomes = tabulate(len(self.cells), len(self.moves), chances, start)
        super().__init__(outcomes, num_envs, terminal=torch.tensor(ends), **kwargs)

    def mark(self, cell: Cell) -> str:
        """Return what the map has there."""
        return self.layout[cell[0]][cell[1]]

    def after(self, cell: Cell, move: Cell) -> Cell:
        """Return where a move leads."""
        to = (cell[0] + move[0], cell[1] + move[1])
        return to if to in self.cells else cell

    def rewards(self, before: Cell, after: Cell) -> Rewards:
        """Return what a move from one cell to another may pay, with the chances."""
        raise NotImplementedError


class Crossing(Grid):
    """A short way along the edge of the reef, a longer one beside it, and a long safe one; γ = 0.95."""

    discount = 0.95
    layout = (
        ".....",
        ".....",
        ".ooo.",
        "SrrrG",
    )
    ends = "G"
    hazards: ClassVar = {"o": (0.10, -0.8), "r": (0.15, -1.5)}  # the resulting cell's, also after a bump

    def rewards(self, before: Cell, after: Cell) -> Rewards:
        mark = self.mark(after)
        if mark in self.hazards:
            chance, loss = self.hazards[mark]
            return [(1 - chance, -0.2), (chance, -0.2 + loss)]
        return [(1.0, -0.2 + 3.0 * (mark == "G"))]


class Fork(Grid):
    """A coin falls on the way to a fork: a sure exit up, a gamble down. The best tail needs the stock. γ = 0.9."""

    discount = 0.9
    layout = (
        "##G",
        "Sn.",
        "##B",
    )
    ends = "GB"

    def rewards(self, before: Cell, after: Cell) -> Rewards:
        if before == after:
            return [(1.0, -0.1)]
        pays = {"n": (1.0, -1.0), "G": (2.0,), "B": (4.6, 1.0)}.get(self.mark(after), (0.0,))
        return [(1 / len(pays), -0.1 + pay) for pay in pays]


class Pantry(Grid):
    """Eat at +, fast at −, leave by E: any return can be made, so the stock can be brought to any set-point. γ = 0.9.

    The fifth action stays. `Drain` also loses 1 with chance 0.2 at every move that does not leave.
    """

    discount = 0.9
    layout = (
        ".E.",
        "-S+",
        "...",
    )
    ends = "E"
    moves = (*MOVES, STAY)
    drain: ClassVar[float] = 0.0

    def rewards(self, before: Cell, after: Cell) -> Rewards:
        mark = self.mark(after)
        pay = {"+": 1.0, "-": -1.0}.get(mark, 0.0)
        if mark == "E" or self.drain == 0.0:
            return [(1.0, pay)]
        return [(1 - self.drain, pay), (self.drain, pay - 1.0)]


class Drain(Pantry):
    """`Pantry` where every move that does not leave loses 1 with chance 0.2."""

    drain = 0.2
