"""Exact IWOCS: how often it certifies on random rectangular problems, and its path on the windy walk.

P ~ Dirichlet(0.3) per kernel, R ~ N(0, 1) per state and action, from candidate 0 everywhere (docs/derivations/iwocs.md
§7.4); every certified value is compared with robust value iteration. What should come out: E1 and E4.

    python benchmarks/iwocs_exact.py [--instances 200]
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import tyro
from record import record

from surefoot.agents.iwocs.exact import CandidateModels, iwocs, robust_optimum, stack
from surefoot.agents.parts.tabular import TabularMDP, from_dense
from surefoot.envs import WindyWalk

SIZES = ((5, 2, 3, 0.90), (8, 3, 4, 0.95), (20, 4, 5, 0.95))  # states, actions, kernels, discount


def draw(generator: np.random.Generator, states: int, actions: int, kernels: int) -> CandidateModels:
    moves = torch.from_numpy(generator.dirichlet(0.3 * np.ones(states), size=(states, actions, kernels)))
    reward = torch.from_numpy(generator.normal(size=(states, actions)))
    start = torch.eye(states, dtype=torch.float64)[0]
    return stack([from_dense(start, moves[:, :, k][None], reward[None]) for k in range(kernels)])


def random_problems(instances: int, states: int, actions: int, kernels: int, discount: float) -> dict[str, Any]:
    """Return how the loop ended and how far certified values are from the robust one."""
    generator = np.random.default_rng(0)
    ends, turns, errors = {"certified": 0, "stagnated": 0, "budget": 0}, [], [0.0]
    for _ in range(instances):
        candidates = draw(generator, states, actions, kernels)
        solved = iwocs(candidates, discount, rectangular=True, iterations=10)
        ends[solved.status] += 1
        turns.append(len(solved.path))
        if solved.status == "certified":
            robust = float(robust_optimum(candidates, discount).amax(-1) @ candidates.start)
            errors.append(abs(solved.value - robust))
    problem = {"states": states, "actions": actions, "kernels": kernels, "discount": discount}
    return {**problem, **ends, "mean_turns": np.mean(turns), "most_turns": max(turns), "largest_error": max(errors)}


def windy_walk() -> list[dict[str, Any]]:
    """Return the path from α = 0 and from α = 1/4."""
    alphas = np.linspace(0.0, 0.5, 25)
    candidates = stack([TabularMDP(*WindyWalk(alpha=float(alpha)).tabular()) for alpha in alphas])
    rows = []
    for first in (0, 12):
        solved = iwocs(candidates, WindyWalk.discount, first=first)
        for i, step in enumerate(solved.path):
            model, worst = (alphas[int(choice[0, 0])] for choice in (step.model, step.worst))
            end = solved.status if i == len(solved.path) - 1 else ""
            rows.append({"i": i, "alpha": model, "U": step.upper, "L": step.lower, "worst_alpha": worst, "status": end})
    return rows


def main(instances: int = 200) -> None:
    """Measure and record."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    random = [random_problems(instances, *size) for size in SIZES]
    record(
        "iwocs_exact", {"instances": instances, "random": random, "windy_walk": windy_walk()}, began=began, seeds=[0]
    )


if __name__ == "__main__":
    tyro.cli(main)
