"""The plan of a stress test keeps its budget; the search finds known worst points, on seeds that choose nothing."""

import re

import numpy as np
import pytest

from surefoot.envs import Parameter, UncertaintySet
from surefoot.evaluation.stress import plan as plans
from surefoot.evaluation.stress import search
from surefoot.evaluation.stress.measure import stress_set
from surefoot.evaluation.stress.nominal import Nominal
from surefoot.evaluation.stress.search import SEEDS, crossed, reset_seeds
from surefoot.evaluation.stress.statistics import Episodes


def box(dims):
    return UncertaintySet("unit", "none", tuple(Parameter(f"p{k}", 0.0, 10.0, 5.0) for k in range(dims)))


@pytest.mark.parametrize("budget", [800, 1111, 2000, 20_000])
@pytest.mark.parametrize("dims", [(1,), (2,), (3,), (2, 6), (3, 3, 1)])
def test_a_plan_spends_no_more_than_its_budget_and_most_of_it(budget, dims):
    plan = plans.make_plan(budget, [box(d) for d in dims])
    spent = plans.total(plan, dims)
    assert spent <= budget
    assert spent > 0.6 * budget or budget == 20_000  # of so many, no part has a use
    assert all(one.worst >= 10 and min(one.episodes(d).values()) >= 0 for one, d in zip(plan.sets, dims, strict=True))


@pytest.mark.parametrize("budget", [1, 9, 100])
def test_too_small_a_budget_says_what_is_needed_and_that_is_enough(budget):
    sets = [box(2), box(6)]
    said = rf"--budget {budget} is too small: 2 uncertainty sets of 2, 6 parameters"
    with pytest.raises(ValueError, match=said) as error:
        plans.make_plan(budget, sets)
    needed = int(re.search(r"need (\d+) episodes", str(error.value))[1])
    assert plans.total(plans.make_plan(needed, sets), [2, 6]) <= needed
    more = plans.least_budget(1, sets, nominals=2)
    two = plans.make_plan(more, sets, nominals=2)
    assert more >= plans.total(two, [2, 6]) == plans.total(two._replace(nominals=1), [2, 6]) + two.nominal


@pytest.mark.parametrize(("dims", "least"), [((1,), 154), ((2,), 167), ((3,), 228), ((7,), 349), ((1, 2), 311)])
def test_every_budget_from_the_least_on_is_enough_and_no_smaller_one(dims, least):
    sets = [box(d) for d in dims]
    for budget in (1, 110, least - 1):
        with pytest.raises(ValueError, match=rf"--budget {budget} is too small: .* need {least} episodes;"):
            plans.make_plan(budget, sets)
        assert plans.least_budget(budget, sets) == least
    spent = [plans.total(plans.make_plan(budget, sets), dims) for budget in range(least, least + 100)]
    assert all(spent[i] <= least + i for i in range(100))
    assert plans.least_budget(least + 6, sets) == least + 6


def bowl(target, played):
    """Return a policy whose mean is least, 0, at `target`, and which notes what is played from which seeds."""

    def play(points, seeds):
        played.extend(zip(map(tuple, points.tolist()), seeds, strict=True))
        means = np.square(points - target).sum(1)
        none = np.zeros(len(points), bool)
        return Episodes(means + 0.01 * (np.array(seeds) % 7 - 3), none, none)

    return play


@pytest.mark.parametrize("target", [[8.3], [8.3, 1.1], [0.0, 10.0, 3.0]])
def test_the_worst_point_is_found_and_measured_on_seeds_that_chose_nothing(target):
    played, dims = [], len(target)
    play, plan = bowl(np.array(target), played), plans.make_plan(600, [box(dims)])
    nominal = Nominal(crossed(play, np.full((1, dims), 5.0), reset_seeds("nominal", plan.nominal, 0)).at(0), 0.0)
    found = stress_set(play, box(dims), np.full(dims, 5.0), plan.sets[0], nominal, seed=0)
    worst = found["worst"]
    assert np.abs(np.array(list(worst["at"].values())) - target).max() < 0.5
    low, high = worst["interval"]
    assert low <= 0.0 <= high
    assert high < 0.5
    last = played[-plan.sets[0].average - plan.sets[0].worst : -plan.sets[0].average]
    assert {point for point, _ in last} == {tuple(worst["at"].values())}
    fresh = {seed for _, seed in last}
    assert len(fresh) == plan.sets[0].worst
    assert not fresh & {seed for _, seed in played[: -len(last) - plan.sets[0].average]}
    assert len(played) == plans.total(plan, [dims])


def test_parts_of_a_test_share_no_seeds():
    spans = {part: set(reset_seeds(part, 5_000, 7)) for part in SEEDS}
    assert sum(map(len, spans.values())) == len(set().union(*spans.values()))


def test_the_lowest_points_are_apart():
    points, means = np.array([[1.0], [1.05], [9.0]]), np.array([0.0, 1.0, 2.0])
    assert search._lowest(points, means, box(1), 2, 0.25).tolist() == [[1.0], [9.0]]
