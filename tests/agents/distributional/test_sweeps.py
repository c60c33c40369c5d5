"""The parts of the sweeps over states and stocks, one by one: ties, sizes, what lies between and beyond grid points."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from surefoot.agents.distributional import enumerated, neutral
from surefoot.agents.distributional.enumerated import choose, optimum, partial_sums
from surefoot.agents.distributional.interpolated import (
    LOWER,
    MEAN,
    MIDDLE,
    UPPER,
    Axis,
    axes_of,
    between,
    solve_on_grid,
)
from surefoot.agents.distributional.objectives import own, parse
from surefoot.agents.distributional.policy import SolvedPolicy
from surefoot.agents.distributional.solution import Found, _contenders, evaluated
from surefoot.agents.distributional.solve import _searched, _unclipped
from surefoot.agents.distributional.start_search import Tried, peaks_between, search
from surefoot.agents.distributional.task import Bracketed, Task
from surefoot.agents.distributional.utilities import Shape
from surefoot.agents.parts.sparse import Backup, Optimum, from_tabular
from surefoot.agents.parts.tabular import TabularMDP


def one_state(*arms):
    """One state, for ever; every arm pays one of its rewards, as many for each, with equal chances."""
    reward = torch.tensor(arms, dtype=torch.float64)[None, None]
    start = torch.ones(1, dtype=torch.float64)
    return from_tabular(
        TabularMDP(start, torch.zeros(reward.shape).long(), torch.full_like(reward, 1 / len(arms[0])), reward)
    )


# --- every stock ------------------------------------------------------------------------------------------------------


def test_sums_that_are_too_many_to_be_formed_are_refused_though_few_are_distinct(monkeypatch):
    """Rewards 0 … 99: 100, 199, 298 sums, of up to 19,900 pairs."""
    monkeypatch.setattr(enumerated, "MAX_SUMS", 300)
    mdp = one_state(range(100))
    two, three = (partial_sums(Task(mdp, parse("mean"), 1.0, horizon, 1e-6)) for horizon in (2, 3))
    assert [len(one) for one in two] == [1, 100, 199]
    assert three is None


def test_starts_are_swept_in_pieces_that_bound_the_memory(monkeypatch):
    task = Task(one_state((0, 1), (0.5, 0.5)), parse("target(0)"), 1.0, 3, 1e-6)
    sums, starts, seen = partial_sums(task), np.linspace(-3, 0, 40), []
    whole, values = optimum(task, sums, starts), enumerated._values
    monkeypatch.setattr(enumerated, "CHUNK", 100)
    monkeypatch.setattr(enumerated, "_values", lambda t, s, piece: seen.append(len(piece)) or values(t, s, piece))
    pieces = optimum(task, sums, starts)
    assert max(seen) * max(map(len, sums)) * 3 <= 1.1 * 100  # three distinct outcomes
    assert sum(seen) == len(starts)
    np.testing.assert_array_equal(pieces.lower, whole.lower)


def chosen_of(worth, mean):
    """Return which of the choices of one state is best; `worth` (V, Q) and `mean` (Q,) of choices that are certain."""
    numbers = np.arange(len(mean))
    certain = Backup(
        numbers, 0.0 * numbers, sparse.eye_array(len(mean)).tocsr(), numbers, numbers[:1], 0 * numbers, numbers
    )
    best, means, chosen = choose(certain, np.array(worth)[:, :, None], np.array(mean)[:, None])
    assert means[0, 0] == mean[chosen[0, 0]]
    np.testing.assert_array_equal(best[:, 0, 0], np.max(worth, 1))
    return int(chosen[0, 0])


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_ties_are_relative_to_their_own_worth_whatever_its_unit(unit):
    large, huge = [0.0, 0.0, 0.0], [1e9 * unit] * 3
    for others in ([], [large, large], [huge, huge]):  # worths beside the one that decides
        assert chosen_of([[unit, (1 + 1e-9) * unit, 0.0], *others], [1.0, 0.0, 2.0]) == 1  # worth decides
        assert chosen_of([[unit, (1 + 1e-11) * unit, 0.0], *others], [1.0, 0.0, 2.0]) == 0  # equal: the mean decides
    assert chosen_of([[1.0] * 3], [0.0, unit, (1 - 1e-9) * unit]) == 1
    assert chosen_of([[1.0] * 3], [0.0, (1 - 1e-11) * unit, unit]) == 1  # the first of equal means


# --- a grid of stocks -------------------------------------------------------------------------------------------------


def tables_of(points, lower, upper):
    """Return tables (4, 1, C) of one state with the mean and the middle of two bounds."""
    tables = np.zeros((4, 1, len(points)))
    tables[LOWER], tables[UPPER] = lower, upper
    tables[MIDDLE] = tables[MEAN] = (tables[LOWER] + tables[UPPER]) / 2
    return tables


def test_between_points_the_slopes_bound_and_the_middle_is_a_line_however_near_a_point():
    """Values 0, 2, 3 at 0, 1, 2 and slopes from 0 to 3, so that at 1 + d one is 2 to 2 + 3d and 3 − 3(1 − d) to 3."""
    points = np.array([0.0, 1.0, 2.0])
    axis = Axis(points, Shape(0.0, 3.0), (0.0, 3.0), (0.0, 3.0))
    tables = tables_of(points, [0.0, 2.0, 3.0], [0.0, 2.0, 3.0])
    d = np.array([1e-9, 1e-7, 0.2, 0.5, 0.9, 1 - 1e-7])
    found = between(axis, tables, np.array([0]), 1 + d[None])[:, 0]
    np.testing.assert_allclose(found[LOWER], np.maximum(2.0, 3 * d), rtol=0, atol=1e-13)
    np.testing.assert_allclose(found[UPPER], np.minimum(2 + 3 * d, 3.0), rtol=0, atol=1e-13)
    np.testing.assert_allclose(found[[MIDDLE, MEAN]], np.stack([2 + d] * 2), rtol=0, atol=1e-13)
    at_points = between(axis, tables, np.array([0]), points[None])[:, 0]
    np.testing.assert_array_equal(at_points, tables[:, 0])


def test_beyond_the_ends_the_slopes_bound_and_the_middle_has_their_mean():
    """From 0.5 to 1 below 0 and from 0.25 to 0.5 above 2; without a bound of the slopes it stays as at the end."""
    points = np.array([0.0, 2.0])
    tables = tables_of(points, [0.0, 1.0], [0.0, 1.0])
    x = np.array([[-2.0, 6.0]])
    finite = between(Axis(points, Shape(0.0, 1.0), (0.5, 1.0), (0.25, 0.5)), tables, np.array([0]), x)[:, 0]
    np.testing.assert_allclose(finite[[LOWER, MIDDLE, UPPER]], [[-2.0, 2.0], [-1.5, 2.5], [-1.0, 3.0]])
    endless = between(Axis(points, Shape(0.0, 1e200), (0.0, 1e200), (0.0, 1e200)), tables, np.array([0]), x)[:, 0]
    np.testing.assert_array_equal(endless[MIDDLE], [0.0, 1.0])
    assert (endless[LOWER] <= endless[MIDDLE]).all()
    assert (endless[MIDDLE] <= endless[UPPER]).all()


@pytest.mark.parametrize(("below", "name"), [(0.0, "probability(0)"), (-2.0, "jump")])
def test_what_no_return_brings_to_the_jump_is_worth_what_lies_below_it(below, name):
    """±1 in each of three steps: after two, a return so far of −1 can still reach 0, and of −1.001 can not."""
    jump = own(lambda x: torch.where(x < 0, -2.0, 1.0).to(x.dtype), name="jump", stock=0.0, degree=0)
    goal = jump if name == "jump" else parse(name)
    _, one, two, _ = axes_of(Task(one_state((-1, 1)), goal, 1.0, 3, 1e-6), 5)
    assert (one.hopeless, two.hopeless) == (None, below)  # after one step every threshold can be reached
    tables = tables_of(two.points, np.full(5, 0.5), np.full(5, 0.75))
    found = between(two, tables, np.array([0]), np.array([[-1.001, -1 - 1e-13, -1.0]]))[:3, 0]
    np.testing.assert_array_equal(found[:, 0], [below] * 3)
    np.testing.assert_array_equal(found[:, 1:], [[0.5] * 2, [0.75] * 2, [0.625] * 2])


@pytest.mark.parametrize(("sign", "stock"), [(1.0, 0.0), (-1.0, 0.0), (1.0, -4.0), (-1.0, 4.0)])
def test_what_is_left_after_the_sweeps_is_in_the_bracket_whether_it_helps_or_hurts(sign, stock):
    """±1 for ever at γ = 1/2: G = ±2, and −(c_0 + G)² is −4, of which a tolerance of 1/8 leaves the last 1/8 of G."""
    square = own(lambda x: -x.square(), name="square", stock=stock, degree=2)
    task = Task(one_state((sign,)), square, 0.5, None, 1 / 8)
    solved = solve_on_grid(task, axes_of(task, 50), 1e-9, None)
    lower, upper = (float(solved.tables[side, 0, 0]) for side in (LOWER, UPPER))
    assert lower <= -4 <= upper
    assert upper - lower < 2


# --- no stock ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.5, 0.99])
def test_what_policy_iteration_left_to_gain_is_in_the_bound(gamma, monkeypatch):
    """A sweep would still raise V by 1/8: V* is at most V + (1/8)/(1 − γ)."""
    task = Task(one_state((1.0,)), parse("mean"), gamma, None, 1e-6)
    monkeypatch.setattr(neutral, "stationary_optimum", lambda *_: Optimum(np.array([3.0]), np.array([0]), 1 / 8, 7))
    found = neutral.solve_states(task)
    assert (found.value, found.sweeps) == (3.0, 7)
    assert found.bound == pytest.approx(3 + 1 / 8 / (1 - gamma))


# --- the start, and which policies are looked at ----------------------------------------------------------------------


def test_how_much_may_lie_between_two_starts():
    """Slopes of J from −1 to 2; then J + κx² convex, 0 → 1 within 2: a chord and (3/2)·(1/2)/2 above it."""
    starts = np.array([0.0, 3.0, 5.0])
    of = lambda **how: replace(parse("mean-cvar(0.5, 0.5)"), **how)  # noqa: E731
    lines = of(weight=3, charge=1, outer="max")
    peak, place = peaks_between(lines, starts, np.array([1.0, 1.0, 2.5]), Shape(0.0, 1.0))
    np.testing.assert_allclose(place, [1.0, 3 + 3.5 / 3])
    np.testing.assert_allclose(peak, [3.0, 1 + 2 * 3.5 / 3])
    rising = of(weight=1, charge=0, outer="max")  # 1 at most from 0, and 1.5 less half of what is left
    peak, place = peaks_between(rising, np.array([0.0, 2.0]), np.array([0.0, 1.5]), Shape(0.5, 1.0))
    np.testing.assert_allclose((peak, place), [[1.0], [1.0]])
    bent = of(weight=2, charge=0, outer="max")
    peak, place = peaks_between(bent, np.array([0.0, 2.0]), np.array([0.0, 1.0]), Shape(-100.0, 100.0, 0.25))
    np.testing.assert_allclose((peak, place), [[1.125], [1.5]])
    flat, _ = peaks_between(bent, np.array([0.0, 2.0]), np.array([0.0, 1.0]), Shape(-100.0, 100.0, 0.0))
    assert flat.tolist() == [1.0]  # convex: at an end


def test_of_several_given_starts_the_bound_is_the_largest():
    goal = parse("target(2)")
    found = search(goal, lambda c: Bracketed(-np.abs(c) - 1, -np.abs(c)), np.array([-3.0, -1.0]), Shape(-1, 1), 0.0)
    assert found.bound == -1.0


def test_the_search_for_a_start_knows_the_slopes_of_all_stocks_that_can_come():
    """A sure 5 has J(c) = 5 − (c + 5)²; both given starts are 25 below it, and 10 and 9.999 are the largest returns."""
    task = Task(one_state((5, 5), (10, 0), (9.999, 0)), parse("mean-variance(1)"), 1.0, 1, 1e-6)
    sums = partial_sums(task)
    found = _searched(task, sums, enumerated.Known(task, sums), torch.tensor([-10.0, 0.0]), 1e-6)
    assert found.lower.max() == pytest.approx(5, abs=1e-6)
    assert found.bound == pytest.approx(5, abs=1e-6)


def test_starts_that_may_be_the_best_are_all_looked_at_unless_the_bracket_is_closed():
    stocks = np.arange(-11.0, 1.0)
    figures = np.array([1.0, 3.0, 3.0, 2.0, 3.0, 3.0, 2.9, 0.0, 0.5, 1.5, 2.5, 2.8])
    goal = parse("cvar(0.5)")
    assert _contenders(goal, Tried(stocks, figures, figures, 3.0)) == [-10.0, -9.0, -7.0]  # the first three that tie
    open_ = Tried(stocks, figures - 0.1, figures + 0.1, 3.1)
    assert _contenders(goal, open_) == [-10.0, -9.0, -8.0, -7.0, -6.0, -5.0, -1.0, 0.0]


def test_a_larger_mean_does_not_make_up_for_a_figure_that_is_smaller_by_a_millionth():
    """Of a sure 1 and {1 − 10⁻⁶, 3} the worse half is 1 and 1 − 10⁻⁶; both starts are looked at."""
    task = Task(one_state((1, 1), (1 - 1e-6, 3)), parse("cvar(0.5)"), 1.0, 1, 1e-6)
    tried = Tried(np.array([-3.0, -1.0]), np.array([0.9, 0.9]), np.array([1.1, 1.1]), 1.1)
    arm = lambda start: SolvedPolicy((torch.zeros(1).double(),), (torch.tensor([[int(start == -3)]]),))  # noqa: E731
    found = evaluated(Found(task, tried, arm, 1, 0.0, True, "", lambda objective: None))
    assert (found.value, found.stock, found.returns.tolist()) == (1.0, -1.0, [1.0])


@pytest.mark.parametrize(("gamma", "horizon"), [(1.0, 3), (0.5, 2), (0.5, None), (0.9, 10)])
def test_no_projection_reaches_the_ends_of_the_categories(gamma, horizon):
    """As many spacings beyond the returns as there are pushes by one spacing: 1 + γ + γ² + …"""
    low, high = _unclipped(-1.0, 4.0, 32, gamma, horizon)
    spacing = (high - low) / 31
    pushes = sum(gamma**t for t in range(horizon or 100))
    assert (-1 - low, high - 4) == (pytest.approx(pushes * spacing), pytest.approx(pushes * spacing))


# --- how long ---------------------------------------------------------------------------------------------------------


def geometric(pay):
    """Pays in every step, and is over after each with chance 1/2."""
    chance, after = torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]]]), torch.tensor([[[0, 1]], [[1, 1]]])
    reward = torch.tensor([[[pay, pay]], [[0.0, 0.0]]], dtype=torch.float64)
    return from_tabular(TabularMDP(torch.tensor([1.0, 0.0]).double(), after[None], chance.double()[None], reward[None]))


@pytest.mark.parametrize(("pay", "sweeps"), [(1.0, 4), (1e-3, 3), (-8.0, 7)])
def test_without_a_discount_sweeps_go_on_until_little_is_left_and_the_episode_is_over(pay, sweeps):
    """2·pay·2⁻ⁿ is still to come after n steps, and with chance 2⁻ⁿ the episode is not over: both at most 0.13."""
    task = Task(geometric(pay), parse("target(0)"), 1.0, None, 0.13)
    assert (task.sweeps, task.left) == (sweeps, pytest.approx(0.125))
    assert task.bounds == (min(0.0, pay) * sweeps, max(0.0, pay) * sweeps)


def test_with_a_discount_the_bounds_are_those_of_the_endless_return():
    task = Task(one_state((1.0, -3.0)), parse("target(0)"), 0.5, None, 0.5)
    assert task.sweeps < 5
    assert task.bounds == (pytest.approx(-6, abs=1e-8), pytest.approx(2, abs=1e-8))


def test_a_bend_far_from_0_is_no_homogeneous_utility():
    for bend in (1e-6, 1e6):
        with pytest.raises(ValueError, match="leave degree out"):
            own(lambda x, bend=bend: x.clamp(max=bend), degree=1)
        with pytest.raises(ValueError, match="leave degree out"):
            own(lambda x, bend=bend: torch.where(x.abs() < bend, 2 * x, x), degree=1)
