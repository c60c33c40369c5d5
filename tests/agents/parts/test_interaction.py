"""Acting: what a transition holds, when an off-policy agent acts at random and learns, and what a saved state keeps."""

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from tiny import ACT, OBS, DriftEnv

from surefoot.agents.interface import Budget
from surefoot.agents.parts.budget import whole_rollouts
from surefoot.agents.parts.interaction import Collector, Interaction, RolloutConfig, crosses
from surefoot.envs import EnvConfig, make_vec


class Still:
    """A policy whose exploring action is 0.5 everywhere."""

    action_dim = ACT

    def __init__(self) -> None:
        self.calls = []

    def act(self, obs, *, explore, generator):
        self.calls.append((explore, generator))
        return torch.full((len(obs), ACT), 0.5)


class Rows(list):
    push = list.append


def make_collector(num_envs=2, **changes):
    config = dataclasses.replace(RolloutConfig(rollout_steps=num_envs, learning_starts=0, random_steps=0), **changes)
    return Collector(Interaction(DriftEnv(num_envs), 0), torch.Generator().manual_seed(0), config)


def test_a_transition_holds_the_true_successor_and_an_episode_its_sums():
    interaction, action = Interaction(DriftEnv(2), seed=0), torch.full((2, ACT), 0.5)
    expected, total = torch.zeros(OBS), 0.0
    for step in range(1, 9):
        batch, episodes = interaction.step(action)
        torch.testing.assert_close(batch.obs[0], expected)
        expected = expected + torch.tensor([0.05, 0.05, 0.0])
        torch.testing.assert_close(batch.next_obs[1], expected)
        assert batch.terminated.tolist() == [0.0, 0.0]
        total += float(batch.reward[0])
        assert episodes.ended.tolist() == [step == 7] * 2
        assert episodes.length.tolist() == [step if step < 8 else 1] * 2
        assert episodes.episode_return.tolist() == pytest.approx([total] * 2, rel=1e-6)
        if step == 7:
            expected, total = torch.zeros(OBS), 0.0
    assert batch.reward.dtype == batch.terminated.dtype == torch.float32


def test_sums_of_an_episode_are_those_of_its_steps_in_a_gymnasium_task():
    """Which says by one tensor that no episode ended."""
    interaction = Interaction(make_vec(EnvConfig(id="Pendulum-v1", max_episode_steps=5, num_envs=2)), seed=0)
    rewards = []
    for step in range(1, 13):
        batch, episodes = interaction.step(torch.full((2, 1), 0.1 * step))
        rewards.append(batch.reward.double())
        assert episodes.ended.tolist() == [step % 5 == 0] * 2
        assert episodes.length.tolist() == [(step - 1) % 5 + 1] * 2
        torch.testing.assert_close(episodes.episode_return, sum(rewards), rtol=1e-6, atol=0)
        if step % 5 == 0:
            rewards.clear()


@pytest.mark.parametrize("begun", [None, torch.full((1, OBS), 9.0)])
def test_a_saved_interaction_goes_on_unless_its_environment_begins_anew(begun):
    interaction = Interaction(DriftEnv(1), seed=0)
    for _ in range(3):
        interaction.step(torch.ones(1, ACT))
    state = interaction.state_dict()
    fresh = Interaction(DriftEnv(1), seed=1)
    load, loads = fresh.env.load_state_dict, []
    fresh.env.load_state_dict = lambda saved: (loads.append(saved), load(saved), begun)[2]
    fresh.load_state_dict(state)
    assert len(loads) == 1  # a second time would replay, or begin, the episodes again
    assert fresh.begun_anew is (begun is not None)
    assert torch.equal(fresh.obs, interaction.obs if begun is None else begun)
    assert torch.equal(fresh.episode_return, interaction.episode_return * (begun is None))
    assert fresh.length.tolist() == [3 if begun is None else 0]


def test_actions_are_random_at_the_start_and_then_the_policys():
    collector, policy, rows = make_collector(random_steps=4), Still(), Rows()
    for _ in range(4):
        collector.advance(policy, rows)
        collector.updates_due = 0.0
    assert collector.env_steps == 8
    random = [not torch.equal(batch.action, torch.full((2, ACT), 0.5)) for batch in rows]
    assert random == [True, True, False, False]
    assert all(batch.action.abs().max() <= 1 for batch in rows)
    assert policy.calls == [(True, collector.generator)] * 2


@pytest.mark.parametrize(("updates_per_step", "due"), [(1.0, 4), (0.5, 2), (0.25, 1)])
def test_updates_are_due_for_every_step_and_spent_before_the_next_rollout(updates_per_step, due):
    collector, rows = make_collector(rollout_steps=4, updates_per_step=updates_per_step), Rows()
    assert len(collector.advance(Still(), rows)) == 2  # two steps of two environments
    assert len(rows) == 2
    taken = []
    for _ in range(due):
        assert collector.advance(Still(), rows) == ()  # nothing while updates are due
        taken.append(collector.take_update())
    assert [update for update, _ in taken] == [True] * due
    assert sum(steps for _, steps in taken) == 4  # each update takes its share of the steps
    assert {steps for _, steps in taken} == {4 // due}
    assert collector.take_update() == (False, 0)
    assert len(collector.advance(Still(), rows)) == 2
    assert collector.env_steps == 8


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.7, 1 / 3, 1.1])
@pytest.mark.parametrize("rollouts", [5, 50, 500])
def test_fractions_of_an_update_add_up_to_what_is_planned(rate, rollouts):
    collector, rows, made = make_collector(rollout_steps=2, updates_per_step=rate), Rows(), 0
    for _ in range(rollouts):
        collector.advance(Still(), rows)
        while collector.take_update()[0]:
            made += 1
        rows.clear()
    assert made == math.floor(2 * rollouts * Fraction(rate).limit_denominator(100))
    assert made == whole_rollouts(collector.config, Budget(2 * rollouts, num_envs=2))[1]


def test_nothing_is_learned_before_learning_starts_and_steps_are_counted_all_the_same():
    collector, rows = make_collector(learning_starts=4), Rows()
    counted = []
    for _ in range(3):
        collector.advance(Still(), rows)
        counted.append(collector.take_update())
        collector.updates_due = 0.0
    assert [update for update, _ in counted] == [False, False, True]  # from the first step beyond 4 on
    assert counted[0][1] == 2


def test_parameters_of_the_environments_are_stored_with_their_step():
    collector, rows, seen = make_collector(), Rows(), []

    def enter(obs):
        seen.append(obs)
        return torch.full((2, 1), 0.25)

    collector.advance(Still(), rows, enter)
    (row,) = rows
    assert torch.equal(seen[0], row.obs)
    assert row.parameters.tolist() == [[0.25], [0.25]]


def test_a_multiple_is_crossed_at_its_step_and_once():
    assert [crosses(n, n + 1, 3) for n in range(7)] == [False, False, True, False, False, True, False]
    assert crosses(0, 10, 3)
    assert not crosses(3, 5, 3)
