"""Intervals of worst cases hold: on synthetic policies whose worst case is known (benchmarks/stress_coverage.py)."""

import json
from pathlib import Path

import numpy as np
import pytest

from surefoot.evaluation.stress.statistics import mean_interval, skewness_shift
from surefoot.evaluation.stress.surface import _merged, draw_leasts, fit, predict

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def synthetic(load_script):
    return load_script("stress_coverage")


def test_the_known_worst_case_is_the_least_of_a_fine_grid(synthetic):
    generator = np.random.default_rng(3)
    policy = synthetic.draw_policy(generator, 2, "normal")
    axis = np.linspace(0, 1, 401)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    assert synthetic.true_worst(policy) == pytest.approx(policy.mean(grid).min(), abs=0.5)


@pytest.mark.parametrize("shape", ["dips", "cliff"])
@pytest.mark.parametrize("noise", ["normal", "skewed", "falls"])
def test_episodes_of_a_synthetic_policy_have_its_mean(synthetic, noise, shape):
    policy = synthetic.draw_policy(np.random.default_rng(1), 2, noise, shape)
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


def test_the_recorded_intervals_cover_the_known_worst_cases():
    recorded = json.loads((BENCHMARKS / "results" / "stress_coverage.json").read_text())
    assert (recorded["policies"], recorded["dirty"]) == (200, False)
    assert recorded["covered"] >= 0.93
    assert all(one["covered"] >= 0.9 for one in (recorded["by_noise"] | recorded["by_shape"]).values())
    assert recorded["median_width"] < 3 * recorded["median_width_of_mean"]  # not bought by width alone
    assert recorded["mean_only"] < 0.93  # what the search may have missed does matter


@pytest.mark.parametrize("episodes", [40, 270])
def test_ends_of_an_interval_move_the_way_its_returns_are_skewed(episodes):
    generator = np.random.default_rng(0)
    samples = generator.exponential(size=(2000, episodes))
    high = np.array([mean_interval(row).high for row in samples])
    shift = np.array([skewness_shift(row) for row in samples])
    assert (shift > 0).mean() > 0.99
    assert skewness_shift(-samples[0]) == -shift[0]
    assert (high + shift < 1).mean() < 0.8 * (high < 1).mean()  # what skewness makes miss most
    assert skewness_shift(np.full(5, 3.0)) == 0.0


def test_a_surface_takes_its_points_whatever_they_returned():
    generator = np.random.default_rng(0)
    x = generator.random((900, 1)).repeat(2, 1)
    noisy = 100 * generator.standard_normal(900)
    surface = fit(x, noisy, np.ones(900))
    assert abs(predict(surface, x).mean()) < 10  # choosing the lowest, which are the unlucky, would be far below
    points, means, counts = _merged(
        np.array([[0.5, 0.5], [0.501, 0.51], [0.9, 0.9]]), np.array([1.0, 4.0, 7.0]), np.array([2, 1, 5])
    )
    np.testing.assert_allclose(points, [[0.501 / 3 + 1.0 / 3, 0.51 / 3 + 1.0 / 3], [0.9, 0.9]])
    assert (means.tolist(), counts.tolist()) == ([2.0, 7.0], [3.0, 5.0])


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
