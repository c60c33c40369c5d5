"""The native Pendulum against Gymnasium's, what native tasks share: masks, time, generator, single view."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from surefoot.envs import EnvConfig, Pendulum, Physics, SingleEnv, TensorVectorEnv, make_single, make_vec
from surefoot.envs.vector import SyncEnvs

ID = "surefoot/Pendulum-v0"


@pytest.mark.parametrize("action_dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("gravity", [1.0, -1.0])
def test_float64_is_gymnasiums_pendulum_to_the_last_bit(action_dtype, gravity):
    num_envs, steps = 4, 1000
    ours = Pendulum(num_envs, dtype=torch.float64, physics=Physics(gravity=gravity))
    obs, _ = ours.reset(seed=0)
    theirs = [make_single(EnvConfig("Pendulum-v1", Physics(gravity=gravity))).unwrapped for _ in range(num_envs)]
    for env, angle, speed in zip(theirs, *ours._state, strict=True):
        env.reset(seed=0)
        env.state = np.array([angle, speed])
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        actions = 3 * torch.rand(num_envs, 1, generator=generator, dtype=action_dtype) - 1.5  # some beyond the bounds
        obs, reward, *_ = ours.step(actions)
        for i, env in enumerate(theirs):
            rounded, expected_reward, *_ = env.step(2 * actions[i].numpy())
            angle, speed = env.state
            np.testing.assert_array_equal(obs[i], [np.cos(angle), np.sin(angle), speed])
            np.testing.assert_array_equal(obs[i].float(), rounded)
            assert float(reward[i]) == expected_reward


def test_float32_stays_close_to_float64():
    exact, fast = Pendulum(8, dtype=torch.float64), Pendulum(8)
    exact.reset(seed=0), fast.reset(seed=1)
    fast._state = tuple(field.float() for field in exact._state)
    for _ in range(20):
        actions = torch.rand(8, 1) * 0.2
        (obs64, reward64, *_), (obs, reward, *_) = exact.step(actions), fast.step(actions)
        assert obs.dtype == reward.dtype == torch.float32
        torch.testing.assert_close(obs, obs64.float(), rtol=0, atol=1e-4)
        torch.testing.assert_close(reward, reward64.float(), rtol=1e-4, atol=1e-4)


def test_initial_states_are_uniform_and_belong_to_the_seed():
    env = Pendulum(20_000)
    obs, _ = env.reset(seed=0)
    angle, speed = env._state
    assert -np.pi <= angle.min() < -3.1
    assert 3.1 < angle.max() <= np.pi
    assert -1 <= speed.min() < -0.99
    assert 0.99 < speed.max() <= 1
    torch.testing.assert_close(angle.std(), torch.tensor(2 * np.pi / 12**0.5).float(), rtol=0.02, atol=0)
    torch.testing.assert_close(env.reset(seed=0)[0], obs, rtol=0, atol=0)
    assert not torch.equal(env.reset()[0], obs)  # continues the generator


def test_autoreset_restarts_only_ended_environments_and_shows_their_true_successor():
    env = make_vec(EnvConfig(ID, num_envs=3, max_episode_steps=5))
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    env.reset(seed=0)
    env._elapsed_steps[1] = 2  # environment 1 is two steps ahead
    never_reset = Pendulum(3)
    never_reset.reset(seed=0)
    for step in range(1, 6):
        actions = torch.full((3, 1), 0.1)
        obs, _, terminated, truncated, info = env.step(actions)
        expected, *_ = never_reset.step(actions)
        assert truncated.tolist() == [step == 5, step == 3, step == 5]
        assert not terminated.any()
        torch.testing.assert_close(info["_final_obs"], truncated)
        torch.testing.assert_close(info["final_obs"][[0, 2]], expected[[0, 2]], rtol=0, atol=0)
        torch.testing.assert_close(obs[~truncated], info["final_obs"][~truncated], rtol=0, atol=0)
        assert not torch.isclose(obs, info["final_obs"]).all(dim=1)[truncated].any()
        if step <= 3:
            torch.testing.assert_close(info["final_obs"], expected, rtol=0, atol=0)
    assert env._elapsed_steps.tolist() == [0, 2, 0]


def test_time_limit_is_200_by_every_door():
    batch, vector, single = make_vec(EnvConfig(ID)), gym.make_vec(ID, num_envs=1), gym.make(ID)
    assert isinstance(batch, Pendulum)
    assert isinstance(vector.unwrapped, Pendulum)
    assert isinstance(single.unwrapped, SingleEnv)
    for env in (batch, vector):
        env.reset(seed=0)
        assert [bool(env.step(torch.zeros(1, 1))[3]) for _ in range(201)].index(True) == 199
    single.reset(seed=0)
    assert [single.step(np.zeros(1, np.float32))[3] for _ in range(200)].index(True) == 199


def test_action_noise_moves_the_pendulum_and_not_the_callers_action():
    env = Pendulum(4000, physics=Physics(action_noise=0.1))
    env.reset(seed=0)
    env._state = (torch.zeros(4000), torch.zeros(4000))
    actions = torch.zeros(4000, 1)
    obs, *_ = env.step(actions)
    torch.testing.assert_close(actions, torch.zeros(4000, 1), rtol=0, atol=0)
    torch.testing.assert_close(obs[:, 2].std(), torch.tensor(0.03), rtol=0.05, atol=0)  # 3 · 2 · 0.1 · dt


def test_the_single_view_resumes_like_any_task():
    config = EnvConfig(ID, Physics(action_noise=0.2), max_episode_steps=10)
    env, fresh = (TensorVectorEnv(SyncEnvs(lambda: make_single(config), 2), 2, "cpu") for _ in range(2))
    env.reset(seed=0)
    for _ in range(13):
        env.step(torch.ones(2, 1))
    fresh.load_state_dict(env.state_dict())
    for _ in range(30):
        for ours, theirs in zip(env.step(torch.ones(2, 1))[:4], fresh.step(torch.ones(2, 1))[:4], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.gpu
def test_the_same_states_and_actions_give_the_same_motion_on_a_gpu():
    cpu, gpu = Pendulum(64), Pendulum(64, device="cuda")
    cpu.reset(seed=0), gpu.reset(seed=0)
    gpu._state = tuple(field.cuda() for field in cpu._state)
    for _ in range(20):
        actions = torch.rand(64, 1) * 0.2
        torch.testing.assert_close(gpu.step(actions.cuda())[0].cpu(), cpu.step(actions)[0], rtol=0, atol=1e-4)
