"""Intervals of worst cases hold: on synthetic policies whose worst case is known (benchmarks/stress_coverage.py)."""

import sys
from pathlib import Path

import numpy as np
import pytest

from surefoot.evaluation.stress.statistics import mean_interval
from surefoot.evaluation.stress.surface import draw_leasts, fit

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def synthetic(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import stress_coverage

    yield stress_coverage
    sys.modules.pop("stress_coverage", None)


def test_the_known_worst_case_is_the_least_of_a_fine_grid(synthetic):
    generator = np.random.default_rng(3)
    policy = synthetic.draw_policy(generator, 2, "normal")
    axis = np.linspace(0, 1, 401)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    assert synthetic.true_worst(policy) == pytest.approx(policy.mean(grid).min(), abs=0.5)


@pytest.mark.parametrize("noise", ["normal", "skewed", "falls"])
def test_episodes_of_a_synthetic_policy_have_its_mean(synthetic, noise):
    policy = synthetic.draw_policy(np.random.default_rng(1), 2, noise)
    points = np.repeat(np.random.default_rng(2).random((5, 2)), 40_000, axis=0)
    returns = policy.play(points, range(len(points))).returns.reshape(5, -1)
    assert np.abs(returns.mean(1) - policy.mean(points[::40_000])).max() < 8


def test_a_stress_test_finds_and_covers_known_worst_cases(synthetic):
    found = [
        synthetic.stress_one(synthetic.draw_policy(np.random.default_rng(i), 1, noise), 400, 10_000_000 * (i + 1))
        for i, noise in enumerate(synthetic.NOISES)
    ]
    assert sum(one["covered"] for one in found) >= 2
    assert all(one["gap"] < 60 for one in found)
    assert np.mean([one["error_of_search"] for one in found]) < -20  # the luck of a minimum, which is not reported


def test_students_interval_covers_skewed_returns_nearly_as_often_as_it_says():
    generator = np.random.default_rng(0)
    samples = generator.exponential(size=(400, 100))
    covered = [low <= 1 <= high for low, high in map(mean_interval, samples)]
    assert 0.91 <= np.mean(covered) <= 0.98


def test_draws_of_a_surface_spread_over_the_least_value_that_noise_hides():
    generator = np.random.default_rng(0)
    x = generator.random((60, 1))
    truth = np.sin(6 * x[:, 0])  # least, -1, at 0.785
    surface = fit(x, truth + 0.2 * generator.standard_normal(60), np.ones(60))
    least = draw_leasts(surface, 200, generator)
    low, high = np.quantile(least.values, [0.025, 0.975])
    assert low < -1 < high
    assert high - low < 0.5
    assert abs(np.median(least.points) - 0.785) < 0.1
