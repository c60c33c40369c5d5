"""NORA's table of actions, recorded episodes and what is required of a task, by hand (docs/derivations/nora.md §6)."""

from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from nora_tasks import Random, random_mdp

from surefoot import agents
from surefoot.agents.interface import Budget
from surefoot.agents.nora.data import coverage_of, recorded_episodes
from surefoot.agents.nora.policy import LARGEST_CODE, TablePolicy, bits_to_code, state_codes
from surefoot.agents.nora.tabular_critic import Episode, Range
from surefoot.agents.nora.task import checked_features, derive, plan, range_of, require_exact, require_within
from surefoot.agents.parts.tabular import greedy, occupancies, optimal_values


def loaded(actions, codes=()):
    policy = TablePolicy()
    policy.load_state_dict(
        {"actions": torch.tensor(actions, dtype=torch.int16), "codes": torch.tensor(codes, dtype=torch.int64)}
    )
    return policy


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_is_read_at_the_step_and_the_state_and_stays_at_its_last_step():
    policy = loaded([[0, 1, 2], [2, 1, 0]])
    shown = torch.eye(3)[[0, 2, 2, 1]]
    obs = torch.cat([shown, torch.tensor([[0.0], [0.0], [1.0], [7.0]])], -1)
    assert policy.act(obs).tolist() == [0, 2, 0, 1]
    assert policy.act(obs).dtype == torch.int64
    with pytest.raises(ValueError, match="the policy holds no actions yet"):
        TablePolicy().act(obs)


def test_states_shown_as_bits_are_found_by_their_code_and_others_refused():
    bits = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert bits_to_code(bits).tolist() == [6, 1, 4]
    policy = loaded([[5, 6, 7]], [6, 1, 4])
    assert policy.act(torch.cat([bits, torch.zeros(3, 1)], -1)).tolist() == [5, 6, 7]
    for strange in ([1.0, 1.0, 1.0], [0.0, 1.0, 0.0]):  # beyond the last code, and between two
        with pytest.raises(ValueError, match="an observation shows no state of the task"):
            policy.state_of(torch.stack([bits[0], torch.tensor(strange)]))


def test_what_is_saved_of_a_policy_and_loaded_is_a_copy():
    policy = loaded([[1, 2]], [0, 1])
    state = policy.state_dict()
    policy.actions += 1
    policy.codes += 1
    assert (state["actions"].tolist(), state["codes"].tolist()) == ([[1, 2]], [0, 1])
    policy.load_state_dict(state)
    policy.actions += 1
    policy.codes += 1
    assert (state["actions"].tolist(), state["codes"].tolist()) == ([[1, 2]], [0, 1])


def box(width):
    return gym.spaces.Box(0, 1, (width + 1,), np.float32)  # and the step


def test_states_are_one_hot_or_up_to_62_bits():
    assert LARGEST_CODE == 62
    device = torch.device("cpu")
    assert len(state_codes(SimpleNamespace(), box(5), 5, device)) == 0

    def observe(states):
        shown = torch.zeros(len(states[0]), 62)
        shown[:, -1] = states[0].float()
        return shown

    assert state_codes(SimpleNamespace(observe=observe), box(62), 2, device).tolist() == [0, 2**61]
    for env, width in ((SimpleNamespace(), 63), (SimpleNamespace(noise=0.1), 4), (SimpleNamespace(cells=2), 4)):
        with pytest.raises(ValueError, match=f"observations have {width} coordinates for 3 states"):
            state_codes(env, box(width), 3, device)


# --- recorded episodes ------------------------------------------------------------------------------------------------


def recording(states, actions):
    """Three-step episodes (E, 3) of states and actions, as a data set."""
    states, actions = torch.tensor(states).flatten(), torch.tensor(actions).flatten()
    step = torch.arange(3).repeat(len(states) // 3)
    obs = torch.cat([torch.eye(4)[states], step[:, None].float()], -1)
    reward = torch.arange(len(states)).float()
    ends = step == 2
    return SimpleNamespace(
        obs=obs, next_obs=obs.roll(-1, 0), action=actions[:, None].float(), reward=reward, episode_end=ends
    )


def test_recorded_episodes_are_everyones_or_split_in_their_order():
    env = Random(2, sizes=(4, 2, 3))
    data = recording(
        [[0, 1, 2], [1, 1, 1], [3, 2, 1], [0, 0, 0], [2, 2, 2]], [[0, 1, 1], [0] * 3, [1] * 3, [0] * 3, [1, 0, 0]]
    )
    shared = recorded_episodes(data, env, 2, "shared")
    assert shared.state.shape == (3, 2, 5)
    assert shared.state[:, 0].T.tolist() == [[0, 1, 2], [1, 1, 1], [3, 2, 1], [0, 0, 0], [2, 2, 2]]
    assert torch.equal(shared.action[:, 0], shared.action[:, 1])
    assert shared.reward[:, 1, 4].tolist() == [12.0, 13.0, 14.0]
    split = recorded_episodes(data, env, 2, "split")  # two each, the fifth is left out
    assert split.state.shape == (3, 2, 2)
    assert split.state[:, 0].T.tolist() == [[0, 1, 2], [1, 1, 1]]
    assert split.state[:, 1].T.tolist() == [[3, 2, 1], [0, 0, 0]]
    assert split.next_state[:2, 1, 0].tolist() == [2, 1]
    with pytest.raises(ValueError, match="5 recorded episodes cannot be split among 6 replicates"):
        recorded_episodes(data, env, 6, "split")
    for strange in (-1, 2):
        data.action[4] = strange
        with pytest.raises(ValueError, match=r"the data's actions are not numbers 0 … 1"):
            recorded_episodes(data, env, 2, "shared")


def test_coverage_is_what_the_best_policy_visits_and_the_data_hold():
    mdp, horizon = random_mdp((4, 2, 3), seed=1), 3
    best = occupancies(mdp, greedy(optimal_values(mdp, horizon)))  # (H, S, A)
    states, actions = torch.cartesian_prod(torch.arange(4), torch.arange(2)).T
    everything = Episode(*(x.expand(3, 1, 8) for x in (states, actions, torch.zeros(8), states)))
    found = coverage_of(mdp, everything, horizon)
    assert found.covered.tolist() == pytest.approx([1.0])
    assert found.concentrability.tolist() == pytest.approx([8 * float(best.max())])  # μ = 1/8 everywhere
    lone = Episode(*(x[:, :, :1] for x in everything))  # the state and action 0 alone
    part = coverage_of(mdp, lone, horizon)
    assert part.covered.tolist() == pytest.approx([float(best[:, 0, 0].sum()) / 3])
    assert part.concentrability.tolist() == [float("inf")]


# --- what is required of a task ---------------------------------------------------------------------------------------


def test_a_task_is_finite_with_a_horizon_and_the_step():
    env = Random(1)
    assert require_exact(env) is env
    tabular = lambda: None  # noqa: E731
    for env, message in (
        (SimpleNamespace(), "need tabular MDPs"),
        (SimpleNamespace(tabular=tabular, horizon=None, time_aware=True), "set --env.kwargs horizon"),
        (SimpleNamespace(tabular=tabular, horizon=3, time_aware=False), "pass --env.time-aware"),
    ):
        with pytest.raises(ValueError, match=message):
            require_exact(env)


def test_the_clip_range_is_the_tasks_or_what_rewards_can_sum_up_to():
    env = Random(1, sizes=(4, 2, 3))
    assert [bound.tolist() for bound in range_of(env, None)] == [[0, 0, 0], [3, 2, 1]]
    assert [bound.tolist() for bound in range_of(env, (-1.0, 0.5))] == [[-3, -2, -1], [1.5, 1, 0.5]]
    with pytest.raises(ValueError, match=r"pass --agent.reward-range LOW HIGH"):
        range_of(SimpleNamespace(horizon=3), None)
    for bounds in (([0.0, 0.0], [1.0, 1.0]), ([0.0, 0.0, 1.0], [1.0, 1.0, 1.0])):
        wrong = SimpleNamespace(horizon=3, value_range=tuple(map(torch.tensor, bounds)))
        with pytest.raises(ValueError, match="expected 3 pairs low < high"):
            range_of(wrong, None)


def test_rewards_must_sum_up_within_the_clip_range():
    bounds = Range(torch.zeros(2).double(), torch.tensor([2.0, 1.0]).double())
    require_within(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), bounds, "here")
    with pytest.raises(
        ValueError, match=r"here: rewards from step 2 on sum to 1.5, outside of the clip range \[0, 1\]"
    ):
        require_within(torch.tensor([[0.0, 0.5], [0.0, 1.5]]), bounds, "here")
    with pytest.raises(ValueError, match=r"rewards from step 1 on sum to -0.5"):
        require_within(torch.tensor([[-0.5], [0.0]]), bounds, "here")


def test_features_fit_the_table_and_the_unit_ball():
    env = Random(1, sizes=(4, 2, 3))
    features, shape = checked_features(env, 4, 2)
    assert shape == (1, 8)
    values, block = features(torch.tensor([1]))
    assert values.tolist() == torch.eye(8)[None, 2:4].tolist()
    assert block.tolist() == [[0, 0]]
    blocks = SimpleNamespace(features=env.features, blocks=torch.tensor([0, 4]), tabular=env.tabular)
    blocks.block_features = lambda state: (env.features(state), torch.full((4, 2), 4))
    assert checked_features(blocks, 4, 2)[1] == (5, 8)
    with pytest.raises(ValueError, match=r"features of all states are .*; expected \(4, 3, d\)"):
        checked_features(env, 4, 3)
    long = SimpleNamespace(features=lambda state: 1.5 * env.features(state), tabular=env.tabular)
    with pytest.raises(ValueError, match=r"the longest feature vector has norm 1.5"):
        checked_features(long, 4, 2)
    with pytest.raises(ValueError, match="needs a task with features"):
        checked_features(SimpleNamespace(), 4, 2)


def budget(steps, horizon=4):
    return Budget(steps=steps, num_envs=1, episode_length=lambda: horizon)


def test_the_episodes_of_a_run_are_derived_planned_and_not_exceeded():
    config = agents.get("nora").default
    assert config.needs_episodes
    assert derive(config, budget(10)).episodes == 3
    assert derive(config, budget(12)).episodes == 3
    given = replace(config, episodes=7)
    assert derive(given, budget(10)) is given
    assert derive(config, budget(10, None)) is config
    planned = plan(replace(config, episodes=3), budget(10))
    assert planned[:2] == (12, 3)
    assert "3 episodes of 4 steps" in planned[2]
    with pytest.raises(ValueError, match=r"--agent.episodes is 2, but the run has 3 episodes"):
        plan(replace(config, episodes=2), budget(10))
    assert plan(config, budget(10, None))[0] == 10
