"""IWOCS without neural networks: a pendulum of unknown mass and length is swung up by planning on a grid of states.

Everything but the static solver is the deep agent's own: composite, gate, thresholds, search, the best of the path.
Values are exact up to the grid (value iteration), predictors are the models themselves. Nominal, the optimum of the
uniform mixture of all models (the default policy), and IWOCS from its worst model on, with the gate and without. The
set-up is docs/derivations/iwocs.md §7.5, what should come out is E17.

    python benchmarks/iwocs_swing_up.py [--states 31 41]
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import tyro
from record import record
from torch import Tensor

from surefoot.agents.iwocs import THRESHOLDS, Composite, Specialist, best_threshold
from surefoot.agents.iwocs.search import grid_search, minimise
from surefoot.envs import Pendulum
from surefoot.envs.tasks.pendulum import MAX_SPEED, MAX_TORQUE

LOW, HIGH, NOMINAL = (0.5, 0.7), (1.5, 1.3), (1.0, 1.0)  # mass, length
POINTS = 6  # per parameter, both ends
GAMMA, BACKUPS = 0.95, 400
TORQUES, SUBSTEPS, CONTROLS = 5, 4, 100
STARTS = (math.pi, math.pi - 0.3, math.pi + 0.3)


class PendulumParams(NamedTuple):
    """K pendulums."""

    mass: Tensor  # (K,)
    length: Tensor  # (K,)


class Moved(NamedTuple):
    """What a control held for some substeps did; all of one shape."""

    angle: Tensor
    speed: Tensor
    reward: Tensor  # mean over the substeps


def params_of(points: Tensor) -> PendulumParams:
    """Return the pendulums of points (K, 2)."""
    return PendulumParams(*points.float().unbind(-1))


@cache
def pendulums(count: int) -> Pendulum:
    """Return a task of so many environments; making one takes longer than moving it."""
    return Pendulum(count)


def move(params: PendulumParams, angle: Tensor, speed: Tensor, torque: Tensor) -> Moved:
    """Return what happens; all arguments broadcast, and the parameters' too."""
    shape = torch.broadcast_shapes(params.mass.shape, angle.shape, speed.shape, torque.shape)
    mass, length, angle, speed, torque = (x.expand(shape).flatten() for x in (*params, angle, speed, torque))
    task = pendulums(len(angle))
    task.set_params(torch.stack([mass, length], -1))
    total, state = torch.zeros_like(angle), (angle, speed)
    for _ in range(SUBSTEPS):
        state, reward, _ = task.advance(state, torque[:, None] / MAX_TORQUE)
        total += reward
    return Moved(*(x.view(shape) for x in (*state, total / SUBSTEPS)))


# --- planning ---------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """The optimum of the uniform mixture of some pendulums; of one, that pendulum's own."""

    params: PendulumParams
    q: Tensor  # (n, n, TORQUES) over angles × speeds × torques


def torques() -> Tensor:
    return torch.linspace(-MAX_TORQUE, MAX_TORQUE, TORQUES)


def bilinear(table: Tensor, angle: Tensor, speed: Tensor) -> Tensor:
    """Return a table (n, n, …) over angles × speeds, read between its nodes at states (N); angles go around."""
    n = len(table)
    x = torch.remainder(angle + math.pi, 2 * math.pi) / (2 * math.pi) * n
    y = (speed + MAX_SPEED) / (2 * MAX_SPEED) * (n - 1)
    i, j = x.floor().long().clamp(max=n - 1), y.floor().long().clamp(0, n - 2)
    a, b = ((z - k).view(-1, *[1] * (table.dim() - 2)) for z, k in ((x, i), (y, j)))
    around = (i + 1) % n
    near, far = ((1 - b) * table[k, j] + b * table[k, j + 1] for k in (i, around))
    return (1 - a) * near + a * far


def solve(params: PendulumParams, n: int) -> Plan:
    """Return the optimum by value iteration on n angles × n speeds."""
    angles, speeds = (2 * torch.arange(n) / n - 1) * math.pi, torch.linspace(-MAX_SPEED, MAX_SPEED, n)
    nodes = torch.cartesian_prod(angles, speeds)
    each = PendulumParams(*(x.view(-1, 1, 1) for x in params))
    moved = move(each, nodes[:, :1], nodes[:, 1:], torques())  # (K, n², TORQUES)
    values = torch.zeros(n, n)
    for _ in range(BACKUPS):
        later = bilinear(values, moved.angle.flatten(), moved.speed.flatten()).view_as(moved.reward)
        q = (moved.reward + GAMMA * later).mean(0)
        values = q.amax(-1).view(n, n)
    return Plan(params, q.view(n, n, -1))


# --- policies ---------------------------------------------------------------------------------------------------------


def observe(angle: Tensor, speed: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin(), speed], -1)


def state_of(obs: Tensor) -> tuple[Tensor, Tensor]:
    return torch.atan2(obs[:, 1], obs[:, 0]), obs[:, 2]


def act_of(plan: Plan) -> Callable[[Tensor], Tensor]:
    """Return the greedy policy, (N, 3) -> (N, 1) in [-1, 1]."""

    def act(obs: Tensor) -> Tensor:
        q = bilinear(plan.q, *state_of(obs))
        return torques()[q.argmax(-1), None] / MAX_TORQUE

    return act


def specialist(plan: Plan, rho: float) -> Specialist:
    """Return what IWOCS keeps of one model: here its predictor is the model itself."""

    def q(obs: Tensor, action: Tensor) -> Tensor:
        which = ((action + 1) / 2 * (TORQUES - 1)).round().long()
        return bilinear(plan.q, *state_of(obs)).gather(1, which).T

    def predict(obs: Tensor, action: Tensor) -> Tensor:
        moved = move(plan.params, *state_of(obs), MAX_TORQUE * action[:, 0])
        return observe(moved.angle, moved.speed)

    return Specialist(act_of(plan), q, predict, rho)


def returns_of(act: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Return, for pendulums (P, 2), the mean undiscounted return over the starts (P,)."""
    params = params_of(points.repeat_interleave(len(STARTS), 0))
    angle = torch.tensor(STARTS).repeat(len(points))
    speed, total = torch.zeros_like(angle), torch.zeros_like(angle)
    never = torch.zeros_like(angle)
    if isinstance(act, Composite):
        act.reset()
    for _ in range(CONTROLS):
        torque = MAX_TORQUE * act(observe(angle, speed))[:, 0]
        angle, speed, reward = move(params, angle, speed, torque)
        total += reward
        if isinstance(act, Composite):
            act.observe(reward, never)
    return total.view(-1, len(STARTS)).mean(1)


# --- the loop ---------------------------------------------------------------------------------------------------------


class SearchResult(NamedTuple):
    """A policy over the grid of pendulums."""

    worst: float
    at: Tensor  # (2,)
    mean: float


def search(act: Callable[[Tensor], Tensor]) -> SearchResult:
    """Return the worst pendulum of the grid for a policy."""
    seen: list[Tensor] = []

    def values_of(points: Tensor) -> Tensor:
        seen.append(returns_of(act, points))
        return seen[-1]

    at, worst = minimise(values_of, grid_search(LOW, HIGH, POINTS, closed=True))
    return SearchResult(worst, at, float(torch.cat(seen).mean()))


class Turn(NamedTuple):
    """One turn of the loop: a model was solved, a threshold chosen and the composite's worst model found."""

    plan: Plan
    rho: float
    found: SearchResult
    fractions: Tensor  # (i + 1,) of the steps of that search, the default's last


def best_composite(plans: Sequence[Plan], rhos: Sequence[float], default: Callable[[Tensor], Tensor]) -> Turn:
    """Return the newest model with the threshold whose worst case is best; the older thresholds `rhos` are frozen."""
    tried = {}
    for rho in THRESHOLDS:
        composite = Composite([specialist(*one) for one in zip(plans, (*rhos, rho), strict=True)], default)
        tried[rho] = Turn(plans[-1], rho, search(composite), composite.fractions)
    return tried[best_threshold([turn.found.worst for turn in tried.values()])]


def iwocs(default: Callable[[Tensor], Tensor], states: int, turns: int = 10) -> tuple[SearchResult, list[Turn], str]:
    """Return what the default policy gets, every turn, and how the loop ended."""
    first = search(default)
    path: list[Turn] = []
    worst = first.at
    for _ in range(turns):
        plans = [turn.plan for turn in path] + [solve(params_of(worst[None]), states)]
        path.append(best_composite(plans, [turn.rho for turn in path], default))
        worst = path[-1].found.at
        if any(torch.equal(worst.float(), torch.cat(turn.plan.params)) for turn in path):
            return first, path, "repeat"
    return first, path, "budget"


# --- what is recorded -------------------------------------------------------------------------------------------------


def measure(states: int) -> dict[str, Any]:
    """Return the table of §10.2 on `states` × `states`."""
    every = grid_search(LOW, HIGH, POINTS, closed=True).ask()
    default = act_of(solve(params_of(every), states))
    first, path, status = iwocs(default, states)
    plans = [turn.plan for turn in path]
    open_gate = [Composite([specialist(p, math.inf) for p in plans[: i + 1]], default) for i in range(len(plans))]
    rows = [{"policy": "nominal", **figures(search(act_of(solve(params_of(torch.tensor([NOMINAL])), states))))}]
    rows.append({"policy": "DR mixture", **figures(first)})
    for i, turn in enumerate(path, 1):
        fractions = [round(fraction, 3) for fraction in turn.fractions.tolist()]
        model = [round(float(x), 4) for x in turn.plan.params]
        rows.append(
            {"policy": f"IWOCS {i}", "model": model, "rho": turn.rho, "fractions": fractions, **figures(turn.found)}
        )
    rows += [{"policy": f"gate off {i}", **figures(search(act))} for i, act in enumerate(open_gate, 1)]
    best = max([first, *(turn.found for turn in path)], key=lambda found: found.worst)
    return {"states": states, "status": status, "best": best.worst, "corners": corner_specialists(states), "rows": rows}


def figures(found: SearchResult) -> dict[str, Any]:
    at = [round(value, 4) for value in found.at.tolist()]
    return {"worst": round(found.worst, 1), "at": at, "mean": round(found.mean, 1)}


def corner_specialists(states: int) -> float:
    """Return the worst of the four corner models' optima in their own models."""
    ends = torch.cartesian_prod(*(torch.tensor(ends) for ends in zip(LOW, HIGH, strict=True)))
    own = [returns_of(act_of(solve(params_of(end[None]), states)), end[None]) for end in ends]
    return round(float(torch.cat(own).min()), 1)


def main(states: tuple[int, ...] = (31, 41)) -> None:
    """Measure and record."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    record("iwocs_swing_up", {"grids": [measure(n) for n in states]}, began=began, seeds=[0])


if __name__ == "__main__":
    tyro.cli(main)
