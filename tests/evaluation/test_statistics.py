"""Aggregates against hand-worked cases and against SciPy."""

import numpy as np
import pytest
import scipy.stats
import torch

from surefoot.agents.distributional.distributions import lower_cvar
from surefoot.evaluation.statistics import (
    cvar,
    iqm,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_iqm_of_hand_worked_cases():
    assert iqm(np.array([100.0, 1, 2, -50])) == 1.5
    assert iqm(np.array([5.0, 1, 9])) == 5  # floor(3 / 4) = 0: nothing is cut
    assert iqm(np.array([7.0])) == 7
    assert iqm(np.arange(8.0)) == 3.5
    np.testing.assert_array_equal(iqm(np.array([[1.0, 100], [2, 1], [3, 2], [4, -50]]), axis=0), [2.5, 1.5])


@pytest.mark.parametrize("n", range(1, 14))
def test_iqm_is_scipys_trimmed_mean(n):
    """The definition of Agarwal et al., and of their library: `trim_mean` at 0.25 of the pooled scores."""
    values = rng(n).normal(size=(3, n))
    np.testing.assert_allclose(iqm(values), scipy.stats.trim_mean(values, 0.25, axis=1))


def test_interval_of_two_runs_is_the_one_that_can_be_enumerated():
    # resampled means of {0, 1}: 0 with 1/4, 1/2 with 1/2, 1 with 1/4
    strata = [np.array([0.0, 1.0])]
    assert stratified_bootstrap(strata, np.mean, generator=rng(), level=0.9) == (0.0, 1.0)
    assert stratified_bootstrap(strata, np.mean, generator=rng(), level=0.4) == (0.5, 0.5)


def test_runs_are_resampled_within_their_task():
    # Runs agree within each task, so nothing can vary; resampling across tasks would.
    strata = [np.array([1.0, 1.0, 1.0]), np.array([5.0, 5.0])]
    assert stratified_bootstrap(strata, np.mean, generator=rng()) == (2.6, 2.6)


def test_a_single_run_has_no_interval():
    assert stratified_bootstrap([np.array([3.0])], generator=rng()) is None
    assert stratified_bootstrap([np.array([3.0, 4.0]), np.array([5.0])], generator=rng()) is None


@pytest.mark.parametrize("statistic", [iqm, np.mean, np.median])
def test_interval_agrees_with_scipys_bootstrap(statistic):
    tasks = [rng(1).normal(0, 1, 10), rng(2).normal(3, 2, 10), rng(3).normal(-1, 1, 8)]

    def pooled(*samples, axis=-1):
        return statistic(np.concatenate(samples, axis=axis), axis=axis)

    oracle = scipy.stats.bootstrap(
        tasks, pooled, method="percentile", n_resamples=40_000, vectorized=True, rng=rng(4), batch=4000
    ).confidence_interval
    ours = stratified_bootstrap(tasks, statistic, generator=rng(5), resamples=40_000)
    np.testing.assert_allclose(ours, oracle, atol=0.03)  # Monte-Carlo error of a 2.5% quantile of 40,000: about 0.01
    assert ours.high - ours.low > 0.5


def test_same_generator_same_interval():
    strata = [rng(6).normal(size=9)]
    assert stratified_bootstrap(strata, generator=rng(7)) == stratified_bootstrap(strata, generator=rng(7))


# --- between methods --------------------------------------------------------------------------------------------------


def test_probability_of_improvement_of_hand_worked_cases():
    x, y = np.array([1.0, 3.0]), np.array([2.0, 3.0])
    # pairs: 1<2, 1<3, 3>2, 3=3: (1 + 1/2) / 4
    assert probability_of_improvement([x], [y], generator=rng()).value == 0.375
    assert probability_of_improvement([x, y], [y, x], generator=rng()).value == 0.5  # 3/8 and 5/8 over the tasks
    assert probability_of_improvement([x], [x], generator=rng()).value == 0.5
    # Resampled: 3/8 of the draws have both runs of x equal, and so on; the extremes 0 and 1 are among them.
    low, high = probability_of_improvement([x], [y], generator=rng(), resamples=20_000, level=0.999).interval
    assert (low, high) == (0.0, 1.0)


def test_a_single_run_of_either_method_has_no_interval():
    alone, several = np.array([1.0]), np.array([2.0, 3.0])
    assert probability_of_improvement([alone], [several], generator=rng()).interval is None
    assert probability_of_improvement([several], [alone], generator=rng()) == (1.0, None)


def test_a_performance_profile_counts_runs_above_each_threshold():
    runs = np.array([1.0, 2.0, 2.0, 5.0])
    np.testing.assert_array_equal(performance_profile(runs, np.array([0.0, 1.0, 2.0, 5.0])), [1, 0.75, 0.25, 0])


def test_cvar_is_the_mean_of_the_worst_fraction():
    assert cvar(np.array([4.0, 1.0, 3.0, 2.0]), 0.5) == 1.5
    assert cvar(np.array([4.0, 1.0, 3.0, 2.0]), 0.375) == pytest.approx((1 + 0.5 * 2) / 1.5)
    assert cvar(np.array([4.0, 1.0]), 1.0) == 2.5


@pytest.mark.parametrize("level", [0.001, 0.1, 0.37, 1.0])
def test_cvar_is_that_of_the_distribution_of_equally_probable_values(level):
    values = np.random.default_rng(0).normal(size=83)
    sample = torch.as_tensor(values)
    assert cvar(values, level) == pytest.approx(
        float(lower_cvar(sample, torch.full_like(sample, 1 / 83), level)), 1e-12
    )
    rows = np.stack([values, values[::-1], values + 1.0])
    np.testing.assert_allclose(cvar(rows, level), [cvar(row, level) for row in rows], rtol=1e-12)
    np.testing.assert_array_equal(cvar(rows.T, level, axis=0), cvar(rows, level))


def rliable():
    """Return rliable's metrics and intervals; it cannot be imported with pandas 3, which an installation may have."""
    try:
        from rliable import library, metrics
    except (ImportError, TypeError):
        pytest.skip("rliable does not import here")
    return library, metrics


def scores():
    """Return the scores of two methods: 8 and 10 runs on 3 tasks, with ties."""
    return rng(11).normal(0.3, 1, (8, 3)).round(1), rng(12).normal(0, 1, (10, 3)).round(1)


def test_statistics_agree_with_rliable():
    library, metrics = rliable()
    x, y = scores()
    assert iqm(x.ravel()) == pytest.approx(metrics.aggregate_iqm(x))
    ours = probability_of_improvement(list(x.T), list(y.T), generator=rng())
    assert ours.value == pytest.approx(metrics.probability_of_improvement(x, y))
    thresholds = np.linspace(-2, 2, 9)
    theirs, _ = library.create_performance_profile({"x": x}, thresholds, reps=10)
    np.testing.assert_allclose(performance_profile(x.ravel(), thresholds), theirs["x"])
    _, intervals = library.get_interval_estimates(
        {"x,y": (x, y)}, lambda a, b: np.array([metrics.probability_of_improvement(a, b)]), reps=500
    )
    np.testing.assert_allclose(ours.interval, intervals["x,y"][:, 0], atol=0.05)
    _, intervals = library.get_interval_estimates({"x": x}, lambda a: np.array([metrics.aggregate_iqm(a)]), reps=2000)
    np.testing.assert_allclose(stratified_bootstrap(list(x.T), generator=rng()), intervals["x"][:, 0], atol=0.08)


def test_statistics_are_what_rliable_gave():
    """rliable 1.2.0 on `scores()`, with pandas 2: kept for where it cannot be imported."""
    x, y = scores()
    assert iqm(x.ravel()) == pytest.approx(0.3666666666666667)
    found = probability_of_improvement(list(x.T), list(y.T), generator=rng())
    assert found.value == pytest.approx(0.6229166666666667)
