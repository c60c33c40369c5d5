"""The statistics of a stress test against SciPy and against answers by hand."""

import numpy as np
import pytest
import scipy.stats

from surefoot.evaluation.stress import statistics as st
from surefoot.training.report.stress import rank_all


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 30, 1000])
@pytest.mark.parametrize("probability", [0.9, 0.975, 0.995])
def test_quantiles_of_student_are_those_of_scipy(freedom, probability):
    tolerance = 0.002 if probability < 0.99 else 0.012
    assert st.t_quantile(probability, freedom) == pytest.approx(scipy.stats.t.ppf(probability, freedom), rel=tolerance)
    assert st.t_quantile(1 - probability, freedom) == pytest.approx(-st.t_quantile(probability, freedom))


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(0).normal(5, 2, 12)
    wanted = scipy.stats.t.interval(0.95, 11, values.mean(), scipy.stats.sem(values))
    np.testing.assert_allclose(st.mean_interval(values), wanted, rtol=1e-3)
    assert st.mean_interval(values[:1]) is None


def test_an_early_end_is_a_failure_only_where_its_return_is_low():
    returns = np.array([100.0, 70.0, 10.0, 5.0, 90.0])
    early, broken = np.array([1, 0, 1, 0, 0], bool), np.array([0, 0, 0, 1, 0], bool)
    episodes = st.Episodes(returns, early, broken)
    found = st.summary(episodes, limit=80.0)
    assert {key: found[key] for key in ("episodes", "ended_early", "ended_early_low", "diverged", "low")} == {
        "episodes": 5,
        "ended_early": 2,  # one at the goal, with the best return of all
        "ended_early_low": 1,
        "diverged": 1,
        "low": 1,
    }
    assert episodes.failed(80.0).tolist() == [False, False, True, True, False]
    assert found["mean"] == 55.0
    assert found["cvar"] == 5.0
    assert found["quantiles"][0] == 5.0
    assert (st.ended_early(found), st.ended_early({"fell": 3})) == (2, 3)  # files of earlier versions say `fell`


def radius(values, means, nominal, nominal_mean, up, spread=0.0):
    returns = np.array(means)[:, None] + spread * np.array([-1.0, 0.0, 1.0])
    generator = np.random.default_rng(0)
    return st.robust_radius(
        np.array(values), returns, nominal, np.full(5, nominal_mean), up=up, generator=generator, resamples=200
    )


def test_the_radius_is_where_a_line_between_tried_values_crosses_eighty_percent():
    values, means = [0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 60.0, 100.0, 100.0, 40.0]
    down, up = (radius(values, means, 2.0, 100.0, side) for side in (False, True))
    assert down.crossed
    assert down.distance == pytest.approx(0.5)  # from 100 at 2 to 60 at 1: 80 half-way
    assert down.value == pytest.approx(1.5)
    assert up.value == pytest.approx(3 + 20 / 60)
    assert down.interval.low == down.interval.high == pytest.approx(0.5)  # no spread, no doubt
    held = radius(values, [100.0] * 5, 2.0, 100.0, True)
    assert (held.crossed, held.value, held.distance) == (False, 4.0, 2.0)
    wide = radius(values, means, 2.0, 100.0, False, spread=30.0)
    assert wide.interval.low < 0.5 < wide.interval.high


def test_the_radius_of_negative_returns_and_of_a_nominal_value_beyond_the_range():
    found = radius([1.0, 2.0], [-110.0, -130.0], 0.0, -100.0, True)
    assert found.value == pytest.approx(1.5)  # a fifth of 100 below -100
    assert radius([1.0, 2.0], [-110.0, -130.0], 0.0, -100.0, False) is None


def test_ranks_have_the_better_first_and_intervals_where_samples_overlap():
    generator = np.random.default_rng(0)
    samples = {"b": np.arange(10.0), "a": np.arange(10.0) + 100, "c": np.arange(10.0) + 0.5}
    found = st.ranks(samples, generator=generator)
    assert found["a"] == (1, 1, 1)
    assert (found["c"].rank, found["b"].rank) == (2, 3)
    assert (found["b"].low, found["b"].high) == (2, 3)


def test_ranks_by_cvar_are_those_of_the_cvar_that_is_shown():
    """Of 14 episodes the worst tenth is 1.4 of them: the second counts in part."""
    samples = {"a": np.array([0.0, *[10.0] * 13]), "b": np.array([1.0, 1.0, *[10.0] * 12])}
    records = [
        {"name": name, "nominal": one, "limit": 0.0, "sets": [{"average": one, "worst": one}]}
        for name, returns in samples.items()
        for one in [st.sample(st.Episodes(returns, *np.zeros((2, 14), bool)), 0.0)]
    ]
    shown = [record["sets"][0]["worst"]["cvar"] for record in records]
    assert shown == pytest.approx([4 / 1.4, 1.0])
    places = rank_all(records)["cvar"]
    assert (places["a"].rank, places["b"].rank) == (1, 2)
