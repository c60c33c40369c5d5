"""A linear system with hidden state and a scalar reward: what it is made of, what follows from it, and its actions.

docs/derivations/dynlin.md eq. (1.1):  y_t = <ω, x_t> + <θ, u_t> + η_t,  x_{t+1} = A x_t + B u_t + ε_t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

SIX_BUDGETS = [[0, 0.5, 1], [0, 1, 0.5], [0.5, 0, 1], [0.5, 1, 0], [1, 0, 0.5], [1, 0.5, 0]]
SYSTEMS: dict[str, dict[str, Any]] = {
    "synthetic": {  # §9.1
        "A": [[0.2, 0, 0], [0, 0, 0], [0, 0, 0.1]],
        "B": [[0.45, 0, 0], [0, 0, 0], [0, 0, 0.1]],
        "C": [[1, 0, 0], [0, 0, 0], [0, 0, 0.1]],
        "D": [[0, 0, 0], [0, 0.5, 0], [0, 0, 0.1]],
        "noise": 0.01,
        "n_outputs": 3,
        "actions": SIX_BUDGETS,
    },
    "real-data": {  # §9.2: identified from the logs of a web advertiser
        "A": [[0.38, 0.33, 0.60], [0.07, 0.76, -0.54], [0.18, 0.34, 0.05]],
        "B": [[0.14, 0.34, -0.05], [-0.17, 0.03, -0.01], [0.04, -0.09, 0.17]],
        "C": [[0.25, -0.14, 0.01], [-0.55, 0.20, -0.13], [-0.31, -0.10, -0.01]],
        "D": [[0.11, 0.10, 0.01], [0.01, 0.36, 0.01], [0.01, -0.05, 0.00]],
        "noise": 0.01,
        "n_outputs": 3,
        "actions": SIX_BUDGETS,
    },
    "s1": {  # §9.3: e1 hurts now and pays later
        "A": [[0.5]],
        "B": [[0.6, -0.3]],
        "omega": [1.0],
        "theta": [-0.2, 0.6],
        "noise": 0.05,
        "actions": [[1, 0], [0, 1], [0.5, 0.5]],
    },
}


class LinearSystem(NamedTuple):
    """The matrices, float64."""

    A: np.ndarray  # (n, n)
    B: np.ndarray  # (n, d)
    omega: np.ndarray  # (n,)
    theta: np.ndarray  # (d,)
    state_noise: float = 0.0  # standard deviation of every component of ε
    output_noise: float = 0.0  # of every output
    n_outputs: int = 1  # each with noise of its own; the reward is their sum

    @property
    def reward_noise(self) -> float:
        """Standard deviation of η."""
        return self.output_noise * math.sqrt(self.n_outputs)


def spectral_radius(A: np.ndarray) -> float:
    """Return ρ(A), the largest modulus of an eigenvalue: a leading one may be negative or complex."""
    return float(np.abs(np.linalg.eigvals(A)).max())


def cumulative_markov(system: LinearSystem) -> np.ndarray:
    """Return h = θ + Bᵀ(I − A)^{-T} ω (d,): J(u) = <h, u> is the long-run mean reward of repeating u forever."""
    identity = np.eye(len(system.A))
    h: np.ndarray = system.theta + system.B.T @ np.linalg.solve((identity - system.A).T, system.omega)
    return h


def polytope_vertices(matrix: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Return the vertices (K, d) of {v: matrix v ≤ bound} in lexicographic order.

    Every vertex solves d independent constraints with equality; for the d of a bandit all subsets can be tried.
    """
    d, found = matrix.shape[1], []
    for rows in map(list, combinations(range(len(matrix)), d)):
        if abs(np.linalg.det(matrix[rows])) > 1e-12:
            vertex = np.linalg.solve(matrix[rows], bound[rows])
            if np.all(matrix @ vertex <= bound + 1e-9):
                found.append(np.round(vertex, 12) + 0.0)  # + 0: no negative zeros
    return np.unique(np.array(found).reshape(-1, d), axis=0)


# --- from a description -----------------------------------------------------------------------------------------------


def make_system(description: Mapping[str, Any]) -> LinearSystem:
    """Return the system with matrices A, B and either omega, theta or C, D (and output weights, all 1 by default).

    ω = Cᵀ·weights and θ = Dᵀ·weights. `ValueError` for what is missing, of another shape, not finite or unstable.
    """
    given = {name: description.get(name) for name in ("A", "B", "omega", "theta", "C", "D", "weights")}
    A, B = (_array(name, given[name], 2) for name in ("A", "B"))
    n, d = len(A), B.shape[1]
    _require(A.shape == (n, n), f"A is {_shape(A)}; it must be square")
    _require(len(B) == n, f"B is {_shape(B)}, but A is {_shape(A)}: they need as many rows")
    omega, theta = _outputs(given)
    _require(len(omega) == n, f"omega (or C) reads {len(omega)} states, but A has {n}")
    _require(len(theta) == d, f"theta (or D) reads {len(theta)} actions, but B has {d} columns")
    rho = spectral_radius(A)
    _require(rho < 1, f"A has spectral radius {rho:.6g}; the system is unstable unless it is below 1")
    return LinearSystem(A, B, omega, theta, *_noise(description))


def _outputs(given: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    if given["C"] is None and given["D"] is None:
        _require(given["weights"] is None, "weights go with C and D")
        return _array("omega", given["omega"], 1), _array("theta", given["theta"], 1)
    _require(given["omega"] is None and given["theta"] is None, "give omega and theta, or C and D, not both")
    C, D = (_array(name, given[name], 2) for name in ("C", "D"))
    _require(len(C) == len(D), f"C is {_shape(C)} and D is {_shape(D)}: they need as many rows (outputs)")
    weights = np.ones(len(C)) if given["weights"] is None else _array("weights", given["weights"], 1)
    _require(len(weights) == len(C), f"{len(weights)} weights for {len(C)} outputs")
    return C.T @ weights, D.T @ weights


def _noise(description: Mapping[str, Any]) -> tuple[float, float, int]:
    common = description.get("noise")
    levels = []
    for name in ("state_noise", "output_noise"):
        value = description.get(name)
        level = float(0.0 if common is None else common) if value is None else float(value)
        _require(math.isfinite(level) and level >= 0, f"{name} is {level}; a standard deviation is at least 0")
        levels.append(level)
    outputs = int(description.get("n_outputs") or 1)
    _require(outputs >= 1, f"n_outputs is {outputs}; it must be at least 1")
    return levels[0], levels[1], outputs


def make_actions(description: Mapping[str, Any], d: int) -> np.ndarray | float:
    """Return the table (K, d) of `actions`, the vertices of `polytope`, or the radius of `ball`: one must be given.

    A polytope is {matrix, bound}: {v: matrix v ≤ bound}. A linear J is largest at a vertex, so no other point is kept.
    """
    kinds = [name for name in ("actions", "polytope", "ball") if description.get(name) is not None]
    _require(len(kinds) == 1, f"give one of actions, polytope and ball, not {' and '.join(kinds) or 'none'}")
    if kinds == ["ball"]:
        radius = float(description["ball"])
        _require(math.isfinite(radius) and radius > 0, f"ball is {radius}; a radius is positive")
        return radius
    table = _table(kinds[0], description[kinds[0]])
    _require(table.shape[1] == d, f"{kinds[0]} have {table.shape[1]} components, but B has {d} columns")
    points = len(np.unique(table, axis=0))
    _require(points >= 2, f"{kinds[0]} hold {points} distinct point(s); there is nothing to choose from")
    return table


def _table(kind: str, value: Any) -> np.ndarray:
    if kind == "actions":
        return _array("actions", value, 2)
    known = isinstance(value, Mapping) and set(value) == {"matrix", "bound"}
    _require(known, "polytope needs matrix and bound: {v: matrix v <= bound}")
    matrix, bound = _array("polytope.matrix", value["matrix"], 2), _array("polytope.bound", value["bound"], 1)
    _require(len(matrix) == len(bound), f"polytope has {len(matrix)} rows in matrix and {len(bound)} in bound")
    box = np.vstack([np.eye(matrix.shape[1]), -np.eye(matrix.shape[1])])
    directions = polytope_vertices(np.vstack([matrix, box]), np.concatenate([np.zeros(len(matrix)), np.ones(len(box))]))
    _require(not directions.any(), "polytope is unbounded; add rows to matrix and bound")
    return polytope_vertices(matrix, bound)


def _array(name: str, value: Any, dims: int) -> np.ndarray:
    _require(value is not None, f"{name} is missing; a system needs A, B and either omega, theta or C, D")
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not a {'matrix' if dims == 2 else 'vector'} of numbers") from error
    _require(array.ndim == dims and array.size > 0, f"{name} is {_shape(array)}; expected {dims} dimension(s)")
    _require(bool(np.isfinite(array).all()), f"{name} holds numbers that are not finite")
    return array


def _shape(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape)) if array.size else "empty"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


# --- repeating an action ----------------------------------------------------------------------------------------------


class RepeatDistribution(NamedTuple):
    """Distribution of (x_{L+1}, y_L, y_1 + … + y_{L-1}) given x_1, u repeated: state·x + action·u + noise·N(0, I)."""

    state: np.ndarray  # (n + 2, n)
    action: np.ndarray  # (n + 2, d)
    noise: np.ndarray  # (n + 2, n + 2)


def repeat_distribution(system: LinearSystem, rounds: int) -> RepeatDistribution:
    """Return the exact Gaussian distribution of an epoch of `rounds` rounds: no inner round is simulated, eq. (5.2).

    The recursion is run once on matrices: rows of x as functions of x_1, of u and of every noise number.
    """
    A, B, omega, theta = system.A, system.B, system.omega, system.theta
    n, d = B.shape
    columns = n + d + rounds * (n + 1)
    x = np.eye(n, columns)  # x_1; then d columns for u, then (ε_t, η_t) of every round
    u = np.eye(d, columns, n)
    y, earlier = np.zeros(columns), np.zeros(columns)
    for t in range(rounds):
        earlier = earlier + y
        first = n + d + t * (n + 1)
        eta = np.eye(1, columns, first + n)[0]
        y = omega @ x + theta @ u + system.reward_noise * eta  # the reward is read before the state moves
        x = A @ x + B @ u + system.state_noise * np.eye(n, columns, first)
    rows = np.vstack([x, y, earlier])
    return RepeatDistribution(rows[:, :n], rows[:, n : n + d], _square_root(rows[:, n + d :]))


def _square_root(factor: np.ndarray) -> np.ndarray:
    """Return a lower-triangular F with F Fᵀ = factor factorᵀ; unlike Cholesky's, it may be singular (L = 1)."""
    triangle = np.asarray(np.linalg.qr(factor.T, mode="r")).T
    square = np.zeros((len(factor), len(factor)))
    square[:, : triangle.shape[1]] = triangle * np.where(np.diag(triangle) < 0, -1.0, 1.0)
    return square
