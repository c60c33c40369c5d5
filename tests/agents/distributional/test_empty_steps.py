"""Tables that differ by step, some of which pay nothing: every method is held to all policies, by enumeration.

What the return can be was once swept from the last step backwards until a sweep changed nothing, so that a last step
without rewards made the bounds (0, 0), and with them the returns, the grids and the supports of every method.
"""

from functools import cache

import pytest
import torch
from history_policies import achievable_along, outcomes_of, random_mdp

from surefoot.agents.distributional import enumerated, solve, task
from surefoot.agents.distributional.objectives import as_fraction, parse
from surefoot.agents.distributional.task import guaranteed, return_bounds
from surefoot.agents.parts.sparse import from_tabular
from surefoot.agents.parts.tabular import TabularMDP

PLACES = ["-xx", "x-x", "xx-", "x--", "--x", "-x-", "---"]  # x pays, - does not
GAMMAS = [0.5, 0.9, 1.0]
OBJECTIVES = ["mean", "cvar(0.3)", "upper-cvar(0.3)", "mean-cvar(0.3, 0.25)", "target(2)", "shortfall(1.5)"]
OTHERS = ["probability(1)", "mean-variance(0.1)"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@cache
def table(places):
    """Return 2 states and 2 actions with a table for each step; one that pays nothing moves all the same."""
    steps = [random_mdp(10 * len(places) + step) for step in range(len(places))]
    pays = torch.tensor([place == "x" for place in places], dtype=torch.float64).view(-1, 1, 1, 1)
    fields = [torch.cat([getattr(step, name) for step in steps]) for name in ("next_state", "probability", "reward")]
    return TabularMDP(steps[0].start, *fields[:2], pays * fields[2])


@cache
def every_law(places, gamma, first=0, state=0):
    """Return the distributions of all deterministic history-dependent policies, {return: chance} of each."""
    tables = [outcomes_of(table(places), step) for step in range(first, len(places))]
    laws = achievable_along(tables, state, as_fraction(gamma))
    return [{float(x): float(w) for x, w in law if w} for law in laws]


def figures(goal, laws):
    """Return the objective of every distribution."""
    return [
        float(goal.measure(*(torch.tensor([*side], dtype=torch.float64) for side in (law, law.values()))))
        for law in laws
    ]


def is_one_of(solution, laws):
    """Whether a solution's own distribution is that of a policy: nothing of it was left out."""
    mine = {x: w for x, w in zip(solution.returns.tolist(), solution.chances.tolist(), strict=True) if w > 1e-12}
    near = (
        sum(w for x, w in law.items() if not any(abs(x - y) < 1e-9 and abs(w - v) < 1e-9 for y, v in mine.items()))
        for law in laws
        if len(law) == len(mine)
    )
    return any(rest < 1e-12 for rest in near)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("places", PLACES)
def test_bounds_are_the_extremes_of_all_returns_from_any_step(places, gamma):
    every = [
        value
        for first in range(len(places))
        for state in (0, 1)
        for law in every_law(places, gamma, first, state)
        for value in law
    ]
    mdp = from_tabular(table(places))
    assert return_bounds(mdp, gamma, len(places)) == pytest.approx((min(0.0, *every), max(0.0, *every)), abs=1e-12)
    sure = [
        max(min(law) for law in every_law(places, gamma, first, state))
        for first in range(len(places))
        for state in (0, 1)
    ]
    assert guaranteed(mdp, gamma, len(places)) == pytest.approx(min(0.0, *sure), abs=1e-12)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("method", ["vi", "exact"])
def test_exact_methods_find_the_optimum_of_all_policies(method, places, gamma):
    laws = every_law(places, gamma)
    for objective in [*OBJECTIVES, *OTHERS]:
        solution = solve(table(places), objective, gamma=gamma, horizon=3, method=method)
        optimum = max(figures(parse(objective), laws))
        if parse(objective).outer != "min":  # an upper tail's is that of a mixture of policies
            assert solution.value == pytest.approx(optimum, abs=2e-8), objective
        assert solution.error == 0
        assert solution.value <= optimum + 1e-9, objective
        assert optimum <= solution.bound + 1e-9, objective
        assert is_one_of(solution, laws), objective


@pytest.mark.parametrize("gamma", [0.9, 1.0])
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("way", ["grid", "dvi", "dpi", "categorical"])
def test_what_grids_say_is_of_a_policy_and_brackets_the_optimum(way, places, gamma, monkeypatch):
    monkeypatch.setattr(enumerated, "partial_sums", lambda task: None)
    options = {
        "grid": {"method": "vi"},
        "dvi": {"method": "dvi", "atoms": 32},
        "dpi": {"method": "dpi", "atoms": 32},
        "categorical": {"method": "dvi", "representation": "categorical", "atoms": 32},
    }[way]
    laws = every_law(places, gamma)
    for objective in OBJECTIVES:
        solution = solve(table(places), objective, gamma=gamma, horizon=3, stocks=200, **options)
        optimum = max(figures(parse(objective), laws))
        assert parse(objective).outer == "min" or solution.value >= optimum - 0.2, objective
        assert solution.value <= optimum + 1e-9, objective
        assert solution.lower - 1e-9 <= optimum <= solution.bound + 1e-9, objective
        assert is_one_of(solution, laws), objective


GAMBLES = torch.tensor([[[[1.0, 1.0], [6.0, 0.0]]]], dtype=torch.float64)  # one state: a sure 1, or 6 or nothing


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("options", [{"method": "vi"}, {"method": "dvi"}, {"method": "dpi"}, {"method": "exact"}])
def test_a_step_that_pays_nothing_changes_nothing(options, place):
    """Of two gambles, the lower half of the best is 3 wherever a third step pays nothing."""
    rewards = [GAMBLES, GAMBLES]
    rewards.insert(place, torch.zeros_like(GAMBLES))
    reward = torch.cat(rewards)
    mdp = TabularMDP(
        torch.ones(1, dtype=torch.float64), torch.zeros(reward.shape).long(), torch.full_like(reward, 0.5), reward
    )
    assert solve(mdp, "cvar(0.5)", gamma=1.0, horizon=3, **options).value == pytest.approx(3.0)


def test_a_last_step_without_rewards_does_not_hide_the_others():
    """4 and then 1, both certain, γ = 0.9: 4.9 in all, of which the law and the value once were 0 with error 0."""
    reward = torch.zeros(3, 1, 2, 1, dtype=torch.float64)
    reward[0, 0, 1], reward[1, 0, 0] = 4.0, 1.0
    mdp = TabularMDP(
        torch.ones(1, dtype=torch.float64), torch.zeros(reward.shape).long(), torch.ones_like(reward), reward
    )
    for objective, value in (("target(4.9)", 0.0), ("cvar(0.5)", 4.9), ("mean", 4.9)):
        solution = solve(mdp, objective, gamma=0.9, horizon=3, method="vi")
        assert (solution.value, solution.bound) == pytest.approx((value, value), abs=1e-9)
        assert float(solution.returns @ solution.chances) == pytest.approx(4.9)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_bounds_of_an_endless_task_scale_with_its_rewards(unit):
    """One state that pays 0 or `unit` for ever, γ = 0.9: up to 10 units; below 10⁻⁹ one sweep was all."""
    reward = torch.tensor([0.0, unit], dtype=torch.float64).view(1, 1, 2, 1)
    one = torch.ones(1, dtype=torch.float64)
    mdp = from_tabular(TabularMDP(one, torch.zeros(reward.shape).long(), torch.ones_like(reward), reward))
    assert return_bounds(mdp, 0.9, None) == pytest.approx((0.0, 10 * unit), rel=1e-7)


def test_bounds_hold_where_the_sweeps_run_out(monkeypatch):
    """1 a step for ever at γ = 0.99 is 100, of which 50 sweeps come to 39.5."""
    monkeypatch.setattr(task, "LONGEST", 50)
    reward = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    mdp = TabularMDP(reward.flatten(), torch.zeros(1, 1, 1, 1).long(), reward, reward)
    assert return_bounds(from_tabular(mdp), 0.99, None)[1] == pytest.approx(100.0)
