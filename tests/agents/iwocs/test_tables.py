"""The worst of several sparse models: against enumeration, with and without discount, and what is refused."""

from itertools import pairwise, product

import numpy as np
import pytest

from surefoot.agents.iwocs import tables
from surefoot.agents.iwocs.tables import prepare, robust_values, solve_worst_case, values_in_all
from surefoot.agents.parts.sparse import Rows, SparseMDP, absorb

STATES, ACTIONS = 4, 2


def random_models(seed, models=3, end=0.0, spread=True):
    """Return models of 4 states, the last terminal, entered with chance at least `end`; rewards alike in all."""
    g = np.random.default_rng(seed)
    reward = g.normal(size=(STATES * ACTIONS))
    start = g.dirichlet(np.ones(3)) if spread else np.array([1.0, 0, 0])
    made = []
    for _ in range(models):
        chance = g.dirichlet(0.3 * np.ones(STATES), size=STATES * ACTIONS) * (1 - end)
        chance[:, -1] += end
        pair, after = np.nonzero(chance)
        table = SparseMDP(np.append(start, 0.0), ACTIONS, (Rows(pair, after, chance[pair, after], reward[pair]),))
        made.append(absorb(table, np.arange(STATES) == 3))
    return made


def dense(model):
    chance, reward = np.zeros((STATES * ACTIONS, STATES)), np.zeros((STATES * ACTIONS, STATES))
    rows = model.steps[0]
    chance[rows.pair, rows.after], reward[rows.pair, rows.after] = rows.probability, rows.reward
    return chance, (chance * reward).sum(1)


def returns_of(policy, models, gamma):
    """Return what a policy gets in every model, by a hundred thousand steps of repeated squaring."""
    found = []
    for model in models:
        chance, reward = dense(model)
        pairs = np.arange(STATES) * ACTIONS + np.array(policy)
        moves, total = gamma * chance[pairs], reward[pairs]
        for _ in range(17):
            total, moves = total + moves @ total, moves @ moves
        found.append(model.start @ total)
    return np.array(found)


@pytest.mark.parametrize("gamma", [0.8, 1.0])
@pytest.mark.parametrize("spread", [True, False])
def test_the_bracket_holds_the_best_worst_case_of_all_policies(gamma, spread):
    certified = 0
    for seed in range(8):
        models = random_models(seed, end=0.1 if gamma == 1 else 0.0, spread=spread)
        found = solve_worst_case(prepare(models, gamma))
        every = [returns_of(policy, models, gamma) for policy in product(range(ACTIONS), repeat=STATES)]
        best = max(values.min() for values in every)
        assert found.lower - 1e-9 <= best <= found.bound + 1e-9
        np.testing.assert_allclose(found.values, returns_of(found.policy, models, gamma), atol=1e-9)
        assert found.lower == found.values.min()
        assert found.hull <= best + 1e-9
        assert found.hull <= found.hull_values.min() + 1e-9
        np.testing.assert_allclose(found.optima, np.max(every, axis=0), atol=1e-8)
        assert found.status == ("certified" if found.bound - found.lower <= 1e-9 * (1 + abs(found.bound)) else "gap")
        if found.status == "certified":
            assert found.lower == pytest.approx(best, abs=1e-8)
            certified += 1
    assert certified > 0


def test_equal_models_are_certified_at_once():
    models = random_models(3, models=1) * 3
    found = solve_worst_case(prepare(models, 0.9))
    assert found.status == "certified"
    assert len(found.iwocs) == 1
    assert found.hull == pytest.approx(found.lower, abs=1e-8)


def test_the_path_goes_on_while_some_model_is_below_the_bound():
    """Every first policy has the bound's value in the model that it is the best of; that ends nothing."""
    ends = []
    for seed in range(8):
        models = prepare(random_models(seed), 0.9)
        path = tables.iwocs(models)
        for turn, following in pairwise(path):
            assert turn.values.min() < turn.upper - 1e-9
            assert following.model == turn.values.argmin()
        assert turn_ends(path)
        ends.append(len(path))
    assert max(ends) > 1


def turn_ends(path):
    """Whether the last turn is certified, or its worst model was solved before."""
    last = path[-1]
    met = abs(last.upper - last.values.min()) <= 1e-8 * (1 + abs(last.upper))
    return met or int(last.values.argmin()) in [turn.model for turn in path]


def test_a_policy_of_chances_is_evaluated_too():
    models = random_models(0)
    half = np.full((STATES, ACTIONS), 0.5)
    ready = prepare(models, 0.9)
    for k, model in enumerate(models):
        chance, reward = dense(model)
        moves, pay = chance.reshape(STATES, ACTIONS, -1).mean(1), reward.reshape(STATES, ACTIONS).mean(1)
        expected = model.start @ np.linalg.solve(np.eye(STATES) - 0.9 * moves, pay)
        assert values_in_all(ready, half)[k] == pytest.approx(expected)


def test_the_hull_is_below_every_model_and_robust_iteration_says_so():
    for seed in range(4):
        ready = prepare(random_models(seed), 0.9)
        value, policy = robust_values(ready)
        assert value <= values_in_all(ready, policy).min() + 1e-9


def test_models_that_do_not_fit_are_refused_in_one_line():
    one, other = random_models(0)[0], random_models(1)[0]
    with pytest.raises(ValueError, match="model 2 starts elsewhere than the first"):
        prepare([one, other], 0.9)
    with pytest.raises(ValueError, match="model 2 differs by step"):
        prepare([one, one._replace(steps=one.steps * 2)], 0.9)
    small = SparseMDP(np.ones(1), 1, (Rows(*(np.zeros(1, int),) * 2, np.ones(1), np.zeros(1)),))
    with pytest.raises(ValueError, match="model 2 has 1 states and 1 actions, the first 4 and 2; they must agree"):
        prepare([one, small], 0.9)


def test_mixed_models_that_never_end_are_refused_without_discount():
    """Model a goes 0 → 1 → end, model b 1 → 0 and 0 → end: a rectangular nature goes round for ever."""
    models = [
        SparseMDP(np.array([1.0, 0, 0]), 1, (Rows(np.arange(3), np.array(after), np.ones(3), np.array([1.0, 1, 0])),))
        for after in ([1, 2, 2], [2, 0, 2])
    ]
    with pytest.raises(ValueError, match="a policy can go on for ever in state 0"):
        prepare(models, 1.0)
    assert tables.prepare(models, 0.99).longest == pytest.approx(100)


@pytest.mark.parametrize("gamma", [0.8, 1.0])
def test_a_mixture_is_the_mean_of_the_tables(gamma):
    models = random_models(3, end=0.1 if gamma == 1 else 0.0)
    weights = np.array([0.5, 0.3, 0.2])
    b = tables.mixture_of(prepare(models, gamma), weights)
    chance = sum(weight * dense(model)[0] for weight, model in zip(weights, models, strict=True))
    reward = sum(weight * dense(model)[1] for weight, model in zip(weights, models, strict=True))
    values = np.random.default_rng(0).normal(size=STATES)
    np.testing.assert_allclose(b.matrix @ (b.reward + gamma * values[b.after]), reward + gamma * chance @ values)
    assert (b.action.tolist(), b.first.tolist()) == ([0, 1] * STATES, [0, 2, 4, 6])


def test_mixtures_find_the_best_where_no_model_alone_and_no_path_does():
    closed = 0
    for seed in range(60):
        models = prepare(random_models(seed, models=5), 0.9)
        found = solve_worst_case(models)
        if found.source == "the optimum of a mixture of the models":
            best = max(values_in_all(models, np.array(p)).min() for p in product(range(ACTIONS), repeat=STATES))
            others = [turn.values.min() for turn in found.iwocs] + [found.hull_values.min()]
            assert found.lower > max(others)
            closed += found.lower >= best - 1e-9
    assert closed >= 1


def test_weights_move_to_the_models_where_the_policies_get_least():
    models = prepare(random_models(5, models=3), 0.9)
    seen = []
    original = tables.mixture_of
    tables.mixture_of = lambda models, weights: seen.append(weights) or original(models, weights)
    try:
        found = tables.mixtures(models, 4)
    finally:
        tables.mixture_of = original
    total = np.zeros(3)
    for (_, values), before, after in zip(found, seen, seen[1:], strict=False):
        total += values
        assert after[total.argmin()] == after.max()
        np.testing.assert_allclose(before.sum(), 1)
