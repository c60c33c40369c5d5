"""Actions held for several steps of the task: sums of rewards, whose steps a limit counts, and who refuses."""

from dataclasses import asdict

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.envs import EnvConfig, episode_limit, make_vec, play, spaces_of
from surefoot.envs.action_repeat import ActionRepeat
from surefoot.envs.uncertainty.published import find_set
from surefoot.evaluation.describe import describe


class Counting(gym.Env):
    """Step k has observation k and reward 10 ** k, and the task terminates at the fifth."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += 1
        ended = self.count == 5
        return np.full(1, self.count, np.float32), 10.0**self.count, ended, False, {"count": self.count}


def test_a_reward_is_the_sum_of_those_that_were_earned_before_the_end():
    env = ActionRepeat(Counting(), 2)
    env.reset()
    found = [env.step(np.zeros(1)) for _ in range(3)]
    assert [float(obs[0]) for obs, *_ in found] == [2, 4, 5]
    assert [reward for _, reward, *_ in found] == [110.0, 11_000.0, 100_000.0]
    assert [terminated for _, _, terminated, *_ in found] == [False, False, True]
    assert [info["count"] for *_, info in found] == [2, 4, 5]


def test_a_step_is_two_of_the_task_and_the_limit_counts_the_tasks():
    plain = EnvConfig("HalfCheetah-v5", max_episode_steps=5)
    held = EnvConfig("HalfCheetah-v5", max_episode_steps=5, action_repeat=2, time_aware=True)
    assert (episode_limit(plain), episode_limit(held)) == (5, 3)
    assert episode_limit(EnvConfig("HalfCheetah-v5", action_repeat=3)) == 334
    singles, doubles = make_vec(plain), make_vec(held)
    assert (singles.episode_limit, doubles.episode_limit) == (5, 3)
    singles.reset(seed=0)
    assert doubles.reset(seed=0)[0][0, -1] == 0
    for k, parts in enumerate([2, 2, 1], start=1):
        action = torch.full((1, 6), 0.3 * k)
        steps = [singles.step(action) for _ in range(parts)]
        _, reward, terminated, truncated, info = doubles.step(action)
        torch.testing.assert_close(reward, sum(step[1] for step in steps), rtol=1e-6, atol=0)
        assert torch.equal(info["final_obs"][:, :-1], steps[-1][4]["final_obs"])
        assert info["final_obs"][0, -1] == k  # steps of the agent
        assert (bool(terminated), bool(truncated)) == (False, k == 3)


def test_episodes_in_a_set_hold_their_actions_too():
    masses, points, seeds = find_set("inverted-pendulum-1"), np.array([[2.0], [9.0]]), [3, 4]

    def push(obs):
        return torch.full((len(obs), 1), 0.2)

    plain = play(push, EnvConfig("InvertedPendulum-v5"), masses, points, seeds)
    held = play(push, EnvConfig("InvertedPendulum-v5", action_repeat=2), masses, points, seeds)
    # The action is always the same, so the episodes are; a step in which the pole falls earns nothing.
    assert held.returns.tolist() == plain.returns.tolist()
    assert held.lengths.tolist() == [-(-length // 2) for length in plain.lengths.tolist()]


def test_a_held_action_is_part_of_the_task_in_words():
    assert describe(asdict(EnvConfig("Hopper-v5", action_repeat=2))) == "Hopper-v5, action repeat 2"
    before = {name: value for name, value in asdict(EnvConfig("Hopper-v5")).items() if name != "action_repeat"}
    assert describe(before) == "Hopper-v5"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id": "surefoot/Pendulum-v0"}, "--env.action-repeat is for Gymnasium's own interface; surefoot/Pendulum-v0"),
        ({"id": "Hopper-v5", "backend": "warp"}, "--env.backend warp does not serve --env.action-repeat"),
    ],
)
def test_who_steps_all_copies_at_once_refuses(config, message):
    for make in (make_vec, spaces_of) if "backend" not in config else (make_vec,):
        with pytest.raises(ValueError, match=message):
            make(EnvConfig(**config, action_repeat=2))


@pytest.mark.parametrize("repeats", [0, -1, 1001])
def test_numbers_that_are_none_are_refused(repeats):
    with pytest.raises(ValueError, match=r"action.repeat"):
        EnvConfig(action_repeat=repeats)
