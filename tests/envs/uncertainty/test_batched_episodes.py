"""Many parameter vectors at once against Gymnasium's own environments, one after the other."""

from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch

from surefoot.envs import (
    SETS,
    BatchedEpisodes,
    EnvConfig,
    Parameter,
    Pendulum,
    Physics,
    UncertaintySet,
    WithParameters,
    make_single,
    play,
)
from surefoot.envs.uncertainty.batched_episodes import GymRobots
from surefoot.envs.uncertainty.robots import ROBOTS, MujocoRobots

SETS_OF_ALL_ROBOTS = ["ant-3", "halfcheetah-3", "hopper-3", "humanoidstandup-3", "inverted-pendulum-2", "walker-force"]


def corners(one, seed=0, n=6):
    """Return points (n, d) of a set, its two extreme corners first."""
    inside = np.random.default_rng(seed).uniform(one.low, one.high, (n - 2, len(one.low)))
    return np.concatenate([[one.low], [one.high], inside])


@pytest.mark.parametrize("name", SETS_OF_ALL_ROBOTS)
def test_batched_episodes_are_the_unmodified_task_with_the_same_parameters_bit_for_bit(name):
    one, steps = SETS[name], 60
    config = EnvConfig(one.env)
    episodes = BatchedEpisodes(config, one, corners(one), seeds=range(5, 11), threads=2)
    assert isinstance(episodes.robots, MujocoRobots)
    singles = [WithParameters(make_single(config), one) for _ in range(6)]
    obs, _ = episodes.reset()
    expected = [env.reset(seed=5 + i, options={"params": corners(one)[i]})[0] for i, env in enumerate(singles)]
    generator, running, compared = np.random.default_rng(1), set(range(6)), 0
    for _ in range(steps):
        for i in running:
            np.testing.assert_array_equal(obs[i], expected[i])
        actions = generator.uniform(-1, 1, (6, *episodes.single_action_space.shape)).astype(np.float32)
        obs, reward, terminated, truncated, info = episodes.step(torch.from_numpy(actions))
        for i in sorted(running):
            expected[i], theirs, *flags, _ = singles[i].step(actions[i])
            np.testing.assert_array_equal(info["final_obs"][i], expected[i])
            assert float(reward[i]) == np.float32(theirs)
            assert [bool(terminated[i]), bool(truncated[i])] == flags
            compared += 1
            if any(flags):
                running.remove(i)
    assert compared > 15


def test_gymnasiums_environment_with_a_heavier_torso():
    """Without any code of ours on the other side: Gymnasium's model, one number written by hand."""
    env = gym.make("HalfCheetah-v5")
    env.unwrapped.model.body_mass[1] = 3.0
    env.unwrapped.model.geom_friction[:, 0] = 1.0
    env.reset(seed=7)
    actions = np.random.default_rng(0).uniform(-1, 1, (200, 6)).astype(np.float32)
    rewards = np.float32([env.step(action)[1] for action in actions])
    queue = iter(torch.from_numpy(actions)[:, None])
    limited = EnvConfig("HalfCheetah-v5", max_episode_steps=200)
    played = play(lambda obs: next(queue), limited, SETS["halfcheetah-2"], [[1.0, 3.0]], [7])
    assert played.returns[0] == rewards.astype(np.float64).cumsum()[-1]
    assert played.lengths[0] == 200


def linear(env_id, seed=0):
    env = make_single(EnvConfig(env_id))
    shape = (env.observation_space.shape[0], env.action_space.shape[0])
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3
    return lambda obs: (obs.unsqueeze(-1) * weights).sum(1).tanh()  # sums row by row: no batch-size rounding


@pytest.mark.parametrize("name", ["hopper-2", "inverted-pendulum-2"])
def test_returns_do_not_depend_on_num_envs_threads_or_the_way(name, monkeypatch):
    one, act = SETS[name], linear(SETS[name].env)
    config = EnvConfig(one.env, max_episode_steps=40)
    params, seeds = np.tile(corners(one), (2, 1)), [*range(6), *range(100, 106)]
    played = play(act, config, one, params, seeds)
    assert len(set(played.lengths)) > 1
    for num_envs, threads in ((1, 1), (5, 1), (5, 2), (12, 3)):
        again = play(act, config, one, params, seeds, num_envs=num_envs, threads=threads)
        for ours, theirs in zip(again, played, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    monkeypatch.delitem(ROBOTS, one.env)
    slow = BatchedEpisodes(config, one, params, seeds, num_envs=2)
    assert isinstance(slow.robots, GymRobots)
    for ours, theirs in zip(play(act, config, one, params, seeds, num_envs=5), played, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_time_limit_constructor_arguments_and_changed_physics_reach_the_fast_way(monkeypatch):
    config = EnvConfig(
        "Hopper-v5", Physics(gravity=0.5), max_episode_steps=12, kwargs={"terminate_when_unhealthy": False}
    )
    one, act = SETS["hopper-2"], linear("Hopper-v5")
    fast = play(act, config, one, corners(one), range(6))
    np.testing.assert_array_equal(fast.lengths, 12)
    monkeypatch.delitem(ROBOTS, "Hopper-v5")
    np.testing.assert_array_equal(play(act, config, one, corners(one), range(6)).returns, fast.returns)


def test_action_noise_and_time_aware_observations_take_the_slow_way():
    for config in (EnvConfig("Hopper-v5", Physics(action_noise=0.1)), EnvConfig("Hopper-v5", time_aware=True)):
        episodes = BatchedEpisodes(config, SETS["hopper-1"], [[1.0]], [0])
        assert isinstance(episodes.robots, GymRobots)
        assert episodes.reset()[0].shape == (1, 12 if config.time_aware else 11)


# --- the queue --------------------------------------------------------------------------------------------------------


def test_environments_take_the_next_job_and_rest_when_there_is_none():
    one = SETS["inverted-pendulum-1"]
    episodes = BatchedEpisodes(EnvConfig(one.env, max_episode_steps=3), one, [[5.0]] * 5, range(5), num_envs=2)
    obs, info = episodes.reset()
    seen = []
    while not episodes.finished:
        before = obs
        obs, reward, _, truncated, info = episodes.step(torch.zeros(2, 1))
        seen.append(info["job"].tolist())
        resting = info["job"] < 0
        assert not (truncated & resting).any()
        assert (reward[resting] == 0).all()
        torch.testing.assert_close(obs[resting], before[resting], rtol=0, atol=0)
        torch.testing.assert_close(truncated, info["_final_obs"])
    assert seen == [[0, 1]] * 3 + [[2, 3]] * 3 + [[4, -1]] * 3
    assert episodes.reset()[1]["job"].tolist() == [0, 1]  # from the start again


# --- physics that diverges --------------------------------------------------------------------------------------------

LIGHT = UncertaintySet("light", "InvertedPendulum-v5", (Parameter("body_mass.*", 1e-9, 10.0, nominal=5.0),))


@pytest.mark.parametrize("fast", [True, False])
def test_diverged_physics_ends_its_own_episode_only_and_is_reported(fast, monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    if not fast:
        monkeypatch.delitem(ROBOTS, LIGHT.env)
    config = EnvConfig(LIGHT.env, max_episode_steps=20)
    played = play(lambda obs: torch.ones(len(obs), 1) * 0.02, config, LIGHT, [[5.0], [1e-5], [6.0]], [0, 1, 2])
    assert played.broken.tolist() == [False, True, False]
    alone = play(lambda obs: torch.ones(len(obs), 1) * 0.02, config, LIGHT, [[5.0], [6.0]], [0, 2])
    np.testing.assert_array_equal(played.returns[[0, 2]], alone.returns)
    assert np.isfinite(played.returns).all()
    assert played.returns[1] == played.lengths[1] - 1  # 1 per step, but for the one that diverged
    assert played.terminated.tolist() == [True, False, True]  # the others fall
    assert not list(tmp_path.iterdir())  # no MUJOCO_LOG.TXT
    assert "unstable" not in capfd.readouterr().err


def test_the_handler_of_other_warnings_is_put_back():
    before = mujoco.get_mju_user_warning()
    play(lambda obs: torch.zeros(len(obs), 1), EnvConfig(LIGHT.env, max_episode_steps=2), LIGHT, [[1.0]], [0])
    assert mujoco.get_mju_user_warning() is before


# --- our own tensor tasks ---------------------------------------------------------------------------------------------


def test_a_tensor_task_is_played_in_waves_with_a_row_of_parameters_per_environment():
    one = SETS["pendulum-2"]
    config = EnvConfig("surefoot/Pendulum-v0", max_episode_steps=30)
    act = linear("surefoot/Pendulum-v0")
    params = corners(one, n=7)
    played = play(act, config, one, params, range(7), num_envs=3)
    assert played.lengths.tolist() == [30] * 7
    for first, last in pairwise([0, 3, 6, 9]):
        rows = params[first:last]
        env = Pendulum(3)
        env.set_params(torch.from_numpy(np.resize(rows, (3, 2))))
        obs, _ = env.reset(seed=first)
        total = torch.zeros(3, dtype=torch.float64)
        for _ in range(30):
            obs, reward, *_ = env.step(act(obs))
            total += reward
        np.testing.assert_array_equal(played.returns[first:last], total[: len(rows)])


def test_a_policy_is_told_in_which_job_each_environment_is_and_which_are_not_counted():
    """Three jobs for two environments: the last wave is filled up. Episodes have two steps."""
    one, config, told = SETS["pendulum-2"], EnvConfig("surefoot/Pendulum-v0", max_episode_steps=2), []

    class Act:
        def reset(self):
            told.append("reset")

        def track(self, job, of):
            told.append((job.tolist(), of))

        def __call__(self, obs):
            return torch.zeros(len(obs), 1)

    play(Act(), config, one, corners(one, n=3), range(3), num_envs=2)
    assert told == ["reset", *[([0, 1], 3)] * 2, "reset", *[([2, -1], 3)] * 2]


@pytest.mark.parametrize("params", [[[0.5, 0.5]], [0.5], [[np.nan]]])
def test_parameters_that_are_no_rows_of_the_set_are_refused_before_anything_begins(params):
    with pytest.raises(ValueError, match=r"parameters have the shape|cannot be nan"):
        BatchedEpisodes(EnvConfig("Hopper-v5"), SETS["hopper-1"], params, [0])


@pytest.mark.parametrize("at_once", [True, False])
def test_whether_the_task_ended_an_episode_is_told_apart_from_its_length(at_once, monkeypatch):
    """The heaviest ends in its second step, the middle one in its last, the lightest at the time limit."""
    step = Pendulum.advance

    def ending(self, state, action):
        successor, reward, terminated = step(self, state, action)
        mass = torch.as_tensor(self.mass)
        ends = torch.where(mass == one.high[0], 2, torch.where(mass == 1.0, 3, 9))
        return successor, reward, terminated | (self._elapsed_steps + 1 >= ends)

    monkeypatch.setattr(Pendulum, "advance", ending)
    one = SETS["pendulum-2"]
    if not at_once:  # a parameter of single environments
        one = replace(one, parameters=(*one.parameters, Parameter("control_delay", 0.0, 2.0)))
    row = [1.0, 0.0][: len(one.parameters) - 1]
    params = [[mass, *row] for mass in (one.high[0], 1.0, one.low[0])]
    config = EnvConfig("surefoot/Pendulum-v0", max_episode_steps=3)
    played = play(linear("surefoot/Pendulum-v0"), config, one, params, range(3), num_envs=2)
    assert (played.lengths.tolist(), played.terminated.tolist()) == ([2, 3, 3], [True, True, False])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_return_of_a_tensor_task_that_is_no_number_is_reported_as_broken(bad, monkeypatch):
    one = SETS["pendulum-2"]
    step = Pendulum.step

    def spoilt(self, action):
        obs, reward, *others = step(self, action)
        reward[self.mass == self.mass.max()] = bad
        return obs, reward, *others

    monkeypatch.setattr(Pendulum, "step", spoilt)
    params = corners(one, n=3)
    params[:, 0] = one.low[0], one.high[0], one.low[0]
    config = EnvConfig("surefoot/Pendulum-v0", max_episode_steps=3)
    assert play(linear("surefoot/Pendulum-v0"), config, one, params, range(3)).broken.tolist() == [False, True, False]


@pytest.mark.parametrize("fails", [True, False])
def test_environments_are_closed_whether_the_episodes_end_or_the_policy_fails(fails, monkeypatch):
    closed = []
    monkeypatch.setattr(MujocoRobots, "close", lambda self: closed.append(self._pool.shutdown()))

    def act(obs):
        return obs[:, :3] if fails else torch.zeros(len(obs), 1)

    config = EnvConfig(LIGHT.env, max_episode_steps=2)
    with pytest.raises(ValueError) if fails else nullcontext():  # noqa: PT011 - NumPy's, of three commands for one motor
        play(act, config, LIGHT, [[5.0]], [0])
    assert closed == [None]


def test_an_episode_without_an_end_is_an_error(monkeypatch):
    monkeypatch.setattr("surefoot.envs.uncertainty.batched_episodes.LONGEST_EPISODE", 50)
    with pytest.raises(ValueError, match="no end of an episode after 50 steps"):
        play(linear("HalfCheetah-v5"), EnvConfig("HalfCheetah-v5"), SETS["halfcheetah-1"], [[0.4]], [0])


@pytest.mark.parametrize("task", ["HalfCheetah-v5", "surefoot/Pendulum-v0"])
def test_a_policy_that_is_not_finite_is_not_physics_that_diverge(task):
    one, width = (SETS["halfcheetah-2"], 6) if task == "HalfCheetah-v5" else (SETS["pendulum-2"], 1)
    config, points = EnvConfig(task, max_episode_steps=3), np.array([one.low] * 2)
    with pytest.raises(ValueError, match="the policy gave an action that is not finite"):
        play(lambda obs: torch.zeros(len(obs), width) / 0, config, one, points, range(2))
    with pytest.raises(ValueError, match="the policy gave 1 actions for 2 observations"):
        play(lambda obs: torch.zeros(1, width), config, one, points, range(2))
