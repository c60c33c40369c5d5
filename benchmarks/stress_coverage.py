"""Whether the interval of a worst case covers it: stress tests of synthetic policies whose worst case is known.

A synthetic policy is a return by formula: a slope and up to three dips over a box of one to three parameters, whose
least value a fine search with derivatives finds, and noise of one of three kinds: normal, wider where the return is
low; skewed, as of an exponential; and falls, where an episode ends at a random time with a probability that grows as
the mean return sinks. The whole of `surefoot stress` runs on each but for the simulator: curves, maps, grid, CMA-ES,
finalists, fresh seeds.

    python benchmarks/stress_coverage.py [--policies 200] [--budget 2000]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tyro
from record import record

from surefoot.envs import Parameter, UncertaintySet
from surefoot.evaluation.stress.measure import Nominal, stress_set
from surefoot.evaluation.stress.plan import make_plan
from surefoot.evaluation.stress.search import crossed, reset_seeds
from surefoot.evaluation.stress.statistics import Episodes, threshold

NOISES = ("normal", "skewed", "falls")
TOP = 1000.0  # about the nominal return


class Synthetic(NamedTuple):
    """A policy by formula in the unit box of d parameters."""

    slope: np.ndarray  # (d,)
    centres: np.ndarray  # (K, d) of the dips
    depths: np.ndarray  # (K,)
    widths: np.ndarray  # (K,)
    noise: str

    def mean(self, points: np.ndarray) -> np.ndarray:
        """Return the mean returns (P,) at the points (P, d)."""
        square = np.square(points[:, None] - self.centres).sum(2)
        dips = (self.depths * np.exp(-square / (2 * self.widths**2))).sum(1)
        means: np.ndarray = TOP + points @ self.slope - dips
        return means

    def play(self, points: np.ndarray, seeds: Sequence[int]) -> Episodes:
        """Return an episode (J,) at each point; the same seed at the same point gives the same one."""
        mean = self.mean(points)
        draws = np.random.default_rng([int(np.sum(seeds)) % 2**32, len(seeds)]).random((2, len(seeds)))
        none = np.zeros(len(seeds), bool)
        if self.noise == "normal":
            normal = np.sqrt(-2 * np.log(1 - draws[0])) * np.cos(2 * np.pi * draws[1])
            return Episodes(mean + normal * (20 + 0.2 * np.maximum(TOP - mean, 0)), none, none)
        if self.noise == "skewed":
            return Episodes(mean + 120 * (1 + np.log(1 - draws[0])), none, none)
        fell = draws[0] < np.clip((TOP - mean) / (1.5 * TOP), 0.02, 0.9)
        share = np.clip((TOP - mean) / (1.5 * TOP), 0.02, 0.9)
        whole = mean / (1 - share / 2)  # a fall keeps half of it on average, so that the mean is the mean
        return Episodes(np.where(fell, whole * draws[1], whole), fell, none)


def draw_policy(generator: np.random.Generator, dims: int, noise: str) -> Synthetic:
    """Return a random policy; its dips are a fifth of the box wide or more: narrower ones are found by luck alone."""
    count = int(generator.integers(1, 4))
    return Synthetic(
        generator.normal(0, 40, dims),
        generator.random((count, dims)),
        generator.uniform(100, 700, count),
        generator.uniform(0.2, 0.5, count),
        noise,
    )


def true_worst(policy: Synthetic) -> float:
    """Return the least mean in the box: the lowest of many starts, each refined on ever finer grids around it."""
    dims = policy.centres.shape[1]
    generator = np.random.default_rng(0)
    starts = np.concatenate([policy.centres, generator.random((4000, dims)), _corners(dims)])
    best = starts[np.argsort(policy.mean(starts))[:8]]
    for width in np.geomspace(0.2, 1e-5, 30):
        near = np.clip(best[:, None] + width * generator.uniform(-1, 1, (1, 100, dims)), 0, 1)
        near = np.concatenate([best[:, None], near], 1)
        means = policy.mean(near.reshape(-1, dims)).reshape(len(best), -1)
        best = near[np.arange(len(best)), means.argmin(1)]
    return float(policy.mean(best).min())


def _corners(dims: int) -> np.ndarray:
    return np.stack(np.meshgrid(*[[0.0, 1.0]] * dims, indexing="ij"), -1).reshape(-1, dims)


def stress_one(policy: Synthetic, budget: int, seed: int) -> dict[str, Any]:
    """Return the truth and what a stress test says of it."""
    dims = policy.centres.shape[1]
    box = UncertaintySet("unit", "none", tuple(Parameter(f"p{k}", 0.0, 1.0, 0.5) for k in range(dims)))
    plan = make_plan(budget, [box])
    play: Callable[..., Episodes] = policy.play
    centre = np.full(dims, 0.5)
    episodes = crossed(play, centre[None], reset_seeds("nominal", plan.nominal, seed)).at(0)
    nominal = Nominal(episodes, threshold(float(episodes.returns.mean())))
    found = stress_set(play, box, centre, plan.sets[0], nominal, seed=seed)["worst"]
    truth = true_worst(policy)
    low, high = found["interval"]
    at = policy.mean(np.array([list(found["at"].values())]))[0]
    return {
        "dims": dims,
        "noise": policy.noise,
        "truth": truth,
        "covered": bool(low <= truth <= high),
        "covered_by_search": bool(abs(found["lowest_of_search"] - truth) <= (high - low) / 2),
        "half_width": (high - low) / 2,
        "gap": float(at - truth),
        "error": found["mean"] - truth,
        "error_of_search": found["lowest_of_search"] - truth,
    }


def coverage(policies: int, budget: int, seed: int = 0) -> dict[str, Any]:
    """Return the share of policies whose worst case lies in its interval, in all and by kind."""
    generator = np.random.default_rng(seed)
    kinds = [(dims, noise) for noise in NOISES for dims in (1, 2, 3)]
    drawn = [draw_policy(generator, *kinds[i % len(kinds)]) for i in range(policies)]
    found = [stress_one(policy, budget, 10_000_000 * (i + 1)) for i, policy in enumerate(drawn)]

    def share(name: str, **wanted: Any) -> float:
        mine = [one[name] for one in found if all(one[key] == value for key, value in wanted.items())]
        return round(float(np.mean(mine)), 4)

    return {
        "policies": policies,
        "budget": budget,
        "covered": share("covered"),
        "by_noise": {noise: share("covered", noise=noise) for noise in NOISES},
        "by_parameters": {str(dims): share("covered", dims=dims) for dims in (1, 2, 3)},
        "mean_half_width": share("half_width"),
        "mean_gap": share("gap"),
        "mean_error": share("error"),
        "least_mean_of_the_search": {"covered": share("covered_by_search"), "mean_error": share("error_of_search")},
    }


def main(policies: int = 200, budget: int = 2000, seeds: tuple[int, ...] = (0, 1, 2, 3, 4)) -> None:
    """Stress `policies` synthetic policies from each seed, and record how often the interval holds the truth."""
    began = time.perf_counter()
    figures = {"by_seed": {str(seed): coverage(policies, budget, seed) for seed in seeds}}
    figures["covered"] = {seed: one["covered"] for seed, one in figures["by_seed"].items()}
    record("stress_coverage", figures, began=began, seeds=list(seeds))


if __name__ == "__main__":
    tyro.cli(main)
