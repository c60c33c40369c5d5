"""Bounds of a system, fixed policies, what the learners share, by hand (docs/derivations/dynlin.md §1, §6, §8, §10)."""

import warnings
from dataclasses import replace
from types import SimpleNamespace
from typing import Literal, get_type_hints

import numpy as np
import pytest
import torch
from bandits import NAMES, make

from surefoot import agents
from surefoot.agents.dynlin.bandit import BanditProblem, ConstantPolicy, Turns, derive, plan
from surefoot.agents.dynlin.bounds import (
    Bounds,
    constants,
    epoch_repeats,
    epochs_within,
    from_given,
    from_system,
    named,
    non_normality,
    spectral_radius,
)
from surefoot.agents.dynlin.exp3 import arm_probabilities
from surefoot.agents.dynlin.fixed import FixedConfig, HumanBudgetConfig, human_budget_action, make_oracle
from surefoot.agents.dynlin.learners import bounds_of, require_horizon, table_of
from surefoot.agents.dynlin.linucb import DLinUCBConfig
from surefoot.agents.interface import Budget
from surefoot.agents.parts.ranges import unread_by

A = np.array([[0.5, 1.0], [0.0, -0.8]])
SYSTEM = SimpleNamespace(
    A=A, B=np.diag([3.0, 1.0]), omega=np.array([3.0, 4.0]), theta=np.array([0.6, 0.8]), output_noise=0.1
)


def problem(actions, h=(1.0, 0.0), num_envs=2):
    table = None if actions is None else np.array(actions)
    return BanditProblem(table, None, 2, num_envs, 0, torch.device("cpu"), SYSTEM, {}, h)


def test_the_bounds_of_a_system_are_those_of_its_matrices():
    assert spectral_radius(A) == 0.8
    powers = [np.linalg.norm(np.linalg.matrix_power(A, k), 2) / 0.8**k for k in range(6)]
    assert non_normality(A, 5) == pytest.approx(max(powers))
    assert non_normality(np.zeros((2, 2))) == 1.0
    with pytest.raises(ValueError, match="A is nilpotent"):
        non_normality(np.array([[0.0, 1.0], [0.0, 0.0]]))
    found = from_system(SYSTEM, 2.0, powers=5)
    expected = {"rho": 0.8, "phi": max(powers), "omega": 5.0, "theta": 1.0, "b": 3.0, "u": 2.0, "x": 10.0, "sigma": 0.1}
    assert found._asdict() == pytest.approx(expected)


def test_given_bounds_stand_in_place_of_the_systems_and_one_too_small_is_warned_of():
    given = from_system(SYSTEM, 2.0, {"rho": 0.9, "u": 4.0, "phi": 7.0, "b": None})
    assert (given.rho, given.u, given.phi, given.b) == (0.9, 4.0, 7.0, 3.0)
    assert given.x == pytest.approx(40.0)
    with warnings.catch_warnings(action="error"):
        from_system(SYSTEM, 2.0, {"rho": 0.8, "phi": 1.0})  # the very radius
    with pytest.warns(UserWarning, match="--agent.spectral-radius-bound 0.79 is below the spectral radius 0.8"):
        from_system(SYSTEM, 2.0, {"rho": 0.79, "phi": 1.0})


def test_the_constants_of_the_radius_are_those_of_the_derivation():
    """ŪΩΦ̄(ŪB̄/(1 − ρ̄) + X̄), Θ + ΩB̄Φ̄/(1 − ρ̄) and σ²(1 + Ω²Φ̄²/(1 − ρ̄²))."""
    bounds = Bounds(rho=0.5, phi=2.0, omega=3.0, theta=5.0, b=7.0, u=11.0, x=13.0, sigma=2.0)
    assert constants(bounds) == pytest.approx((66 * (154 + 13), 5 + 84, 4 * (1 + 36 / 0.75)))


def test_bounds_that_are_left_out_are_those_of_a_normal_system_and_the_others_have_ranges():
    known = named({"spectral_radius": 0.5, "action_weight": 0, "input_matrix": 2.0, "noise_std": 0.1})
    assert known == {"rho": 0.5, "theta": 0.0, "b": 2.0, "sigma": 0.1}
    assert from_given(known, 3.0) == Bounds(0.5, 1.0, 1.0, 0.0, 2.0, 3.0, 6.0, 0.1)
    assert from_given(known | {"phi": 4.0, "omega": 2.0, "u": 5.0}, 3.0)[1:3] == (4.0, 2.0)
    assert from_given(known | {"u": 5.0}, 3.0).x == 10.0
    assert named({"non_normality": 1, "spectral_radius": 0.0}) == {"phi": 1.0, "rho": 0.0}
    for wrong in ({"non_normality": 0.9}, {"spectral_radius": 1.0}, {"noise_std": -0.1}, {"state_norm": True}):
        with pytest.raises(ValueError, match=r"it must be in \[[01], (1|inf)\)"):
            named(wrong)


def test_a_horizon_that_is_over_is_doubled_as_often_as_it_takes_if_it_may_be():
    learner = SimpleNamespace(choose=lambda t: (torch.zeros(1), 1), extended=[])
    learner.extend = learner.extended.append
    for doubling, t, horizon, seen in (
        (True, 3, 4, []),
        (True, 4, 8, [8]),
        (True, 33, 64, [8, 16, 32, 64]),
        (False, 4, 4, []),
    ):
        learner.extended.clear()
        turns = Turns(learner, SimpleNamespace(doubling=doubling, horizon=4), 1, torch.device("cpu"))
        turns.t = t
        turns.begin()
        assert (turns.horizon, learner.extended) == (horizon, seen)


def test_no_round_is_planned_after_the_horizon_that_constants_are_made_for():
    config = replace(agents.get("linucb").default, horizon=900)
    assert plan(config, Budget(900)).phases == ("900 rounds",)
    assert plan(config, Budget(700)).phases == ("700 rounds, constants for 900",)
    assert plan(FixedConfig(horizon=900), Budget(700)).phases == ("700 rounds",)
    assert "doubled when over" in plan(replace(config, doubling=True), Budget(5_000)).phases[0]
    with pytest.raises(ValueError, match=r"--agent.horizon is 900, but the run has 901 rounds"):
        plan(config, Budget(901))


def test_what_a_bandit_does_not_read_is_said():
    idle = {name: " ".join(unread_by(agents.get(name).default)) for name in NAMES}
    assert {name: fields for name, fields in idle.items() if fields} == {
        **dict.fromkeys(("linucb-log", "d-linucb-log", "d-linucb"), "action_bound"),
        **{"linucb": "action_bound gamma", "linucb-paper": "gamma", "exp3": "repeat"},
        **dict.fromkeys(("ar2", "human-budget", "oracle", "uniform"), "doubling"),
    }
    given = replace(agents.get("dynlin-ucb").default, ridge=1.0, failure_probability=0.1)
    assert unread_by(given) == {"doubling": "where no constant is computed for a horizon"}
    assert get_type_hints(DLinUCBConfig)["variant"] == Literal["textbook", "paper"]  # "log" is no form of this one


@pytest.mark.parametrize("name", ["linucb", "linucb-log", "d-linucb"])
def test_linucb_chooses_anew_in_every_round(name):
    learner = make(name, num_envs=3, horizon=100).learner
    assert [learner.choose(t)[1] for t in (0, 1, 50)] == [1, 1, 1]


def test_epochs_repeat_by_the_logarithm_of_their_number_and_fill_the_horizon():
    assert [epoch_repeats(m, 0.5) for m in (1, 2, 3, 4, 8)] == [0, 1, 1, 2, 3]
    assert [epoch_repeats(m, 0.5, "ceil") for m in (1, 2, 3, 4, 8)] == [0, 1, 2, 2, 3]
    assert epoch_repeats(5, 0.0) == 0
    assert [epochs_within(rounds, 0.5) for rounds in (1, 2, 3, 4, 5, 6, 8, 9)] == [1, 2, 2, 3, 3, 4, 4, 5]


def test_a_budget_is_shared_out_in_proportion_but_none_above_one():
    action = human_budget_action((1.0, 2.0, 7.0), 1.5)
    assert action == pytest.approx([1 / 6, 1 / 3, 1.0])  # 0.7 · 1.5 is clipped, the rest is 1 : 2
    assert human_budget_action((1.0, 1.0, 2.0), 1.5) == pytest.approx([0.375, 0.375, 0.75])
    # 0.45 · 2.5 is clipped; the rest is 38 : 17 of 1.5, of which the first is clipped, too.
    assert human_budget_action((45.0, 38.0, 17.0), 2.5) == pytest.approx([1.0, 1.0, 0.5])
    assert human_budget_action((3.0,), 1.0) == pytest.approx([1.0])
    assert human_budget_action((1.0, 2.0), 2.0) == pytest.approx([1.0, 1.0])
    default = HumanBudgetConfig()
    assert human_budget_action(default.budgets, default.daily_budget).sum() == pytest.approx(1.5)
    with pytest.raises(ValueError, match=r"--agent.rounds-per-step must be at least 1"):
        FixedConfig(rounds_per_step=0)


def test_the_oracle_plays_the_best_action_and_the_bound_on_actions_is_that_of_the_longest():
    actions = [[0.6, 0.0], [0.0, 2.0], [1.0, 1.0]]
    assert make_oracle(FixedConfig(), problem(actions, h=np.array([1.0, 0.25]))).greedy().tolist() == [2, 2]
    assert bounds_of(problem(actions)).u == pytest.approx(2.0)
    assert bounds_of(problem([[3.0, 4.0], [1.0, 1.0]])).u == pytest.approx(5.0)
    assert table_of(problem(actions)).actions.tolist() == actions
    with pytest.raises(ValueError, match="only dynlin-ucb plays on a ball"):
        table_of(problem(None))


def test_a_horizon_is_two_rounds_at_least_and_that_of_the_run_where_it_is_needed():
    config = agents.get("linucb").default
    assert require_horizon(replace(config, horizon=2)) == 2
    for horizon in (None, 1):
        with pytest.raises(ValueError, match=r"--agent.horizon is missing"):
            require_horizon(replace(config, horizon=horizon))
    budget = SimpleNamespace(steps=500)
    assert derive(config, budget).horizon == 500
    given = replace(config, horizon=30)
    assert derive(given, budget) is given
    for doubling in (False, True):  # where no constant needs one, the run ends there all the same
        assert derive(FixedConfig(doubling=doubling), budget).horizon == 500


GIVEN = {"ridge": 1.0, "failure_probability": 0.1}


@pytest.mark.parametrize(("name", "settings"), [("uniform", {}), ("ar2", {}), ("linucb", {}), ("dynlin-ucb", GIVEN)])
def test_a_run_ends_at_its_last_round_as_planned(name, settings):
    config = derive(replace(agents.get(name).default, **settings), Budget(1050))
    assert plan(config, Budget(1050)) == (1050, None, ("1,050 rounds",))
    bandit = make(name, horizon=config.horizon, **settings)
    assert sum(bandit.step().env_steps for _ in range(11)) == bandit.regret.t == 1050


def test_a_run_that_no_horizon_ends_is_planned_to_the_end_of_a_step():
    config = replace(agents.get("linucb").default, horizon=1100)
    for horizon, rounds in ((1100, 1100), (1075, 1075), (2000, 1100), (1050, 1050)):
        assert plan(replace(config, horizon=horizon), Budget(1050)).steps == rounds
    assert plan(FixedConfig(horizon=500), Budget(1050)) == (1100, None, ("1,100 rounds",))  # resumed with more steps
    assert plan(replace(config, doubling=True), Budget(1050)).steps == 1100


def test_a_constant_policy_repeats_its_actions_over_the_environments_and_is_saved_as_a_copy():
    policy = ConstantPolicy()
    with pytest.raises(ValueError, match="the policy holds no action yet"):
        policy.act(torch.zeros(1, 1))
    policy.action = torch.tensor([4, 2, 7])
    assert policy.act(torch.zeros(5, 1)).tolist() == [4, 2, 7, 4, 2]
    state = policy.state_dict()
    policy.action += 1
    assert state["action"].tolist() == [4, 2, 7]
    policy.load_state_dict(state)
    policy.action += 1
    assert state["action"].tolist() == [4, 2, 7]


def test_arms_are_drawn_by_their_probabilities_of_which_some_is_uniform():
    gains = torch.tensor([[0.0], [3.0], [1.0]]).double()
    weights = (0.6 / 3 * gains).exp()
    assert torch.allclose(arm_probabilities(gains, 0.6), 0.4 * weights / weights.sum() + 0.2)
    bandit = make("exp3", num_envs=20_000, horizon=100).learner
    bandit.probabilities = torch.tensor([0.2, 0.5, 0.3]).double()[:, None].expand(3, 20_000)
    share = torch.bincount(bandit.draw(), minlength=3) / 20_000
    assert share.tolist() == pytest.approx([0.2, 0.5, 0.3], abs=0.012)


def test_a_step_ends_at_a_multiple_of_its_rounds_and_at_the_horizon():
    bandit = make("uniform", horizon=25, rounds_per_step=10)
    assert [bandit.step().env_steps for _ in range(4)] == [10, 10, 5, 5]  # 25 is the horizon, 30 the next multiple
    without = make("uniform", rounds_per_step=7)
    assert [without.step().env_steps for _ in range(2)] == [7, 7]


def test_the_discounts_of_the_baselines_are_those_of_the_derivation():
    variants = {name: agents.get(name).default for name in ("d-linucb", "d-linucb-paper", "d-linucb-log")}
    assert {name: (one.variant, one.gamma) for name, one in variants.items()} == {
        "d-linucb": ("textbook", 1 - 1e-4),
        "d-linucb-paper": ("paper", 1 - 1e-9),
        "d-linucb-log": ("log", 0.999999),
    }
    assert [agents.get(name).default.variant for name in ("linucb", "linucb-paper", "linucb-log")] == [
        "textbook",
        "paper",
        "log",
    ]
