"""Finite MDPs as vector environments: what is played is the table, by frequency and by step."""

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch.testing import assert_close

from surefoot.envs import EnvConfig, FiniteEnv, Outcomes, SingleEnv, make_vec


def table(steps=3, seed=0):
    """Return three states, two actions, four outcomes; the last outcome of every action cannot happen."""
    g = torch.Generator().manual_seed(seed)
    probability = torch.rand(steps, 3, 2, 4, generator=g, dtype=torch.float64)
    probability[..., 3] = 0
    probability /= probability.sum(-1, keepdim=True)
    next_state = torch.randint(3, probability.shape, generator=g)
    reward = torch.arange(probability.numel(), dtype=torch.float64).view(probability.shape)  # names its cell
    return Outcomes(torch.tensor([0.25, 0.75, 0.0]).double(), next_state, probability, reward)


def test_draws_follow_the_table_of_their_step():
    outcomes, num_envs = table(), 200_000
    env = FiniteEnv(outcomes, num_envs, horizon=3)
    env.reset(seed=0)
    assert_close((env.state == 0).double().mean(), torch.tensor(0.25).double(), rtol=0, atol=0.005)
    for step in range(3):
        state, action = env.state, torch.arange(num_envs) % 2
        _, reward, terminated, truncated, info = env.step(action)
        cell = reward.long()
        assert_close(outcomes.next_state.flatten()[cell], info["final_obs"].argmax(-1))
        counts = torch.bincount(cell, minlength=outcomes.reward.numel()).view(outcomes.reward.shape).double()
        assert counts[[h for h in range(3) if h != step]].sum() == 0
        visits = torch.bincount(state * 2 + action, minlength=6).view(3, 2, 1)
        error = counts[step] / visits.clamp(min=1) - outcomes.probability[step] * (visits > 0)
        assert (error.abs() < 5 / visits.clamp(min=1).sqrt()).all()
        assert bool(truncated.all()) == (step == 2)
        assert not terminated.any()


def test_what_cannot_happen_never_does_however_the_rounding_falls():
    tenths = torch.tensor([0.1] * 10 + [0.0], dtype=torch.float64).view(1, 1, 1, 11)
    outcomes = Outcomes(
        torch.ones(1).double(), torch.zeros(1, 1, 1, 11).long(), tenths, torch.arange(11.0).view_as(tenths)
    )
    env = FiniteEnv(outcomes, 2)
    assert tenths.cumsum(-1)[..., -1] < 1.0  # the case that this is about
    just_below_one = torch.full((2, 1), 1 - 2**-53, dtype=torch.float64)
    assert ((just_below_one >= env._chances) == (torch.arange(11) < 9)).all()


def test_a_terminal_state_ends_the_episode_and_one_table_serves_every_step():
    outcomes = Outcomes(
        torch.tensor([1.0, 0.0]).double(),
        torch.tensor([[[[0], [1]], [[1], [1]]]]),
        torch.ones(1, 2, 2, 1).double(),
        torch.zeros(1, 2, 2, 1).double(),
    )
    env = FiniteEnv(outcomes, 2, terminal=torch.tensor([False, True]))
    env.reset(seed=0)
    for _ in range(4):
        obs, _, terminated, truncated, info = env.step(torch.tensor([0, 1]))
        assert terminated.tolist() == [False, True]
        assert not truncated.any()
        assert obs.argmax(-1).tolist() == [0, 0]
        assert info["final_obs"].argmax(-1).tolist() == [0, 1]


def test_what_the_rows_of_a_terminal_state_say_is_not_in_the_table():
    """They are never taken: with them a task worth 1 was solved as one worth 16."""
    outcomes = Outcomes(
        torch.tensor([1.0, 0.0]).double(),
        torch.tensor([[[[1]], [[0]]]]),
        torch.ones(1, 2, 1, 1).double(),
        torch.tensor([[[[1.0]], [[15.0]]]]).double(),
    )
    found = FiniteEnv(outcomes, terminal=torch.tensor([False, True])).tabular()
    assert found.next_state.flatten().tolist() == [1, 1]
    assert found.reward.flatten().tolist() == [1, 0]
    assert FiniteEnv(outcomes).tabular().reward.flatten().tolist() == [1, 15]


@pytest.mark.parametrize(
    ("terminal", "words"),
    [
        ([True, False], "state 0 is terminal, but an episode can start in it"),
        ([False], "terminal must be 2 booleans"),
        ([0, 1], "terminal must be 2 booleans"),
    ],
)
def test_terminal_states_are_checked(terminal, words):
    outcomes = Outcomes(
        torch.tensor([1.0, 0.0]).double(), torch.ones(1, 2, 1, 1).long(), *[torch.ones(1, 2, 1, 1).double()] * 2
    )
    with pytest.raises(ValueError, match=words):
        FiniteEnv(outcomes, terminal=torch.tensor(terminal))


def test_a_table_by_step_needs_its_horizon_and_state_is_saved():
    with pytest.raises(ValueError, match="the table has 3 steps, the horizon is None"):
        FiniteEnv(table())
    env, twin = FiniteEnv(table(), 50, horizon=3), FiniteEnv(table(), 50, horizon=3)
    env.reset(seed=1), twin.reset(seed=2)
    env.step(torch.ones(50).long())
    twin.load_state_dict(env.state_dict())
    for _ in range(5):
        for ours, theirs in zip(
            env.step(torch.zeros(50).long())[:4], twin.step(torch.zeros(50).long())[:4], strict=True
        ):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("task", "actions", "message"),
    [
        ("surefoot/Gate-v0", [1, 2], "Gate: the action of environment 1 is 2; actions go from 0 to 1"),
        ("surefoot/Gate-v0", [-1, 0], "Gate: the action of environment 0 is -1; actions go from 0 to 1"),
        ("surefoot/Tetris-v0", [0, -1], "Tetris: the action of environment 1 is -1; actions go from 0 to 19"),
        ("surefoot/Tetris-v0", [20, 0], "Tetris: the action of environment 0 is 20; actions go from 0 to 19"),
        ("surefoot/DynamicalLinear-v0", [-1, 0], "DynamicalLinear: the action of environment 0 is -1; actions"),
        ("surefoot/ContextualBandit-v0", [0, -1], "ContextualBandit: the action of environment 1 is -1; actions"),
    ],
)
def test_an_action_that_a_task_does_not_have_is_refused_and_reads_no_other_row(task, actions, message):
    env = make_vec(EnvConfig(task, num_envs=2))
    env.reset(seed=0)
    env.step(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=f"^{message}"):
        env.step(torch.tensor(actions))
    single = SingleEnv(lambda num_envs: FiniteEnv(table(), num_envs, horizon=3))
    single.reset(seed=0)
    with pytest.raises(ValueError, match="FiniteEnv: the action of environment 0 is -1"):
        single.step(-1)


def test_the_single_view_is_a_gymnasium_environment():
    env = SingleEnv(lambda num_envs: FiniteEnv(table(), num_envs, horizon=3))
    check_env(env, skip_render_check=True)
    assert env.reset(seed=3)[0].dtype == np.float32


def test_an_episode_played_at_once_follows_policies_and_table():
    outcomes, num_envs = table(), 120_000
    env = FiniteEnv(outcomes, num_envs, horizon=3)
    env.reset(seed=0)
    g = torch.Generator().manual_seed(1)
    policies = torch.rand(2, 3, 3, 2, generator=g, dtype=torch.float64)
    policies = policies / policies.sum(-1, keepdim=True)
    which = torch.arange(num_envs) % 2
    state, action, reward = env.play(policies[which])
    assert (state.shape, action.shape, reward.shape) == ((4, num_envs), (3, num_envs), (3, num_envs))
    assert_close((state[0] == 0).double().mean(), torch.tensor(0.25).double(), rtol=0, atol=0.005)
    for step in range(3):
        cell = reward[step].long()  # each reward names its cell
        assert torch.equal(cell // 4, (step * 3 + state[step]) * 2 + action[step])
        assert torch.equal(outcomes.next_state.flatten()[cell], state[step + 1])
        for half in (0, 1):
            row = (state[step] * 2 + action[step])[which == half]
            visits = torch.bincount(row, minlength=6).view(3, 2).double()
            total = visits.sum(-1, keepdim=True)
            error = (visits - total * policies[half, step]).abs()
            assert (error <= 5 * total.sqrt()).all()
        counts = torch.bincount(cell, minlength=outcomes.reward.numel()).view(outcomes.reward.shape).double()
        visits = counts[step].sum(-1, keepdim=True)
        assert ((counts[step] - visits * outcomes.probability[step]).abs() <= 5 * visits.sqrt()).all()
    other = FiniteEnv(outcomes, num_envs, horizon=3, max_episode_steps=2)
    with pytest.raises(ValueError, match="only episodes that all take the task's 3 steps"):
        other.play(policies[which])
