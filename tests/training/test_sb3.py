"""Stable-Baselines3 as an agent: the bridge tells it the truth about episode ends, and its runs resume exactly."""

import subprocess
import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot import agents
from surefoot.agents.baselines.sb3_config import SB3PPOConfig, SB3SACConfig, SB3TD3Config
from surefoot.agents.interface import Setting, Spaces
from surefoot.evaluation import storage

CONFIGS = {
    "sb3-sac": SB3SACConfig(net_arch=(16,), learning_starts=6, batch_size=8, buffer_size=40),
    "sb3-td3": SB3TD3Config(net_arch=(16,), learning_starts=6, batch_size=8, buffer_size=40),
    "sb3-ppo": SB3PPOConfig(net_arch=(16,), n_steps=8, batch_size=8, n_epochs=2),
}


class StepCounter:
    """Two environments that count steps: the first terminates every 3 steps, the second runs out of time every 4."""

    num_envs = 2
    single_observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    single_action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    horizon = torch.tensor([3, 4])

    def _obs(self):
        return torch.stack([self.time.float(), torch.tensor([10.0, 20.0])], -1)

    def reset(self, *, seed=None):
        self.time = torch.zeros(2, dtype=torch.int64)
        return self._obs(), {}

    def step(self, actions):
        self.time = self.time + 1
        final_obs = self._obs()
        ended = self.time >= self.horizon
        self.time = torch.where(ended, 0, self.time)
        first = torch.tensor([True, False])
        reward = actions[:, 0] + 1
        return self._obs(), reward, ended & first, ended & ~first, {"final_obs": final_obs}

    def state_dict(self):
        return {"time": self.time}

    def load_state_dict(self, state):
        self.time = state["time"].clone()

    def close(self):
        pass


def build(name, seed=0, **changes):
    env = StepCounter()
    spaces = Spaces(env.single_observation_space, env.single_action_space)
    setting = Setting(spaces, seed, torch.device("cpu"), env)
    return agents.get(name).make_agent(replace(CONFIGS[name], **changes), setting)


def run(agent, steps):
    """Return everything the run loop sees of `steps` steps."""
    return [(p.env_steps, p.updates, p.metrics, p.episodes) for p in (agent.step() for _ in range(steps))]


def through_disk(state, path):
    storage.save(path, state)
    return storage.load(path)


def assert_same(left, right):
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        left, right = left.values(), right.values()
    if isinstance(left, torch.Tensor):
        torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)
    elif isinstance(left, str | int | float | None):
        assert left == right
    else:
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("name", CONFIGS)
def test_same_seed_is_the_same_run_whatever_else_draws_from_the_global_generators(name):
    first = build(name)
    seen = run(first, 12)
    torch.manual_seed(99)
    second = build(name)
    again = []
    for _ in range(12):
        torch.rand(3), np.random.rand(2)  # noqa: NPY002
        again += run(second, 1)
    assert_same(seen, again)
    assert_same(first.policy.state_dict(), second.policy.state_dict())
    other = build(name, seed=1)
    run(other, 12)
    with pytest.raises(AssertionError):
        assert_same(first.policy.state_dict(), other.policy.state_dict())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "stop", [0, 2, 10, 23]
)  # at the start, in the warm-up, between two TD3 actor updates, replay full
def test_resume_is_the_same_run(name, stop, tmp_path):
    straight, stopped, resumed = build(name), build(name), build(name, seed=5)
    run(straight, stop), run(stopped, stop)
    resumed.load_state_dict(through_disk(stopped.state_dict(), tmp_path / "state.pt"))
    assert_same(run(straight, 15), run(resumed, 15))
    assert_same(straight.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_global_generators_are_left_as_they_were(name):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    agent = build(name)
    run(agent, 10)
    agent.act(torch.zeros(4, 2), explore=True)
    torch.testing.assert_close(torch.get_rng_state(), before[0], rtol=0, atol=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.mark.parametrize("name", ["sb3-sac", "sb3-td3"])
def test_replay_holds_true_successors_and_masks_terminations_only(name):
    agent = build(name)
    run(agent, 12)
    buffer = agent.model.replay_buffer
    time, successor = buffer.observations[:12, :, 0], buffer.next_observations[:12, :, 0]
    np.testing.assert_array_equal(successor, time + 1)  # never the first observation of the next episode
    masked = buffer.dones[:12] * (1 - buffer.timeouts[:12])  # what the library bootstraps with
    np.testing.assert_array_equal(masked[:, 0], time[:, 0] == 2)
    np.testing.assert_array_equal(masked[:, 1], 0)
    np.testing.assert_array_equal(buffer.dones[:12, 1], time[:, 1] == 3)


def test_ppo_bootstraps_a_time_out_from_the_true_last_observation():
    agent = build("sb3-ppo", gamma=0.5, learning_rate=1e-30)
    agent.step()
    buffer, policy = agent.model.rollout_buffer, agent.model.policy
    # get() flattens the buffer to (num_envs * steps, ...)
    rewards = np.clip(buffer.actions.reshape(2, 8), -1, 1) + 1
    bonus = buffer.rewards.T - rewards
    with torch.no_grad():
        value = policy.predict_values(torch.tensor([[4.0, 20.0]])).item()
    expected = np.zeros((2, 8))
    expected[1, [3, 7]] = 0.5 * value
    np.testing.assert_allclose(bonus, expected, atol=1e-5)


def test_progress_counts_steps_updates_and_episodes():
    sac, ppo = build("sb3-sac"), build("sb3-ppo")
    seen = run(sac, 6)
    assert [step for step, *_ in seen] == [2] * 6
    assert [updates for _, updates, *_ in seen] == [0, 0, 0, 1, 1, 1]  # six random steps first, two per vector step
    assert "critic_loss" in seen[3][2]
    assert not seen[2][2]
    ends = torch.stack([episodes.ended for *_, (episodes,) in seen])
    torch.testing.assert_close(ends[:, 0], torch.tensor([False, False, True] * 2))
    torch.testing.assert_close(seen[3][3][0].length, torch.tensor([1, 4]))
    (progress,) = run(ppo, 1)
    assert progress[:2] == (16, 2)
    assert len(progress[3]) == 8


@pytest.mark.parametrize("name", CONFIGS)
def test_deployed_policy_is_the_agents(name):
    agent = build(name)
    run(agent, 8)
    policy = agents.get(name).make_policy(CONFIGS[name], Spaces(agent.env.observation_space, agent.env.action_space))
    obs = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    policy.load_state_dict(agent.policy.state_dict())
    action = policy.act(obs)
    assert_same(action, agent.act(obs))
    assert action.shape == (5, 1)
    assert action.dtype == torch.float32
    assert action.abs().max() <= 1


@pytest.mark.parametrize("name", CONFIGS)
def test_bad_settings_are_named(name):
    with pytest.raises(ValueError, match=r"agent\.gamma must be in \[0, 1\]"):
        replace(CONFIGS[name], gamma=1.5)
    with pytest.raises(ValueError, match=r"--agent\.batch-size must be at least 1"):
        replace(CONFIGS[name], batch_size=0)


def test_without_the_library_only_asking_for_the_agent_fails():
    program = """
import sys
sys.modules["stable_baselines3"] = None
from surefoot import agents
spec = agents.get("sb3-sac")
try:
    spec.make_agent(spec.default, None)
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 'pip install "surefoot[sb3]"' in result.stdout
