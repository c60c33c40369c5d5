"""The adversary that chooses when, on a task whose weakest moment is known."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.envs import BatchedPerturbedEnvs, EnvConfig, Parameter, UncertaintySet
from surefoot.evaluation import worst_moment as search
from surefoot.evaluation.worst_moment import timed, worst_moment

WEAKEST = 23


class Fragile(gym.Env):
    """40 steps of reward 1, less `load` · weakness, which is greatest at step 23 and falls off linearly from there."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    param_names = ("load",)
    low, high, nominal = np.array([0.0]), np.array([1.0]), np.array([0.0])

    def set_params(self, values):
        self.load = float(values[0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.luck = self.np_random.normal()
        return np.zeros(1, np.float32), {}

    def step(self, action):
        reward = 1.0 - self.load * max(0.0, 10 - abs(self.t - WEAKEST)) + 0.01 * self.luck
        self.t += 1
        return np.full(1, self.t, np.float32), reward, False, self.t == 40, {}


if "Fragile-v0" not in gym.registry:
    gym.register("Fragile-v0", Fragile, max_episode_steps=40)

LOAD = UncertaintySet("load", "Fragile-v0", (Parameter("load", 0.0, 1.0),))


def idle(obs):
    return torch.zeros(len(obs), dtype=torch.int64)


def test_the_search_finds_the_weakest_step_and_measures_it_again_on_other_seeds():
    found = worst_moment(idle, EnvConfig("Fragile-v0"), LOAD, {"load": 0.5}, duration=1, moments=8, episodes=3)
    assert found.onset == WEAKEST
    np.testing.assert_allclose([found.mean - found.tried[0]], -0.5 * 10, atol=1e-5)  # the same seeds, the same luck
    np.testing.assert_allclose(found.fresh - found.nominal, -0.5 * 10, atol=1e-5)
    assert found.mean != found.fresh
    assert found.interval.low < found.fresh < found.interval.high < found.nominal
    assert found.episodes == 3 * (len(found.tried) + 3)
    assert len(found.tried) < 20  # of 40


@pytest.mark.parametrize(("moments", "first"), [(1, 1), (8, 8), (16, 14), (31, 20), (39, 20), (40, 40), (100, 40)])
def test_no_more_moments_are_tried_at_first_than_were_asked_for(moments, first, monkeypatch):
    tried = []

    class Noted(BatchedPerturbedEnvs):
        def play(self, act, points, seeds):
            tried.append(points[:, self.names.index("onset")].tolist())
            return super().play(act, points, seeds)

    monkeypatch.setattr(search, "BatchedPerturbedEnvs", Noted)
    search.worst_moment(idle, EnvConfig("Fragile-v0"), LOAD, {"load": 0.5}, duration=1, moments=moments, episodes=1)
    _, onsets, *_ = tried  # after the nominal episodes
    assert len(onsets) == first <= moments
    assert len(set(np.diff(onsets))) <= 1  # evenly
    assert onsets[0] == 0


def test_a_longer_disturbance_has_an_earlier_worst_onset_and_the_whole_episode_the_first():
    config = EnvConfig("Fragile-v0")
    longer = worst_moment(idle, config, LOAD, {"load": 0.5}, duration=5, moments=20, episodes=2)
    assert longer.onset == WEAKEST - 2
    assert worst_moment(idle, config, LOAD, {"load": 0.5}, episodes=1).onset == 0


def test_onset_and_duration_join_a_set_once():
    both = timed(timed(LOAD, 40), 40)
    assert both.param_names == ("load", "onset", "duration")
    assert both.parameters[1] == Parameter("onset", 0.0, 40.0, 0.0)


def test_bad_input_is_one_line():
    for wrong in ({"moments": 0}, {"episodes": 0}, {"duration": 0}):
        with pytest.raises(ValueError, match="needs at least 1"):
            worst_moment(idle, EnvConfig("Fragile-v0"), LOAD, {"load": 0.5}, **wrong)
    with pytest.raises(ValueError, match="load has no parameter 'weight'; it has load, onset, duration"):
        worst_moment(idle, EnvConfig("Fragile-v0"), LOAD, {"weight": 0.5})
