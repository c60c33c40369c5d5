"""Aggregates against hand-worked cases and against SciPy."""

import numpy as np
import pytest
import scipy.stats

from surefoot.training.statistics import iqm, stratified_bootstrap


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
