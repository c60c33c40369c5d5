"""Vector environments with tensors: autoreset, flags and final observations, the same through sync and async."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.envs import EnvConfig, Physics, TaskError, make_single, make_vec

BOTH = pytest.mark.parametrize("vectorization", ["sync", "async"])


@pytest.fixture(autouse=True)
def _scripted_env_is_importable(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


@BOTH
def test_flags_and_final_obs_of_a_scripted_task(vectorization):
    """Episode 1 terminates at step 3, episode 2 is truncated at step 2, and so on."""
    env = make_vec(EnvConfig("scripted_env:Scripted-v0", num_envs=2, vectorization=vectorization))
    obs, _ = env.reset(seed=0)
    torch.testing.assert_close(obs, torch.tensor([[1.0, 0.0]] * 2))
    expected = [  # obs, true successor, terminated, truncated
        ([1, 1], [1, 1], False, False),
        ([1, 2], [1, 2], False, False),
        ([2, 0], [1, 3], True, False),
        ([2, 1], [2, 1], False, False),
        ([3, 0], [2, 2], False, True),
        ([3, 1], [3, 1], False, False),
    ]
    for next_obs, successor, ends, times_out in expected:
        obs, reward, terminated, truncated, info = env.step(torch.tensor([[0.0], [0.5]]))
        torch.testing.assert_close(obs, torch.tensor([next_obs] * 2, dtype=torch.float32))
        torch.testing.assert_close(info["final_obs"], torch.tensor([successor] * 2, dtype=torch.float32))
        torch.testing.assert_close(reward, torch.tensor([0.0, 5.0]) + successor[1])
        assert terminated.tolist() == [ends] * 2
        assert truncated.tolist() == [times_out] * 2
        assert info["_final_obs"].tolist() == [ends or times_out] * 2
    env.close()


@BOTH
def test_environments_that_end_at_different_steps_keep_their_own_final_obs(vectorization):
    env = make_vec(EnvConfig("Hopper-v5", num_envs=3, vectorization=vectorization))
    obs, _ = env.reset(seed=0)
    singles = [make_single(EnvConfig("Hopper-v5")) for _ in range(3)]
    expected = np.stack([single.reset(seed=i)[0] for i, single in enumerate(singles)])
    generator, partial_ends = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        np.testing.assert_array_equal(obs, expected)
        actions = 2 * torch.rand(3, 3, generator=generator) - 1
        obs, reward, terminated, truncated, info = env.step(actions)
        for i, single in enumerate(singles):
            successor, single_reward, *ended, _ = single.step(actions[i].numpy())
            np.testing.assert_array_equal(info["final_obs"][i], successor)
            assert float(reward[i]) == np.float32(single_reward)
            assert [bool(terminated[i]), bool(truncated[i])] == ended
            expected[i] = single.reset()[0] if any(ended) else successor
        partial_ends += 0 < int(info["_final_obs"].sum()) < 3
    assert partial_ends > 3
    env.close()


def test_sync_envs_are_gymnasiums_sync_vector_env():
    config = EnvConfig("Hopper-v5", num_envs=2, max_episode_steps=15)
    ours = make_vec(config)
    theirs = gym.vector.SyncVectorEnv(
        [lambda: make_single(config)] * 2, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
    )
    np.testing.assert_array_equal(ours.reset(seed=5)[0], theirs.reset(seed=5)[0])
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        actions = 2 * torch.rand(2, 3, generator=generator) - 1
        obs, reward, terminated, truncated, info = ours.step(actions)
        expected = theirs.step(actions.numpy())
        np.testing.assert_array_equal(obs, expected[0])
        np.testing.assert_array_equal(reward, expected[1].astype(np.float32))
        np.testing.assert_array_equal(terminated, expected[2])
        np.testing.assert_array_equal(truncated, expected[3])
        np.testing.assert_array_equal(info["_final_obs"], expected[4].get("_final_obs", np.zeros(2, bool)))
        for i in np.flatnonzero(info["_final_obs"]):
            np.testing.assert_array_equal(info["final_obs"][i], expected[4]["final_obs"][i])


def test_returned_tensors_are_not_overwritten_by_later_steps():
    env = make_vec(EnvConfig("Pendulum-v1", num_envs=2))
    env.reset(seed=0)
    first = env.step(torch.ones(2, 1))
    kept = [tensor.clone() for tensor in first[:4]]
    for _ in range(3):
        env.step(torch.ones(2, 1))
    for tensor, copy in zip(first[:4], kept, strict=True):
        torch.testing.assert_close(tensor, copy, rtol=0, atol=0)


@BOTH
def test_discrete_actions_pass_through(vectorization):
    env = make_vec(EnvConfig("CartPole-v1", num_envs=2, vectorization=vectorization))
    assert env.single_action_space == gym.spaces.Discrete(2)
    env.reset(seed=0)
    velocity = [env.step(torch.tensor([0, 1]))[0][:, 1] for _ in range(5)][-1]
    assert velocity[0] < 0 < velocity[1]  # pushed left, pushed right
    env.close()


def test_time_limit_truncates_and_never_terminates():
    env = make_vec(EnvConfig("HalfCheetah-v5", max_episode_steps=4))
    env.reset(seed=0)
    flags = [env.step(torch.zeros(1, 6))[2:4] for _ in range(8)]
    assert [bool(truncated) for _, truncated in flags] == [False, False, False, True] * 2
    assert not any(bool(terminated) for terminated, _ in flags)


def test_async_closes_its_processes_twice_without_complaint():
    env = make_vec(EnvConfig("Pendulum-v1", num_envs=2, vectorization="async"))
    processes = env.sub_envs._envs.processes
    assert all(process.is_alive() for process in processes)
    env.close()
    env.close()
    assert not any(process.is_alive() for process in processes)


def test_async_workers_outlive_ctrl_c_so_that_the_run_can_be_saved():
    env = make_vec(EnvConfig("Pendulum-v1", num_envs=2, vectorization="async"))
    env.reset(seed=0)
    for process in env.sub_envs._envs.processes:
        os.kill(process.pid, signal.SIGINT)
    env.step(torch.zeros(2, 1))
    assert len(env.state_dict()["sub_envs"]) == 2
    env.close()


@BOTH
def test_frames_of_every_environment(vectorization):
    env = make_vec(
        EnvConfig("scripted_env:Scripted-v0", num_envs=2, vectorization=vectorization), render_mode="rgb_array"
    )
    env.reset(seed=0)
    env.step(torch.zeros(2, 1))
    assert [frame.tolist() for frame in env.render()] == [[[[1, 1, 1]]]] * 2  # a pixel as bright as the step count
    env.close()


# --- physics that diverges --------------------------------------------------------------------------------------------

LIGHT = EnvConfig("Swimmer-v5", Physics(mass=0.01), num_envs=2)  # a command is too much for it, to do nothing is not


@BOTH
def test_an_episode_ends_where_its_physics_diverges_and_the_others_go_on(vectorization, capfd, tmp_path, monkeypatch):
    """Left alone, MuJoCo starts from the initial state again, and only stderr and a file in the folder say so."""
    monkeypatch.chdir(tmp_path)
    env = make_vec(replace(LIGHT, vectorization=vectorization))
    env.reset(seed=0)
    last, *_, info = env.step(torch.zeros(2, 2))
    assert info["broken"].tolist() == [False, False]
    _, reward, terminated, truncated, info = env.step(torch.tensor([[0.0, 0.0], [1.0, -1.0]]))
    assert info["broken"].tolist() == terminated.tolist() == info["_final_obs"].tolist() == [False, True]
    assert not truncated.any()
    assert (reward[0] != 0.0, reward[1]) == (True, 0.0)
    torch.testing.assert_close(info["final_obs"][1], last[1], rtol=0, atol=0)  # the last good one
    *_, terminated, _, info = env.step(torch.zeros(2, 2))
    assert not (terminated | info["broken"]).any()
    env.close()
    assert not list(tmp_path.iterdir())  # no MUJOCO_LOG.TXT
    assert capfd.readouterr().err == ""


def test_an_action_held_for_several_steps_breaks_its_own_episode_only():
    env = make_vec(replace(LIGHT, action_repeat=3))
    env.reset(seed=0)
    _, reward, *_, info = env.step(torch.tensor([[0.0, 0.0], [1.0, -1.0]]))
    assert info["broken"].tolist() == [False, True]
    assert reward[1] == 0.0


@pytest.mark.parametrize("physics", [Physics(), Physics(parameters=("body_mass_scale.*=1.5",))])
def test_a_policy_that_is_no_longer_finite_is_not_taken_for_physics_that_diverged(physics):
    env = make_vec(EnvConfig("InvertedPendulum-v5", physics, num_envs=2))
    env.reset(seed=0)
    with pytest.raises(TaskError, match=r"action of environment 1 is nan .*: the policy is no longer finite"):
        env.step(torch.tensor([[0.0], [torch.nan]]))


def test_the_counters_of_mujoco_are_cleared_for_a_task_that_does_not_do_so_itself():
    env = make_single(replace(LIGHT, num_envs=1))
    env.reset(seed=0)
    assert env.step(np.array([1.0, -1.0]))[4]["broken"]
    env.unwrapped.reset = lambda **_: (np.zeros(8), {})  # as one that only sets positions and velocities
    env.unwrapped.data.warning.number[5] = 1
    env.reset()
    assert not env.step(np.zeros(2))[2]
