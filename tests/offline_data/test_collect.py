import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.envs import EnvConfig, make_vec
from surefoot.offline_data import collect, read_d4rl, write_d4rl
from surefoot.offline_data.collect import explore


class Counting:
    """Environment i observes (i, episode, step) and ends every 3 + i steps, terminally where i is even."""

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.actions = []

    def reset(self, *, seed=None):
        self.episode, self.step_in = torch.zeros(self.num_envs), torch.zeros(self.num_envs)
        return self._obs(), {}

    def _obs(self):
        return torch.stack([torch.arange(float(self.num_envs)), self.episode, self.step_in], dim=1)

    def step(self, actions):
        self.actions.append(actions)
        index = torch.arange(self.num_envs)
        self.step_in = self.step_in + 1
        final, done = self._obs(), self.step_in == 3 + index
        self.episode, self.step_in = self.episode + done, self.step_in * ~done
        even = index % 2 == 0
        return self._obs(), torch.ones(self.num_envs), done & even, done & ~even, {"final_obs": final}


def still(obs):
    return torch.zeros(len(obs), 2)


def test_vector_steps_are_unravelled_into_whole_episodes():
    data = collect(still, Counting(2), 14, seed=0)
    assert len(data) == 14
    assert data.obs[:, 0].tolist() == [0] * 7 + [1] * 7
    assert data.episode_lengths().tolist() == [3, 3, 1, 4, 3]
    assert (data.next_obs == data.obs + torch.tensor([0, 0, 1])).all()
    assert data.terminated.nonzero().flatten().tolist() == [2, 5]
    assert data.truncated.nonzero().flatten().tolist() == [10]
    assert data.episode_end.nonzero().flatten().tolist() == [2, 5, 6, 10, 13]  # 6 and 13: cut


def test_any_number_of_steps_is_recorded_exactly(tmp_path, same):
    data = collect(still, Counting(3), 20, seed=0)
    assert len(data) == 20
    assert (data.next_obs == data.obs + torch.tensor([0, 0, 1])).all()
    write_d4rl(tmp_path / "x.hdf5", data)
    assert read_d4rl(tmp_path / "x.hdf5").episode_lengths().tolist() == data.episode_lengths().tolist()


def test_recorded_actions_are_the_executed_ones():
    env = Counting(2)
    data = collect(still, env, 12, seed=3, noise_std=0.5, epsilon=0.3)
    np.testing.assert_array_equal(data.action, torch.stack(env.actions, dim=1).flatten(0, 1))
    assert data.action.abs().max() <= 1
    again = collect(still, Counting(2), 12, seed=3, noise_std=0.5, epsilon=0.3)
    np.testing.assert_array_equal(data.action, again.action)


def test_exploration_noise_has_the_stated_size():
    generator = torch.Generator().manual_seed(0)
    zero = torch.zeros(20_000, 2)
    assert explore(zero, generator, noise_std=0.2, epsilon=0).std() == pytest.approx(0.2, rel=0.02)
    uniform = explore(zero, generator, noise_std=0, epsilon=0.25)
    replaced = (uniform != 0).all(1)
    assert replaced.float().mean() == pytest.approx(0.25, abs=0.015)
    assert uniform[replaced].var() == pytest.approx(1 / 3, rel=0.05)
    assert bool((explore(zero + 2, generator, noise_std=0.1, epsilon=0) <= 1).all())
    assert torch.equal(explore(zero + 2, generator, noise_std=0, epsilon=0), zero + 2)  # a task without bounds
    with pytest.raises(ValueError, match="these are discrete"):
        explore(torch.zeros(3, dtype=torch.int64), generator, noise_std=0.1, epsilon=0)


@pytest.mark.parametrize("steps", [0, -5])
def test_nothing_to_record_is_refused(steps):
    with pytest.raises(ValueError, match="steps must be at least 1"):
        collect(still, Counting(2), steps, seed=0)


def test_mujoco_rows_hold_what_the_plain_environment_gives():
    env = make_vec(EnvConfig(id="Hopper-v5", num_envs=2))
    data = collect(lambda obs: torch.full((len(obs), 3), 0.3), env, 120, seed=5)
    env.close()
    plain = gym.make("Hopper-v5")
    obs, _ = plain.reset(seed=5)
    for row in range(int(data.episode_lengths()[0])):
        following, reward, terminated, _, _ = plain.step(np.full(3, 0.3, np.float32))
        np.testing.assert_array_equal(data.obs[row], obs.astype(np.float32))
        np.testing.assert_array_equal(data.next_obs[row], following.astype(np.float32))
        assert data.reward[row] == np.float32(reward)
        assert bool(data.terminated[row]) == terminated
        obs = following
    assert terminated  # a falling hopper: the row above is a terminal's true successor
