"""Vector stocks against all policies that look at the whole history, by enumeration; LARDER's exact figures, E35.

No code is shared with the method: returns are plain tuples here.
"""

import math
import re
from dataclasses import replace
from fractions import Fraction as F
from functools import cache
from itertools import product

import pytest
import torch

from surefoot.agents.distributional import exact
from surefoot.agents.distributional.objectives import as_fraction
from surefoot.agents.distributional.vector import Vector, sum_of
from surefoot.agents.distributional.vectors import OBJECTIVES, VectorObjective, VectorPolicy, solve_vectors
from surefoot.agents.parts.tabular import TabularMDP
from surefoot.envs import Larder

LARDER = TabularMDP(*Larder().vector_tabular())
ENDED = frozenset({((F(0), F(0)), F(1))})


def mixed(outcomes, gamma):
    """Return the mixture of r + γ·G over (chance, r, law of G), as a set of (vector, weight)."""
    law = {}
    for chance, pay, child in outcomes:
        for value, weight in child:
            key = tuple(r + gamma * g for r, g in zip(pay, value, strict=True))
            law[key] = law.get(key, F(0)) + chance * weight
    return frozenset(law.items())


def achievable(mdp, state, left, gamma):
    """Return the laws of all deterministic policies that may look at the history."""
    if left == 0:
        return {ENDED}
    laws = set()
    for chances, states, rewards in zip(*(field[0, state].tolist() for field in mdp[2:0:-1] + mdp[3:]), strict=True):
        cell = [
            (as_fraction(p), s, tuple(map(as_fraction, r))) for p, s, r in zip(chances, states, rewards, strict=True)
        ]
        cell = [row for row in cell if row[0]]
        children = product(*(achievable(mdp, after, left - 1, gamma) for _, after, _ in cell))
        laws |= {mixed([(p, r, law) for (p, _, r), law in zip(cell, some, strict=True)], gamma) for some in children}
    return laws


UTILITIES = {
    "targets": lambda x: -math.hypot(*map(float, x)),
    "shortfalls": lambda x: sum(min(entry, F(0)) for entry in x),
    "joint-probability": lambda x: F(all(entry >= 0 for entry in x)),
}


def worth(law, word, goals):
    return sum(p * UTILITIES[word](tuple(v - g for v, g in zip(value, goals, strict=True))) for value, p in law)


@cache
def larder_laws():
    return achievable(LARDER, 0, 3, F(9, 10))


@pytest.mark.parametrize("goals", [("2", "1"), ("0", "3"), ("-1/2", "5/2"), ("3", "-1"), ("1", "2")])
@pytest.mark.parametrize("word", UTILITIES)
def test_the_larder_is_solved_as_the_best_of_all_policies(word, goals):
    laws = larder_laws()
    assert len(laws) == 903
    solution = solve_vectors(LARDER, f"{word}({', '.join(goals)})", gamma=0.9, horizon=3)
    best = max(worth(law, word, tuple(map(F, goals))) for law in laws)
    assert solution.value == (pytest.approx(best, abs=1e-12) if word == "targets" else best)
    returns = {(tuple(row), p) for row, p in zip(solution.returns.tolist(), solution.chances.tolist(), strict=True)}
    assert returns in [{(tuple(map(float, value)), float(p)) for value, p in law} for law in laws]


FIGURES = [  # E35: the optimum, and the best of the 27 policies that look at the step alone
    ("targets", "2, 1", -0.653357, -0.954044),
    ("targets", "1, 2", -0.917206, -0.956926),
    ("shortfalls", "2, 1", F(-35, 64), F(-229, 400)),
    ("shortfalls", "1, 2", F(-11, 25), F(-12, 25)),
    ("joint-probability", "2, 1", F(9, 16), F(9, 16)),
]


@pytest.mark.parametrize(("word", "goals", "optimum", "markov"), FIGURES)
def test_figures_of_the_larder_and_of_policies_blind_to_the_stocks(word, goals, optimum, markov):
    def law_of(plan):
        law = ENDED
        for action in reversed(plan):
            gamble = [(as_fraction(chance), tuple(map(as_fraction, pay))) for chance, pay in Larder.pays[action]]
            law = mixed([(chance, pay, law) for chance, pay in gamble], F(9, 10))
        return law

    value = solve_vectors(LARDER, f"{word}({goals})", gamma=0.9, horizon=3).value
    wanted = tuple(map(F, goals.split(",")))
    blind = max(worth(law_of(plan), word, wanted) for plan in product(range(3), repeat=3))
    expected = (optimum, markov)
    assert (value, blind) == (pytest.approx(expected, abs=1e-6) if word == "targets" else expected)


def random_mdp(seed):
    """Return 2 states, 2 actions, at most 2 outcomes, with pairs of integer rewards in [−3, 3]."""
    g = torch.Generator().manual_seed(seed)
    shape = (1, 2, 2, 2)
    first = torch.randint(0, 5, shape[:-1], generator=g) / 4.0
    after, reward = torch.randint(2, shape, generator=g), torch.randint(-3, 4, (*shape, 2), generator=g).double()
    return TabularMDP(torch.tensor([1.0, 0.0]).double(), after, torch.stack([first, 1 - first], -1).double(), reward)


@pytest.mark.parametrize("gamma", [F(1, 2), F(4, 5), F(1)])
@pytest.mark.parametrize("word", UTILITIES)
def test_random_tables_are_solved_as_the_best_of_all_policies(word, gamma):
    for seed in range(4):
        mdp = random_mdp(seed)
        laws = achievable(mdp, 0, 2, gamma)
        for goals in ((F(1), F(-1)), (F(-2), F(1, 2))):
            solution = solve_vectors(mdp, f"{word}({goals[0]}, {goals[1]})", gamma=float(gamma), horizon=2)
            assert float(solution.value) == pytest.approx(
                float(max(worth(law, word, goals) for law in laws)), abs=1e-12
            )


def test_a_utility_without_a_degree_carries_the_discount_along():
    """With the stocks alone another policy comes out, and a lower value."""

    def capped(x):
        return sum((min(max(entry, F(-1)), F(2)) for entry in x.entries), F(0))

    own = VectorObjective("own", capped, None, Vector((F(-1), F(0))))
    best = max(sum(p * capped(own.stock + Vector(value)) for value, p in law) for law in larder_laws())
    assert solve_vectors(LARDER, own, gamma=0.9, horizon=3).value == best
    assert solve_vectors(LARDER, replace(own, degree=1), gamma=0.9, horizon=3).value < best


def test_the_sum_and_the_truth_of_a_vector():
    """The sum breaks ties, and a reward of (0, 1) is one: only all zeros are none."""
    assert (sum_of(Vector((F(1, 2), F(-2)))), sum_of(F(3, 4))) == (F(-3, 2), F(3, 4))
    assert [bool(Vector((F(a), F(b)))) for a, b in ((0, 0), (0, 1), (1, 0), (1, 2))] == [False, True, True, True]


@pytest.mark.parametrize("word", UTILITIES)
def test_utilities_are_homogeneous_of_the_degree_that_is_claimed(word):
    utility, degree = OBJECTIVES[word][:2]
    for entries in product(map(F, (-3, -1, 2)), repeat=2):
        assert utility(Vector(entries) * 4) == pytest.approx(4**degree * utility(Vector(entries)))


@pytest.mark.parametrize("wrong", ["c' = c + r", "c' = γc + r", "c' = c"])
def test_a_wrong_update_of_the_stocks_is_seen(wrong, monkeypatch):
    updates = {
        "c' = c + r": lambda stock, reward, gamma: stock + reward,
        "c' = γc + r": lambda stock, reward, gamma: stock * gamma + reward,
        "c' = c": lambda stock, reward, gamma: stock,
    }
    objectives = [f"{word}({goals})" for word in UTILITIES for goals in ("2, 1", "1, 2")]
    right = [solve_vectors(LARDER, objective, gamma=0.9, horizon=3).value for objective in objectives]
    monkeypatch.setattr(exact, "next_stock", updates[wrong])
    found = [solve_vectors(LARDER, objective, gamma=0.9, horizon=3).value for objective in objectives]
    assert all(one <= other + 1e-12 for one, other in zip(found, right, strict=True))
    assert any(one < other - 1e-3 for one, other in zip(found, right, strict=True))


def test_stocks_far_from_0_are_told_from_their_neighbours():
    """40 stocks of −10⁶ with steps of 0.01, all asked at once; a distance by a matrix product is off by 0.01 there."""
    stocks = torch.stack([-1e6 + 0.01 * torch.arange(40, dtype=torch.float64), torch.zeros(40).double()], -1)
    policy = VectorPolicy((torch.zeros(40).long(),), (stocks,), (torch.arange(40),))
    assert policy(torch.zeros(40).long(), stocks).tolist() == [*range(40)]


def test_the_policy_acts_as_its_distribution_says():
    solution = solve_vectors(LARDER, "targets(2, 1)", gamma=0.9, horizon=3)
    assert solution.stock == (-2.0, -1.0)
    env = Larder(num_envs=20_000)
    env.reset(seed=0)
    stock, returns = torch.tensor(solution.stock).double().expand(20_000, 2), torch.zeros(20_000, 2).double()
    for step in range(3):
        info = env.step(solution.policy(env.state, stock, step))[4]
        reward = torch.stack([info["food"], info["water"]], -1).double()
        returns, stock = returns + 0.9**step * reward, (stock + reward) / 0.9
    mean = solution.chances @ solution.returns
    assert torch.allclose(returns.mean(0), mean, atol=0.03)
    assert abs(-(returns - torch.tensor([2.0, 1.0])).norm(dim=-1).mean() - solution.value) < 0.03


@pytest.mark.parametrize(
    ("objective", "changes", "message"),
    [
        ("targets(1)", {}, "targets(1) has 1 numbers, the task 2 rewards; give one for each"),
        ("targets(1, x)", {}, "objective 'targets(1, x)': 1, x must be numbers; write targets(a, b, ...)"),
        ("targets", {}, "objective 'targets' has no numbers; write targets(a, b, ...), one for each reward"),
        ("cvar(0.1)", {}, "unknown objective 'cvar(0.1)' of vector rewards; choose one of targets(a, b, ...), "),
        ("shortfalls(1, 2)", {"horizon": None}, "shortfalls(1, 2) needs a horizon of at least 1 step, not None"),
        ("shortfalls(1, 2)", {"gamma": 0.0}, "gamma must lie in (0, 1], not 0.0: the stock update divides by it"),
    ],
)
def test_what_cannot_be_solved_is_said(objective, changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        solve_vectors(LARDER, objective, **({"gamma": 0.9, "horizon": 3} | changes))


def test_tables_of_single_rewards_and_of_other_lengths_are_refused():
    single = TabularMDP(*Larder().tabular())
    with pytest.raises(ValueError, match="for vectors of rewards"):
        solve_vectors(single, "targets(1, 2)", gamma=0.9, horizon=3)
    infinite = LARDER._replace(reward=LARDER.reward.where(LARDER.reward < 2, math.inf))
    with pytest.raises(ValueError, match="rewards must be finite"):
        solve_vectors(infinite, "targets(1, 2)", gamma=0.9, horizon=3)
    policy = solve_vectors(LARDER, "targets(1, 2)", gamma=0.9, horizon=3).policy
    with pytest.raises(ValueError, match=r"stock \[0.0, 0.0\] cannot be reached in 2 steps"):
        policy(torch.tensor([0]), torch.zeros(1, 2), 2)
