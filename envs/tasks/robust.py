"""Small tasks with an uncertain number, for which the robust optimum is known exactly.

docs/derivations/iwocs.md §7.1 to §7.3; the values are E1, E6, E7 and E8.

Each is a tabular MDP; several of them, one per value of the number, are the models of an uncertainty set.
"""

from __future__ import annotations

from typing import Any

import torch

from surefoot.envs.tasks.finite import FiniteEnv
from surefoot.envs.tasks.risk import Chances, tabulate

NORTH, SOUTH, EAST, WEST = range(4)
SIZE = 6
WALLS = {(row, column) for row in (1, 3) for column in (1, 2, 3)}
WIND_POWER = {0: 1, 2: 3, 4: 6, 5: 6}  # row of a corridor -> the exponent of α in its chance of wind
CELLS = [(row, column) for row in range(SIZE) for column in range(SIZE)]
GOAL = CELLS.index((0, SIZE - 1))


class WindyWalk(FiniteEnv):
    """Three corridors to the goal; the shortest has the most wind. 36 cells, actions N, S, E, W, −1 per step, γ = 0.95.

    The north, middle and south corridor (columns 1 to 3) have wind with chance α, α³, α⁶: it blows east-goers west, and
    those who turn north or south too. Start in the north-west corner, end in the north-east. The IWOCS paper's drawing
    was not readable: walls at rows 1 and 3 are a reconstruction from its text (§7.1).

    Raises:
        ValueError: a chance outside [0, 1].
    """

    discount = 0.95

    def __init__(self, num_envs: int = 1, *, alpha: float = 0.5, **kwargs: Any):
        _check_chance("alpha", alpha)

        def chances(state: int, action: int) -> Chances:
            return [(1.0, state, 0.0)] if state == GOAL else _walk(state, action, alpha)

        terminal = torch.arange(len(CELLS)) == GOAL
        super().__init__(tabulate(len(CELLS), 4, chances), num_envs, terminal=terminal, **kwargs)


def _walk(state: int, action: int, alpha: float) -> Chances:
    (row, column), asked = CELLS[state], _moved(state, action)
    if column not in (1, 2, 3) or row not in WIND_POWER or action == WEST:
        return [(1.0, asked, -1.0)]
    wind = alpha ** WIND_POWER[row]
    return [(1.0 - wind, asked, -1.0), (wind, _moved(state, WEST), -1.0)]


def _moved(state: int, action: int) -> int:
    """Return the neighbouring cell; the cell itself before a wall or the border."""
    row, column = CELLS[state]
    down, right = {NORTH: (-1, 0), SOUTH: (1, 0), EAST: (0, 1), WEST: (0, -1)}[action]
    cell = row + down, column + right
    return CELLS.index(cell) if cell in CELLS and cell not in WALLS else state


class Maintenance(FiniteEnv):
    """A machine that is good, worn or broken; run it or repair it. γ = 0.95; it never ends.

    Running wears one step with chance `wear`; a repair makes good, or with chance wear/2 breaks. Running pays 1, 0.7,
    0, repairing −0.5, −0.5, −1.5, by state. Actions: 0 run, 1 repair.

    Raises:
        ValueError: a chance outside [0, 1].
    """

    discount = 0.95

    def __init__(self, num_envs: int = 1, *, wear: float = 0.2, **kwargs: Any):
        _check_chance("wear", wear)
        run, repair = (1.0, 0.7, 0.0), (-0.5, -0.5, -1.5)

        def chances(state: int, action: int) -> Chances:
            if action == 1:
                return [(1.0 - wear / 2, 0, repair[state]), (wear / 2, 2, repair[state])]
            return [(1.0 - wear, state, run[state]), (wear, min(state + 1, 2), run[state])]

        super().__init__(tabulate(3, 2, chances), num_envs, **kwargs)


class Coupled(FiniteEnv):
    """Two steps without a choice; the first pays 1 with chance θ, the second with chance 1 − θ. γ = 0.9.

    Nature cannot be bad twice: in the static model the worst is 0.9, in the rectangular hull it is 0.

    Raises:
        ValueError: a chance outside [0, 1].
    """

    discount = 0.9

    def __init__(self, num_envs: int = 1, *, theta: float = 0.0, **kwargs: Any):
        _check_chance("theta", theta)

        def chances(state: int, action: int) -> Chances:
            pays = (theta, 1.0 - theta, 0.0)[state]
            after = min(state + 1, 2)
            return [(pays, after, 1.0), (1.0 - pays, after, 0.0)]

        super().__init__(tabulate(3, 1, chances), num_envs, terminal=torch.arange(3) == 2, **kwargs)


class Arms(FiniteEnv):
    """One choice between two arms, of which one pays 1 and the other 0: the first where `first`. γ = 0.9."""

    discount = 0.9

    def __init__(self, num_envs: int = 1, *, first: bool = True, **kwargs: Any):
        def chances(state: int, action: int) -> Chances:
            return [(1.0, 1, float(state == 0 and (action == 0) == first))]

        super().__init__(tabulate(2, 2, chances), num_envs, terminal=torch.arange(2) == 1, **kwargs)


def _check_chance(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"--env.kwargs {name} must be in [0, 1], got {value}")
