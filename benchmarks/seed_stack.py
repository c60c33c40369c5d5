"""Several seeds in one process: one stacked update for all of them against each agent's own, in turn, on one thread.

What is timed is whole steps, one update each: acting, the environment, replay and the update. Seeds in turn are what so
many runs of one seed do, but for the start of their processes. CPU seconds, so that other work on the machine counts as
little as it can.

    python benchmarks/seed_stack.py [--cases "sac, 256 units"] [--rounds 7]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from engine_speed import Case, make
from record import record_job

from surefoot.agents.parts.seeds import SeedStack
from surefoot.training.loop.process import quick_process

SMALL = {"hidden": (64, 64), "batch_size": 64}
CASES = {
    "sac, 256 units, batch 256, HalfCheetah": Case("sac", {}, 10),
    "sac, 64 units, batch 64, Pendulum": Case("sac", SMALL, 50, "surefoot/Pendulum-v0"),
    "h2o, 256 units, HalfCheetah": Case("h2o", {}, 4),
}


@dataclass
class Options:
    """What to time."""

    cases: tuple[str, ...] = tuple(CASES)
    seeds: tuple[int, ...] = (1, 4, 8)
    rounds: int = 7


def in_turn(case: Case, seeds: int) -> Callable[[], float]:
    """Return what makes some updates of each seed, one agent after the other, and returns updates per CPU second."""
    agents = [make(case, "native", seed) for seed in range(seeds)]
    return _timed(case, seeds, lambda: sum(agent.step().updates for agent in agents))


def stacked(case: Case, seeds: int) -> Callable[[], float]:
    """Return what makes them as one update for all."""
    agents = [make(case, "native", seed) for seed in range(seeds)]
    stack = SeedStack(agents)
    return _timed(case, seeds, lambda: sum(p.updates for p in stack.update([agent.gather() for agent in agents])))


def _timed(case: Case, seeds: int, step: Callable[[], int]) -> Callable[[], float]:
    def run() -> float:
        began, done = time.process_time(), 0
        while done < case.updates * seeds:
            done += step()
        return done / (time.process_time() - began)

    run()  # warm-up, with the steps before the first update
    return run


def compare(case: Case, seeds: int, rounds: int) -> dict[str, Any]:
    """Return updates per CPU second of all seeds together, and the ratio of each round."""
    ways = in_turn(case, seeds), stacked(case, seeds)
    found = [[way() for way in (ways if i % 2 else ways[::-1])][:: 1 if i % 2 else -1] for i in range(rounds)]
    ratios = sorted(stack / turn for turn, stack in found)
    turns, stacks = (statistics.median(column) for column in zip(*found, strict=True))
    spread = {"ratio": statistics.median(ratios), "low": ratios[0], "high": ratios[-1]}
    rates = {"in_turn": round(turns, 1), "stacked": round(stacks, 1)}
    return {"seeds": seeds} | rates | {name: round(value, 2) for name, value in spread.items()}


def main(options: Options) -> None:
    torch.set_num_threads(1)
    with quick_process():
        for name in options.cases:
            began = time.perf_counter()
            figures = [compare(CASES[name], seeds, options.rounds) for seeds in options.seeds]
            record_job("seed_stack", name, figures, began=began, seeds=list(range(max(options.seeds))))


if __name__ == "__main__":
    main(tyro.cli(Options))
