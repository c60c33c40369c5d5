"""Deep IWOCS on InvertedPendulum with two unknown masses, nominal and randomised SAC, and its ablations.

    python benchmarks/iwocs.py [--jobs iwocs/3 nominal/3 …]

What should come out: docs/derivations/iwocs.md E18 and E19. A job is METHOD/SEED. All but `iwocs-longer` have the
steps and updates of `iwocs --preset demo`, here `iwocs-goes-on-again`, chosen on seeds 0 to 2, and play on the same
closed 5 x 5 grid, 5 episodes per point from seeds that no training saw (as `robust_baselines.py` plays its own). Each
adds its own entry to benchmarks/results/iwocs.json and leaves the others. All but those that go on end where the worst
model repeats, as the demo did when they were measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tyro
from record import results_of
from robust_baselines import Method, measure

from surefoot.agents.iwocs import THRESHOLDS

NAME = "iwocs"
SEEDS = (3, 4, 5, 6, 7)
PUBLISHED: dict[str, Any] = {
    "thresholds": THRESHOLDS,
    "threshold_by": "worst",
    "error_quantile": None,
    "gate_memory": 0.0,
    "gate_choice": "pessimistic",
}
ENDS: dict[str, Any] = {"prolong": 0, "on_repeat": "end", "threshold_ties": "largest"}  # the demo before it went on
MAIN = {
    "iwocs-goes-on-again": Method("iwocs"),
    "iwocs": Method("iwocs", ENDS),
    "dr-sac": Method("sac", preset="iwocs-demo-randomised"),
    "nominal": Method("sac", preset="iwocs-demo-nominal"),
    "iwocs-as-published": Method("iwocs", ENDS | PUBLISHED),
}
PUBLISHED_GRID: dict[str, Any] = {"grid_n": 10, "grid_closed": False}  # is searched, too
LONGER: dict[str, Any] = {"gate_first": "searched", "iterations": 18}
METHODS = MAIN | {
    "iwocs-goes-on-again-published-grid": Method("iwocs", PUBLISHED_GRID),
    "iwocs-first-published-grid": Method("iwocs", PUBLISHED_GRID | {"gate_first": "searched"}),
    "iwocs-longer": Method("iwocs", PUBLISHED_GRID | LONGER, steps=196_000),
    "iwocs-goes-on": Method("iwocs", {"threshold_ties": "largest"}),
    "iwocs-goes-on-searched-first": Method("iwocs", {"threshold_ties": "largest", "gate_first": "searched"}),
    "iwocs-goes-on-middle": Method("iwocs", {"threshold_ties": "middle"}),
    "iwocs-prolonged": Method("iwocs", ENDS | {"prolong": 2}),
    "iwocs-without-memory": Method("iwocs", ENDS | {"gate_memory": 0.0}),
    "iwocs-pessimistic": Method("iwocs", ENDS | {"gate_choice": "pessimistic"}),
    "iwocs-default-first": Method("iwocs", ENDS | {"gate_first": "default"}),
    "iwocs-threshold-by-worst": Method("iwocs", ENDS | {"threshold_by": "worst"}),
    "iwocs-without-gate": Method("iwocs", ENDS | {"thresholds": (math.inf,)}),
    "iwocs-any-next-model": Method("iwocs", ENDS | {"next_model": "random"}),
    "iwocs-soft-critic": Method("iwocs", ENDS | PUBLISHED | {"gate_critic": "soft"}),
}


@dataclass
class Options:
    """What to run."""

    jobs: tuple[str, ...] = tuple(f"{method}/{seed}" for some in (MAIN, METHODS) for seed in SEEDS for method in some)
    """METHOD/SEED."""


def main(options: Options) -> None:
    jobs = tuple(dict.fromkeys(options.jobs))
    seeds = {int(job.split("/")[1]) for job in (*results_of(NAME), *jobs)}
    measure(NAME, METHODS, jobs, seeds=sorted(seeds))


if __name__ == "__main__":
    main(tyro.cli(Options))
