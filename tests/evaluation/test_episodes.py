"""Returns of scripted episodes are known exactly, whatever environment runs them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from surefoot.envs import EnvConfig, Parameter, Physics, UncertaintySet, play
from surefoot.evaluation import episodes as evaluation
from surefoot.evaluation.episodes import divergence, evaluate, score_of

SCRIPTED = EnvConfig("ScriptedReturns-v0")


def half(obs):
    return torch.full((len(obs), 1), 0.5)


def expected(seeds):
    lengths = np.array([seed % 3 + 2 for seed in seeds])
    return lengths * (np.array(seeds) + 0.5), lengths


@pytest.mark.parametrize("num_envs", [1, 2, 3, 7, 32])
def test_episode_i_is_the_one_of_reset_seed_i(num_envs):
    result = evaluate(half, SCRIPTED, episodes=7, seed=4, num_envs=num_envs)
    returns, lengths = expected(range(4, 11))
    np.testing.assert_array_equal(result.returns, returns)  # a second episode of an environment would pay a million
    np.testing.assert_array_equal(result.lengths, lengths)
    assert result.score is None


def test_every_environment_has_one_row_of_one_call():
    calls = []

    def act(obs):
        calls.append(obs.clone())
        assert torch.is_inference_mode_enabled()
        return half(obs)

    evaluate(act, SCRIPTED, episodes=5, seed=0)
    assert len(calls) == 4  # the longest episode, not the sum
    assert all(obs.shape == (5, 2) for obs in calls)
    np.testing.assert_array_equal(calls[0][:, 0], [0, 1, 2, 3, 4])


def test_same_call_same_bits_and_no_global_randomness():
    config = EnvConfig("HalfCheetah-v5", max_episode_steps=15)
    weight = torch.randn(17, 6, generator=torch.Generator().manual_seed(0))

    def act(obs):
        return torch.tanh(obs @ weight)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = evaluate(act, config, episodes=3, seed=8)
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    second = evaluate(act, config, episodes=3, seed=8)
    np.testing.assert_array_equal(first.returns, second.returns)
    other = evaluate(act, config, episodes=3, seed=9)
    np.testing.assert_allclose(other.returns[:2], first.returns[1:], rtol=1e-5)
    assert first.returns[0] != first.returns[1]


@pytest.mark.parametrize("limit", [None, 1000, 999, 20])
def test_a_score_is_of_episodes_as_long_as_those_of_its_references(limit):
    returns = np.array([100.0, 2000.0])
    for change in ({}, {"action_repeat": 4}):  # a limit counts the task's own steps
        score = score_of(EnvConfig("HalfCheetah-v5", max_episode_steps=limit, **change), returns)
        if limit in (None, 1000):  # the constants of D4RL's infos.py
            np.testing.assert_allclose(score, 100 * (returns + 280.178953) / (12135.0 + 280.178953))
        else:
            assert score is None
    assert score_of(EnvConfig("Swimmer-v5"), returns) is None


def test_an_evaluation_of_shorter_episodes_has_no_score():
    config = EnvConfig("HalfCheetah-v5", max_episode_steps=2)
    assert evaluate(lambda obs: torch.zeros(len(obs), 6), config, episodes=1, seed=0).score is None


def test_returns_are_summed_in_double_precision():
    config = EnvConfig("ScriptedReturns-v0", max_episode_steps=1000, kwargs={"endless": True})
    result = evaluate(lambda obs: torch.full((len(obs), 1), 0.1), config, episodes=1, seed=2**20)
    # each float32 reward is exact to 1/8; a float32 sum would lose these eighths
    assert result.returns[0] == 1000 * float(np.float32(2**20 + 0.1))


def test_a_task_that_never_ends_is_an_error(monkeypatch):
    monkeypatch.setattr(evaluation, "LONGEST_EPISODE", 50)
    with pytest.raises(ValueError, match=r"no end of an episode after 50 steps.*max-episode-steps"):
        evaluate(half, EnvConfig("ScriptedReturns-v0", kwargs={"endless": True}), episodes=1, seed=0)


def test_no_episodes_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        evaluate(half, SCRIPTED, episodes=0, seed=0)


def swims(seeds):
    """Let every environment swim after as many steps as its seed says: too much for bodies that weigh a hundredth."""
    steps = iter(range(100))

    def act(obs):
        moves = torch.tensor([next(steps)]) >= torch.tensor(seeds)
        return torch.where(moves[:, None], torch.tensor([1.0, -1.0]), 0.0)

    return act


@pytest.mark.parametrize("parameters", [(), ("control_delay=0",)])  # each looks at MuJoCo's counters in its own way
def test_an_episode_counts_up_to_where_its_physics_diverged_and_says_so(parameters):
    light = EnvConfig("Swimmer-v5", Physics(mass=0.01, parameters=parameters), max_episode_steps=8)
    result = evaluate(swims([3, 99, 5]), light, episodes=3, seed=1)
    assert result.broken.tolist() == [True, False, True]
    assert result.lengths.tolist() == [4, 8, 6]  # with the step that diverged, which pays nothing
    still = [
        evaluate(swims([99]), replace(light, max_episode_steps=n), episodes=1, seed=1 + i).returns[0]
        for i, n in enumerate([3, 8, 5])
    ]
    np.testing.assert_array_equal(result.returns, still)


def test_a_diverged_episode_is_as_long_in_a_set_as_without():
    light = EnvConfig("Swimmer-v5", Physics(mass=0.01), max_episode_steps=8)
    one = UncertaintySet("own", "Swimmer-v5", (Parameter("sensor_drop", 0.0, 0.5),))
    played = play(swims([3, 99, 5]), light, one, np.zeros((3, 1)), [1, 2, 3])
    result = evaluate(swims([3, 99, 5]), light, episodes=3, seed=1)
    for name in ("lengths", "broken"):
        np.testing.assert_array_equal(getattr(played, name), getattr(result, name))
    np.testing.assert_array_equal(played.returns, result.returns)


def test_physics_that_holds_is_not_said_to_have_diverged():
    result = evaluate(half, SCRIPTED, episodes=3, seed=4)
    assert result.broken.tolist() == [False] * 3
    assert divergence(int(result.broken.sum()), 3) == ""
    assert divergence(2, 3) == "the physics diverged in 2 of 3 episodes; those episodes count up to there"
