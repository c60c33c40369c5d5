"""Whether the interval of a worst case covers it: stress tests of synthetic policies whose worst case is known.

A synthetic policy is a return by formula: a slope and up to three dips over a box of one to three parameters, with or
without a cliff across it, whose least value a fine search finds, and noise of one of three kinds: normal, wider where
the return is low; skewed, as of an exponential; and falls, where an episode ends at a random time with a probability
that grows as the mean return sinks. The whole of `surefoot stress` runs on each but for the simulator: curves, maps,
grid, CMA-ES, finalists, fresh seeds.

    python benchmarks/stress_coverage.py [--policies 200] [--budget 2000]          # minutes
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from record import record

from surefoot.envs import Parameter, UncertaintySet
from surefoot.evaluation.stress.measure import stress_set
from surefoot.evaluation.stress.nominal import Nominal
from surefoot.evaluation.stress.plan import make_plan
from surefoot.evaluation.stress.search import crossed, reset_seeds
from surefoot.evaluation.stress.statistics import Episodes, mean_interval, threshold

NOISES = ("normal", "skewed", "falls")
SHAPES = ("dips", "cliff")
DIMS = (1, 2, 3)
TOP = 1000.0  # about the nominal return


class Synthetic(NamedTuple):
    """A policy by formula in the unit box of d parameters."""

    slope: np.ndarray  # (d,)
    centres: np.ndarray  # (K, d) of the dips
    depths: np.ndarray  # (K,)
    widths: np.ndarray  # (K,)
    across: np.ndarray  # (d,) from the top of the cliff to its foot; zero: there is none
    edge: float  # of the cliff, along that
    drop: float
    steepness: float  # how much of the box it takes
    noise: str

    def mean(self, points: np.ndarray) -> np.ndarray:
        """Return the mean returns (P,) at the points (P, d)."""
        square = np.square(points[:, None] - self.centres).sum(2)
        dips = (self.depths * np.exp(-square / (2 * self.widths**2))).sum(1)
        behind = (points @ self.across - self.edge) / self.steepness
        cliff = self.drop / (1 + np.exp(-np.clip(behind, -50, 50)))
        means: np.ndarray = TOP + points @ self.slope - dips - cliff
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


def draw_policy(generator: np.random.Generator, dims: int, noise: str, shape: str = "dips") -> Synthetic:
    """Return a random policy; its dips are a fifth of the box wide or more: narrower ones are found by luck alone.

    A cliff crosses the box within a tenth of its middle, over a hundredth to a twentieth of its width.
    """
    count = int(generator.integers(1, 4))
    across = generator.normal(0, 1, dims)
    across /= np.linalg.norm(across)
    return Synthetic(
        generator.normal(0, 40, dims),
        generator.random((count, dims)),
        generator.uniform(100, 700, count) * (0.3 if shape == "cliff" else 1.0),
        generator.uniform(0.2, 0.5, count),
        across,
        float(across.sum() / 2 + generator.uniform(-0.1, 0.1)),
        float(generator.uniform(200, 700)) if shape == "cliff" else 0.0,
        float(generator.uniform(0.01, 0.05)),
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
    below, above = mean_interval(np.array(found["returns"])) or (low, high)
    at = policy.mean(np.array([list(found["at"].values())]))[0]
    return {
        "dims": dims,
        "noise": policy.noise,
        "shape": "cliff" if policy.drop else "dips",
        "truth": truth,
        "low": low,
        "high": high,
        "covered": bool(low <= truth <= high),
        "covered_by_mean": bool(below <= truth <= above),
        "covered_by_search": bool(abs(found["lowest_of_search"] - truth) <= (above - below) / 2),
        "width_of_mean": above - below,
        "gap": float(at - truth),
        "error_of_search": found["lowest_of_search"] - truth,
    }


def coverage(policies: int, budget: int, seed: int = 0) -> dict[str, Any]:
    """Return the share of policies whose worst case lies in its interval, in all and by kind."""
    generator = np.random.default_rng(seed)
    kinds = [(dims, noise, shape) for noise in NOISES for shape in SHAPES for dims in DIMS]
    drawn = [draw_policy(generator, *kinds[i % len(kinds)]) for i in range(policies)]
    found = [stress_one(policy, budget, 10_000_000 * (i + 1)) for i, policy in enumerate(drawn)]
    return {
        "policies": policies,
        "budget": budget,
        **_figures(found),
        "by_noise": {noise: _figures(found, noise=noise) for noise in NOISES},
        "by_shape": {shape: _figures(found, shape=shape) for shape in SHAPES},
        "by_parameters": {str(dims): _figures(found, dims=dims) for dims in DIMS},
        "mean_only": _share(found, "covered_by_mean"),
        "least_mean_of_the_search": _share(found, "covered_by_search"),
    }


def _figures(found: Sequence[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """Return coverage, misses and widths of the policies of a kind; their nominal returns are about 1000."""
    mine = [one for one in found if all(one[key] == value for key, value in wanted.items())]
    return {
        "covered": _share(mine, "covered"),
        "truth_below": sum(one["truth"] < one["low"] for one in mine),
        "truth_above": sum(one["truth"] > one["high"] for one in mine),
        "median_width": round(float(np.median([one["high"] - one["low"] for one in mine])), 1),
        "median_width_of_mean": round(float(np.median([one["width_of_mean"] for one in mine])), 1),
        "median_gap": round(float(np.median([one["gap"] for one in mine])), 1),
    }


def _share(found: Sequence[dict[str, Any]], name: str) -> float:
    return round(float(np.mean([one[name] for one in found])), 4)


def main(policies: int = 200, budget: int = 2000, seed: int = 1) -> None:
    """Stress `policies` synthetic policies, and record how often the interval holds the truth."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    record("stress_coverage", coverage(policies, budget, seed), began=began, seeds=[seed])


if __name__ == "__main__":
    tyro.cli(main)
