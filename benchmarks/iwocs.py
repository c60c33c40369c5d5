"""Deep IWOCS on InvertedPendulum with two unknown masses, nominal and randomised SAC, and its ablations.

    python benchmarks/iwocs.py [--jobs iwocs/0 nominal/0 …]

What should come out: docs/derivations/iwocs.md E18 and E19. A job is METHOD/SEED; all have the budget of `iwocs
--preset demo` and are played on the same closed 5 x 5 grid, 5 episodes per point from seeds that no training saw (as
`robust_baselines.py` plays its own). Each adds its own entry to benchmarks/results/iwocs.json and leaves the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import tyro
from robust_baselines import SEEDS, Method, measure

NAME = "iwocs"
METHODS = {
    "nominal": Method("sac", preset="inverted-pendulum-nominal"),
    "dr-sac": Method("dr-sac"),
    "iwocs": Method("iwocs"),
    "iwocs-without-gate": Method("iwocs", {"thresholds": (math.inf,)}),
    "iwocs-any-next-model": Method("iwocs", {"next_model": "random"}),
    "iwocs-soft-critic": Method("iwocs", {"gate_critic": "soft"}),
}


@dataclass
class Options:
    """What to run."""

    jobs: tuple[str, ...] = tuple(f"{method}/{seed}" for seed in SEEDS for method in METHODS)
    """METHOD/SEED."""


def main(options: Options) -> None:
    measure(NAME, METHODS, options.jobs)


if __name__ == "__main__":
    main(tyro.cli(Options))
