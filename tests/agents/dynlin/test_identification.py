"""Identification from logs: exact without noise, intervals that cover as they say, and what logs leave open."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from surefoot.agents.dynlin.identification import (
    choose_lags,
    excess,
    hankel,
    identify,
    long_run_covariance,
    model_order,
    realise,
)
from surefoot.envs import DynamicalLinear
from surefoot.envs.tasks.linear_system import SYSTEMS, cumulative_markov, make_system, spectral_radius

REAL = {**SYSTEMS["real-data"], "noise": 0.05}
OWN = {"A": [[0.6, 0.2], [0.0, -0.3]], "B": [[0.5, -0.2], [0.1, 0.4]], "omega": [1.0, 0.5], "theta": [0.3, -0.1]}


def logs(description, replicates, rounds, *, hold=1, seed=0, actions=None):
    """Return actions (T, N, d), uniform and each held for `hold` rounds, and rewards (T, N)."""
    env = DynamicalLinear(replicates, **{**description, "actions": actions or description["actions"]})
    env.reset(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    count = -(-rounds // hold)
    index = torch.randint(len(env.actions), (count, replicates), generator=generator).repeat_interleave(hold, 0)[
        :rounds
    ]
    rewards = torch.stack([env.step(row)[1] for row in index])
    return env.actions[index.numpy()], rewards.numpy()


CORNERS = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.3, 0.7]]


def test_without_noise_the_markov_parameters_and_the_radius_are_exact():
    actions, rewards = logs({**OWN, "noise": 0.0}, 1, 400, actions=CORNERS)
    found = identify(actions[:, 0], rewards[:, 0], lags=30)
    system = make_system(OWN)
    expected = [system.theta] + [system.B.T @ np.linalg.matrix_power(system.A.T, s) @ system.omega for s in range(6)]
    np.testing.assert_allclose(found.markov[:7], expected, atol=1e-6)
    np.testing.assert_allclose([one.value for one in found.h], cumulative_markov(system), atol=1e-6)
    assert found.spectral_radius.value == pytest.approx(0.6, abs=1e-4)
    assert found.noise_std < 1e-6
    again = make_system({**found.system(), "noise": 0.0})
    np.testing.assert_allclose(cumulative_markov(again), cumulative_markov(system), atol=1e-6)
    assert spectral_radius(again.A) == pytest.approx(0.6, abs=1e-4)


def test_a_lag_is_above_its_bound_only_where_it_exceeds_it_by_more_than_the_standard_errors():
    """Bounds 4, 2, 1 of the first three of six lags."""
    of = lambda *sizes, doubt=0.0: SimpleNamespace(sizes=lambda: (np.array([9.0, *sizes]), np.full(7, doubt)))  # noqa: E731
    for sizes, lags in (((4, 2, 1, 9, 9, 9), []), ((4.1, 2, 1.1, 9, 9, 9), [1, 3]), ((4.1, 2.6, 1, 9, 9, 9), [1, 2])):
        assert excess(of(*sizes), 4.0, 0.5) == lags
    assert excess(of(4.1, 2.6, 1, 9, 9, 9, doubt=0.1), 4.0, 0.5, z=5.0) == [2]


def test_a_scalar_regression_by_hand():
    """No lag, u = 1 and 2: ĥ = Σuy/Σu², and Newey and West's variance of it, term by term."""
    u, y = np.array([1.0, 2.0, 1.0, 2.0, 2.0]), np.array([1.0, 2.5, 0.5, 2.0, 1.5])
    found = identify(u[:, None], y, lags=0)
    value = (u @ y) / (u @ u)
    score = u * (y - value * u)
    long_run = score @ score + 2 * sum((1 - k / 3) * (score[k:] @ score[:-k]) for k in (1, 2))
    assert found.markov.item() == pytest.approx(value)
    assert long_run_covariance(score[:, None], 0).item() == pytest.approx(max(0.0, long_run))
    assert found.covariance.item() == pytest.approx(max(0.0, long_run) / (u @ u) ** 2 * 5 / 4)
    interval = found.long_run(np.array([3.0]))
    assert interval.value == pytest.approx(3 * value)
    assert interval.high - interval.low == pytest.approx(2 * 1.959964 * 3 * math.sqrt(found.covariance.item()))


@pytest.mark.parametrize("hold", [1, 3])
def test_intervals_cover_as_often_as_they_say(hold):
    """80 logs of 800 rounds: 95 % intervals of every long-run reward; within 3 standard errors of such a share."""
    actions, rewards = logs(REAL, 80, 800, hold=hold)
    h, table = cumulative_markov(make_system(REAL)), np.array(REAL["actions"])
    covered = np.zeros(len(table))
    for i in range(80):
        found = identify(actions[:, i], rewards[:, i], lags=16)
        intervals = [found.long_run(action) for action in table]
        covered += [one.low <= value <= one.high for one, value in zip(intervals, table @ h, strict=True)]
    share = covered / 80
    assert 0.90 <= share.mean() <= 0.98, share
    assert share.min() > 0.95 - 0.073 - 0.02  # and 2 % that the estimated variance is short of


def test_the_interval_of_the_radius_is_one():
    actions, rewards = logs({**SYSTEMS["s1"], "noise": 0.05}, 20, 1000)
    found = [identify(actions[:, i], rewards[:, i], lags=12).spectral_radius for i in range(20)]
    assert np.mean([one.low <= 0.5 <= one.high for one in found]) > 0.8
    assert np.mean([one.value for one in found]) == pytest.approx(0.5, abs=0.02)
    assert all(one.low <= one.value <= one.high for one in found)
    assert np.median([one.high - one.low for one in found]) < 0.25


def test_missing_rewards_leave_out_their_rounds():
    actions, rewards = logs({**OWN, "noise": 0.0}, 1, 400, actions=CORNERS)
    rewards[::7] = np.nan
    found = identify(actions[:, 0], rewards[:, 0], lags=30)
    assert found.rounds == 370 - sum(1 for t in range(30, 400) if t % 7 == 0)
    np.testing.assert_allclose([one.value for one in found.h], cumulative_markov(make_system(OWN)), atol=1e-6)


def test_what_the_actions_leave_open_has_no_interval():
    """One budget in all actions: single lags of it cannot be told apart, long-run rewards can. One action: only its."""
    actions, rewards = logs(REAL, 1, 1200)
    found = identify(actions[:, 0], rewards[:, 0], lags=8)
    first = np.zeros((9, 3))
    first[0, 0] = 1.0
    assert found.of(first).high == math.inf
    assert all(math.isfinite(one.high) for one in found.h)
    assert np.isfinite([[one.high for one in row] for row in found.parameters]).all()
    constant = identify(np.tile([1.0, 0.0], (100, 1)), np.ones(100), lags=2)
    assert constant.long_run(np.array([1.0, 0.0])).value == pytest.approx(1.0)
    assert math.isinf(constant.long_run(np.array([0.0, 1.0])).high)
    assert (found.decided, constant.decided) == (True, False)
    for call in (constant.bounds, constant.system):
        with pytest.raises(ValueError, match="leave h open: their actions do not vary"):
            call()


def test_bounds_from_logs_hold_for_the_system_that_made_them():
    actions, rewards = logs({**OWN, "noise": 0.02}, 1, 3000, actions=CORNERS)
    found, system = identify(actions[:, 0], rewards[:, 0]), make_system(OWN)
    bounds = found.bounds()
    assert bounds["spectral_radius"] >= 0.6
    assert np.linalg.norm(system.theta) <= bounds["action_weight"] < 2 * np.linalg.norm(system.theta)
    for s in range(4):
        size = np.linalg.norm(system.B.T @ np.linalg.matrix_power(system.A.T, s) @ system.omega)
        assert size <= bounds["input_matrix"] * bounds["spectral_radius"] ** s
    assert bounds["noise_std"] == pytest.approx(0.02 * math.sqrt(1 + sum(
        np.sum((system.omega @ np.linalg.matrix_power(system.A, s)) ** 2) for s in range(60))), rel=0.1)  # fmt: skip
    assert excess(found, bounds["input_matrix"], bounds["spectral_radius"]) == []
    assert excess(found, bounds["input_matrix"], 0.05) != []


def test_a_realisation_of_a_known_response():
    response = np.array([[0.7**s, -0.5 * 0.7**s] for s in range(9)])
    A, B, omega = realise(response, 1)
    assert A.item() == pytest.approx(0.7)
    np.testing.assert_allclose(omega @ B, response[0])
    assert hankel(np.arange(5.0)[:, None]).tolist() == [[0, 1], [1, 2], [2, 3]]


def test_lags_grow_with_the_memory_of_the_system():
    short = logs({**OWN, "A": [[0.1, 0.0], [0.0, 0.0]], "noise": 0.05}, 1, 1000, actions=CORNERS)
    long = logs({**OWN, "A": [[0.9, 0.0], [0.0, 0.0]], "noise": 0.05}, 1, 1000, actions=CORNERS)
    few, many = (choose_lags(actions[:, 0], rewards[:, 0]) for actions, rewards in (short, long))
    assert few < 10 < many


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 6, 8, 12, 16, 24, 32])
def test_twice_the_lag_of_a_delay_that_is_tried(lag):
    rng = np.random.default_rng(0)
    u = rng.choice([-1.0, 1.0], (600, 1))
    assert choose_lags(u, np.roll(u[:, 0], lag) + 0.1 * rng.standard_normal(600)) == min(32, 2 * lag)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_the_order_and_what_varies_do_not_depend_on_the_units(unit):
    response = unit * np.array([[0.7**s, -0.5 * 0.7**s] for s in range(9)])
    assert model_order(response, np.zeros((18, 18))) == 1
    actions, rewards = logs({**OWN, "noise": 0.0}, 1, 200, actions=[[1.0, 0.0], [0.5, 0.0], [-1.0, 0.0]])
    found = identify(unit * actions[:, 0], rewards[:, 0], lags=3)
    np.testing.assert_allclose(np.abs(found.decided_by), [[1.0], [0.0]], atol=1e-9)


@pytest.mark.parametrize(
    ("actions", "rewards", "message"),
    [
        ([[1.0]], [1.0, 2.0], r"these are \(1, 1\) and \(2,\)"),
        ([], [], "a log is actions"),
        ([[math.nan]], [1.0], "not finite"),
        ([[1.0]], [math.inf], "not finite"),
        ([[1.0], [2.0]], [1.0, 2.0], "too few"),
        ([[0.0]] * 50, [1.0] * 50, "all recorded actions are zero"),
    ],
)
def test_logs_that_say_nothing_are_refused(actions, rewards, message):
    with pytest.raises(ValueError, match=message):
        identify(np.array(actions), np.array(rewards))
    with pytest.raises(ValueError, match="lags is -1; an action acts for 0 rounds"):
        identify(np.ones((9, 1)), np.ones(9), lags=-1)
