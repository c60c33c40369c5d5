"""Time and accuracy of distributional dynamic programming on the crossing, and of a loop over states and stocks.

    python benchmarks/dvi_speed.py      # 256 atoms, 200 stocks

Seconds are given twice: wall-clock time, and CPU time, which other work on the machine disturbs less. One thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tyro
from record import record

from surefoot.agents.distributional import Solution, solve, stock_grid
from surefoot.agents.distributional.objectives import parse
from surefoot.agents.parts.tabular import TabularMDP
from surefoot.envs import Crossing

# Optima, docs/derivations/distributional.md E10.
TAILS = {"1": 1.18834, "0.75": 0.97440, "0.5": 0.82813, "0.25": 0.74869, "0.1": 0.74869, "0.05": 0.74869}
METHODS = {"dvi, quantiles": ("dvi", "quantiles"), "dpi, quantiles": ("dpi", "quantiles")}
METHODS["dvi, categorical"] = ("dvi", "categorical")
RETURN_RANGE = (-8.0, 4.0)  # of the categories; the least return of an endless walk over the reef is −34


def loop_sweep(mdp: TabularMDP, gamma: float, stocks: np.ndarray, atoms: int) -> None:
    """Do one sweep for min(0, c + G) as in the pseudocode: state by state, stock by stock, action by action."""
    probability, following, reward = (field[0].numpy() for field in (mdp.probability, mdp.next_state, mdp.reward))
    distributions = np.zeros((len(probability), len(stocks), atoms))
    levels, new = (np.arange(atoms) + 0.5) / atoms, np.empty_like(distributions)
    for s in range(len(distributions)):
        for i, c in enumerate(stocks):
            best = -np.inf
            for a in range(probability.shape[1]):
                near = [np.abs(stocks - (c + r) / gamma).argmin() for r in reward[s, a]]
                distribution = [
                    r + gamma * distributions[s2, j]
                    for r, s2, j in zip(reward[s, a], following[s, a], near, strict=True)
                ]
                values = np.concatenate(distribution)
                weights = np.repeat(probability[s, a] / atoms, atoms)
                if (worth := weights @ np.minimum(0, c + values)) > best:
                    order, best = values.argsort(), worth
                    reached = weights[order].cumsum()
                    new[s, i] = values[order][np.searchsorted(reached, levels - 1e-12).clip(max=len(order) - 1)]


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return what the work gave, and its wall-clock and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return result, {name: round(value, 3) for name, value in seconds.items()}


def figures_of(solution: Solution) -> dict[str, list[float]]:
    """Return, a τ: the optimum, J at the best stock, and the CVaR of the distribution found."""
    found = {tau: solution.again(f"cvar({tau})") for tau in TAILS}
    return {tau: [TAILS[tau], round(float(one.scores.max()), 5), round(one.value, 5)] for tau, one in found.items()}


@dataclass
class Options:
    """What to time."""

    atoms: int = 256
    stocks: int = 200


def main(options: Options) -> None:
    torch.set_num_threads(1)
    began, mdp, gamma = time.perf_counter(), TabularMDP(*Crossing().tabular()), Crossing.discount
    shared: dict[str, Any] = {"gamma": gamma, "atoms": options.atoms, "stocks": options.stocks}
    rows, cells = {}, {}
    for name, (method, representation) in METHODS.items():
        arguments = shared | {"method": method, "representation": representation, "return_range": RETURN_RANGE}
        solution, seconds = timed(lambda arguments=arguments: solve(mdp, "cvar(1)", **arguments))
        cells[name] = figures_of(solution)
        rows[name] = {**seconds, "sweeps": solution.sweeps, "change": solution.change}
    stocks = solution.stocks
    _, loop = timed(lambda: loop_sweep(mdp, gamma, stocks.numpy(), options.atoms))
    sweep = rows["dvi, quantiles"]["cpu_seconds"] / rows["dvi, quantiles"]["sweeps"]
    fine = torch.arange(-4, 3, 0.002, dtype=torch.float64)
    worth, scalar = timed(lambda: stock_grid.scalar_recursion(mdp, parse("cvar(1)"), gamma, fine))
    best = {tau: float(parse(f"cvar({tau})").score(fine, mdp.start @ worth).max()) for tau in TAILS}
    figures = {
        "task": "surefoot/Crossing-v0",
        **shared,
        "needs_mb": round(
            stock_grid.memory_bytes(stock_grid.make_rows(mdp), 20, options.stocks, options.atoms, None, "dvi") / 1e6
        ),
        "methods": rows,
        "cvar": cells,
        "loop_sweep": {**loop, "times_ours": round(loop["cpu_seconds"] / sweep, 1)},
        "scalar_recursion": {
            **scalar,
            "stocks": len(fine),
            "cvar": {tau: round(value, 5) for tau, value in best.items()},
        },
    }
    record("dvi_speed", figures, began=began, seeds=[0])


if __name__ == "__main__":
    main(tyro.cli(Options))
