"""Delay, sensors, pushes and time: each has its exact effect, owned random numbers, and comes back after a resume."""

import io
import math

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch

from surefoot.envs import (
    BatchedEpisodes,
    EnvConfig,
    Parameter,
    Physics,
    UncertaintySet,
    UncertainVectorEnv,
    WithParameters,
    make_single,
    make_vec,
)
from surefoot.envs.signals import folded


def fixed(env_id, *parameters, **rest):
    return make_single(EnvConfig(env_id, Physics(parameters=parameters), **rest))


def play(env, actions, seed=0):
    """Return observations (T + 1, obs) and rewards (T,)."""
    seen, rewards = [env.reset(seed=seed)[0]], []
    for action in actions:
        obs, reward, *_ = env.step(action)
        seen.append(obs)
        rewards.append(reward)
    return np.array(seen), np.array(rewards)


def actions(count, dims=6, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, dims)).astype(np.float32)


# --- delay ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [1, 3])
def test_an_action_is_executed_so_many_steps_later(delay):
    given = actions(12)
    executed = np.concatenate([np.zeros((delay, 6), np.float32), given[:-delay]])
    ours, theirs = (
        play(fixed("HalfCheetah-v5", f"control_delay={delay}"), given),
        play(fixed("HalfCheetah-v5"), executed),
    )
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])  # the reward too is of the action that is executed


def test_delay_keeps_its_own_copy_of_an_action_and_rounds_to_the_nearest_step():
    given, env = actions(5), fixed("HalfCheetah-v5", "control_delay=1.5")
    theirs = play(fixed("HalfCheetah-v5"), np.concatenate([np.zeros((2, 6), np.float32), given[:-2]]))[0]
    np.testing.assert_array_equal(env.reset(seed=0)[0], theirs[0])
    shared = np.empty(6, np.float32)
    for action, expected in zip(given, theirs[1:], strict=True):
        shared[:] = action
        np.testing.assert_array_equal(env.step(shared)[0], expected)


def test_numbered_actions_begin_with_the_first_and_a_reset_forgets_those_before():
    given = [1, 0, 0, 1, 1]
    env = fixed("CartPole-v1", "control_delay=2")
    expected = play(fixed("CartPole-v1"), [1, 1, 1, 0, 0])[0]
    for _ in range(2):
        np.testing.assert_array_equal(play(env, given)[0], expected)


# --- sensors ----------------------------------------------------------------------------------------------------------


def test_a_bias_is_added_exactly_and_only_to_its_sensor():
    given = actions(8)
    clean = play(fixed("HalfCheetah-v5"), given)[0]
    everywhere, one = (play(fixed("HalfCheetah-v5", f"sensor_bias.{s}=0.25"), given)[0] for s in ("*", "3"))
    np.testing.assert_array_equal(everywhere, (clean.astype(np.float64) + 0.25).astype(np.float32))
    np.testing.assert_array_equal(np.delete(one, 3, 1), np.delete(clean, 3, 1))
    np.testing.assert_array_equal(one[:, 3], everywhere[:, 3])


def test_noise_has_its_deviation_leaves_the_motion_alone_and_grows_with_the_same_draws():
    given = actions(300)
    clean, rewards = play(fixed("HalfCheetah-v5"), given)
    noisy, same = play(fixed("HalfCheetah-v5", "sensor_noise.@qvel=0.5"), given)
    louder, _ = play(fixed("HalfCheetah-v5", "sensor_noise.@qvel=1"), given)
    noise = noisy.astype(np.float64) - clean
    np.testing.assert_array_equal(rewards, same)
    np.testing.assert_array_equal(noise[:, :8], 0.0)
    # 301 · 9 draws: the standard error of a deviation is σ/√(2n) = 0.007, of a mean 0.01
    assert abs(noise[:, 8:].std() - 0.5) < 0.03
    assert abs(noise[:, 8:].mean()) < 0.04
    np.testing.assert_allclose(louder.astype(np.float64) - clean, 2 * noise, atol=1e-5)
    correlation = np.corrcoef(noise[:-1, 8:].ravel(), noise[1:, 8:].ravel())[0, 1]
    assert abs(correlation) < 0.08


def test_noises_of_a_group_and_of_one_sensor_add_as_variances():
    given = actions(400)
    clean = play(fixed("HalfCheetah-v5"), given)[0]
    both = play(fixed("HalfCheetah-v5", "sensor_noise.*=0.3", "sensor_noise.2=0.4"), given)[0]
    deviation = (both.astype(np.float64) - clean).std(0)
    assert abs(deviation[2] - 0.5) < 0.06
    assert abs(np.delete(deviation, 2).mean() - 0.3) < 0.03


def test_a_lost_observation_is_the_last_one_that_came():
    given = actions(200)
    clean = play(fixed("HalfCheetah-v5"), given)[0]
    seen = play(fixed("HalfCheetah-v5", "sensor_drop=0.3"), given)[0]
    np.testing.assert_array_equal(seen[0], clean[0])
    lost = 0
    for t in range(1, len(seen)):
        fresh, held = np.array_equal(seen[t], clean[t]), np.array_equal(seen[t], seen[t - 1])
        assert fresh != held
        lost += held
    assert 40 <= lost <= 80  # 60 ± 3 · 6.5
    always = play(fixed("HalfCheetah-v5", "sensor_drop=1"), given[:5])[0]
    np.testing.assert_array_equal(always, np.repeat(clean[:1], 6, 0))


def test_the_step_count_of_a_time_aware_observation_is_exact():
    env = fixed("HalfCheetah-v5", "sensor_drop=1", "sensor_bias.*=9", "sensor_noise.*=9", time_aware=True)
    np.testing.assert_array_equal(play(env, actions(4))[0][:, -1], range(5))


def test_sensors_of_a_task_without_numbers_are_refused():
    with pytest.raises(ValueError, match="needs observations that are one vector of floats"):
        WithParameters(
            gym.make("FrozenLake-v1"), UncertaintySet("s", "FrozenLake-v1", (Parameter("sensor_bias.*", 0, 1),))
        )
    with pytest.raises(ValueError, match=r"push\.pole needs a MuJoCo task"):
        fixed("CartPole-v1", "push.pole=1")
    with pytest.raises(ValueError, match="frame_skip needs"):
        fixed("CartPole-v1", "frame_skip=2")
    with pytest.raises(ValueError, match="walk needs ranges"):
        fixed("CartPole-v1", "walk=0.1")


# --- pushes -----------------------------------------------------------------------------------------------------------

PUCK = """<mujoco><option gravity="0 0 0" timestep="0.005"/><worldbody><body name="puck"><freejoint/>
<geom type="box" size="0.1 0.2 0.3" mass="2.5"/></body></worldbody></mujoco>"""


class Puck(gym.Env):
    """A box of 2.5 kg in empty space; the observation is its velocity."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self):
        self.model = mujoco.MjModel.from_xml_string(PUCK)
        self.data, self.frame_skip, self.dt = mujoco.MjData(self.model), 4, 0.02

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        return self.data.qvel[:3].copy(), {}

    def step(self, action):
        mujoco.mj_step(self.model, self.data, self.frame_skip)
        return self.data.qvel[:3].copy(), 0.0, False, False, {}


if "Puck-v0" not in gym.registry:
    gym.register("Puck-v0", Puck, max_episode_steps=10_000)


def test_a_push_has_its_impulse_a_random_horizontal_direction_and_its_rate():
    env = fixed("Puck-v0", "push.puck=5", "push_rate=0.25", "force_z.puck=1.5")
    change = np.diff(play(env, np.zeros((2000, 1), np.float32))[0].astype(np.float64), axis=0)
    np.testing.assert_allclose(change[:, 2], 1.5 / 2.5 * 0.02, rtol=1e-3)  # a constant force is not lost
    sizes = np.linalg.norm(change[:, :2], axis=1)
    pushed = sizes > 1e-3
    np.testing.assert_allclose(sizes[pushed], 5 / 2.5, rtol=1e-3)  # impulse = mass · change of velocity
    np.testing.assert_allclose(sizes[~pushed], 0, atol=1e-5)
    assert abs(pushed.mean() - 0.25) < 0.04  # four standard errors
    direction = change[pushed, :2] / sizes[pushed, None]
    assert np.abs(direction.mean(0)).max() < 0.13  # three standard errors
    assert (np.diff(np.flatnonzero(pushed)) == 1).any()


@pytest.mark.parametrize("repeats", [2, 5])
def test_a_push_has_its_impulse_however_often_an_action_is_repeated(repeats):
    env = fixed("Puck-v0", "push.puck=5", "push_rate=1", action_repeat=repeats)
    change = np.diff(play(env, np.zeros((20, 1), np.float32))[0].astype(np.float64), axis=0)
    np.testing.assert_allclose(np.linalg.norm(change, axis=1), 5 / 2.5, rtol=1e-3)


# --- when parameters change -------------------------------------------------------------------------------------------


def test_parameters_change_at_the_onset_and_back_after_the_duration():
    given = actions(12)
    env = fixed("HalfCheetah-v5", "body_mass.torso=20", "onset=4", "duration=5")
    ours = play(env, given)[0]
    theirs = make_single(EnvConfig("HalfCheetah-v5"))
    model, seen = theirs.unwrapped.model, [theirs.reset(seed=0)[0]]
    own = model.body_mass[1]
    for t, action in enumerate(given):
        changed, before = 20.0 if 4 <= t < 9 else own, model.body_mass[1]
        if changed != before:
            model.body_mass[1] = changed
            mujoco.mj_setConst(model, mujoco.MjData(model))
        seen.append(theirs.step(action)[0])
    np.testing.assert_allclose(ours, seen, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ours[:5], play(fixed("HalfCheetah-v5"), given)[0][:5])
    assert np.abs(ours[6] - play(fixed("HalfCheetah-v5"), given)[0][6]).max() > 1e-2


def test_a_delay_that_begins_in_the_middle_repeats_what_was_executed():
    given = actions(8)
    ours = play(fixed("HalfCheetah-v5", "control_delay=2", "onset=3"), given)[0]
    executed = given[[0, 1, 2, 1, 2, 3, 4, 5]]
    np.testing.assert_array_equal(ours, play(fixed("HalfCheetah-v5"), executed)[0])


WALKING = UncertaintySet(
    "walking",
    "Hopper-v5",
    (Parameter("body_mass.torso", 2.0, 6.0, 4.0), Parameter("walk", 0.0, 0.5), Parameter("onset", 0.0, 90.0)),
)


def masses(seed, walk, steps=60, onset=0.0):
    env = WithParameters(make_single(EnvConfig("Hopper-v5", kwargs={"terminate_when_unhealthy": False})), WALKING)
    env.reset(seed=seed, options={"params": [3.0, walk, onset]})
    seen = [float(env.unwrapped.model.body_mass[1])]
    for _ in range(steps):
        env.step(np.zeros(3, np.float32))
        seen.append(float(env.unwrapped.model.body_mass[1]))
    return np.array(seen[1:])  # those in force in each step


def test_a_walk_starts_at_the_value_stays_in_its_range_and_has_its_own_draws():
    path, again, other = masses(1, 0.05), masses(1, 0.05), masses(2, 0.05)
    assert path[0] == 3.0
    np.testing.assert_array_equal(path, again)
    assert np.abs(path - other).max() > 0.05
    assert abs(np.diff(path).std() / (0.05 * 4) - 1) < 0.35  # of the range, per step
    np.testing.assert_array_equal(masses(1, 0.0), 3.0)
    assert (masses(1, 0.5, 300) >= 2).all()
    assert (masses(1, 0.5, 300) <= 6).all()
    late = masses(1, 0.05, onset=10.0)
    np.testing.assert_array_equal(late[:10], 4.0)  # nominal
    assert late[10] == 3.0
    assert (late[11:] != 3.0).all()


def test_folding_reflects_at_both_ends():
    values = np.array([0.0, 1.0, 1.25, 2.5, -0.25])
    np.testing.assert_allclose(folded(values, np.zeros(5), np.ones(5)), [0, 1, 0.75, 0.5, 0.25])
    assert folded(np.array([7.0]), np.array([7.0]), np.array([7.0])) == 7.0


# --- random numbers, resume -------------------------------------------------------------------------------------------

ALL = (
    Parameter("control_delay", 0.0, 3.0),
    Parameter("sensor_noise.*", 0.0, 0.2),
    Parameter("sensor_drop", 0.0, 0.5),
    Parameter("push.torso", 0.0, 5.0),
    Parameter("push_rate", 0.0, 1.0),
    Parameter("walk", 0.0, 0.1),
    Parameter("frame_skip", 2.0, 6.0),
    Parameter("body_mass.torso", 2.0, 6.0),
)
EVERYTHING = UncertaintySet("everything", "Hopper-v5", ALL)


def test_random_numbers_are_owned_seeded_and_new_in_every_episode():
    env = fixed("HalfCheetah-v5", "sensor_noise.*=0.1")
    clean = fixed("HalfCheetah-v5")
    states = np.random.get_state()[1].copy()  # noqa: NPY002

    def noise(seed):
        return env.reset(seed=seed)[0] - clean.reset(seed=seed)[0]

    first, second, again = noise(1), noise(2), noise(1)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).min() > 0
    assert np.abs(noise(None) - noise(None)).min() > 0
    np.testing.assert_array_equal(states, np.random.get_state()[1])  # noqa: NPY002
    assert env.np_random.bit_generator.state == clean.np_random.bit_generator.state  # the task's draws are its own


def test_one_disturbance_does_not_shift_the_draws_of_another():
    given = actions(30)
    noisy, clean = (play(fixed("HalfCheetah-v5", *p), given)[0] for p in (("sensor_noise.*=0.1",), ()))
    both, drop = (
        play(fixed("HalfCheetah-v5", *p, "push.torso=0.0", "push_rate=1", "sensor_drop=0"), given)[0]
        for p in (("sensor_noise.*=0.1",), ())
    )
    np.testing.assert_array_equal(noisy, both)
    np.testing.assert_array_equal(clean, drop)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_resumed_run_is_the_same_run(vectorization):
    config = EnvConfig("Hopper-v5", num_envs=2, vectorization=vectorization, max_episode_steps=9)
    env, copy = (UncertainVectorEnv(config, EVERYTHING) for _ in range(2))
    env.reset(seed=4)
    given = torch.from_numpy(actions(30 * 2, 3).reshape(30, 2, 3))
    for action in given[:14]:
        env.step(action)
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    file.seek(0)
    copy.load_state_dict(torch.load(file, weights_only=True))
    for action in given[14:]:
        for ours, theirs in zip(env.step(action)[:4], copy.step(action)[:4], strict=True):
            assert torch.equal(ours, theirs)
    assert torch.equal(env.params, copy.params)
    env.close()
    copy.close()


def test_fixed_parameters_resume_without_a_set_and_reach_vector_environments():
    config = EnvConfig("HalfCheetah-v5", Physics(parameters=("sensor_noise.*=0.1", "control_delay=2")), num_envs=2)
    env, copy = make_vec(config), make_vec(config)
    first = env.reset(seed=3)[0]
    np.testing.assert_array_equal(first[1], fixed("HalfCheetah-v5", *config.physics.parameters).reset(seed=4)[0])
    given = torch.from_numpy(actions(20).reshape(10, 2, 6))
    for action in given[:5]:
        env.step(action)
    copy.load_state_dict(env.state_dict())
    for action in given[5:]:
        assert torch.equal(env.step(action)[0], copy.step(action)[0])


def test_parameters_given_in_the_middle_of_an_episode_take_over_and_resume():
    config = EnvConfig("Hopper-v5", num_envs=1)
    env, copy = (UncertainVectorEnv(config, EVERYTHING) for _ in range(2))
    env.set_params(torch.tensor([0, 0, 0, 0, 0, 0, 4.0, 3.6]))
    env.reset(seed=4)
    given = torch.from_numpy(actions(20, 3))[:, None]
    env.step(given[0])
    env.set_params(torch.tensor([2, 0.1, 0.3, 2, 0.5, 0.05, 3.0, 4.0]), now=True)
    for action in given[1:5]:
        env.step(action)
    copy.load_state_dict(env.state_dict())
    for action in given[5:12]:
        assert torch.equal(env.step(action)[0], copy.step(action)[0])


def test_a_batch_with_all_of_them_at_once_is_single_environments():
    points = np.array([[2, 0.1, 0.3, 3, 0.5, 0.05, 3, 4.0], [1, 0, 0.5, 0, 0, 0, 5, 3], [0, 0, 0, 0, 0, 0, 4, 3.5]])
    config = EnvConfig("Hopper-v5", max_episode_steps=25, kwargs={"terminate_when_unhealthy": False})
    batch = BatchedEpisodes(config, EVERYTHING, points, [7, 8, 9], threads=3)
    singles = [make_single(config, uncertainty=EVERYTHING) for _ in points]
    seen = batch.reset()[0]
    for i, env in enumerate(singles):
        np.testing.assert_array_equal(env.reset(seed=7 + i, options={"params": points[i]})[0], seen[i])
    for action in actions(25, 3):
        _, reward, _, _, info = batch.step(torch.from_numpy(np.stack([action] * 3)))
        for i, env in enumerate(singles):
            obs, expected, *_ = env.step(action)
            np.testing.assert_array_equal(obs, info["final_obs"][i])
            assert np.float32(expected) == reward[i]


def test_a_set_adds_to_what_the_physics_fixes():
    """The set varies the delay; the bias and the heavier torso of the physics stay, in both ways of playing."""
    config = EnvConfig(
        "Hopper-v5",
        Physics(parameters=("sensor_bias.0=0.5", "body_mass.torso=5", "control_delay=1")),
        max_episode_steps=9,
    )
    one = UncertaintySet("delay", "Hopper-v5", (Parameter("control_delay", 0.0, 3.0),))
    batch = BatchedEpisodes(config, one, np.array([[0.0], [2.0]]), [1, 1])
    single = WithParameters(make_single(EnvConfig("Hopper-v5")), one, config.physics.fixed())
    assert single.nominal == [1.0]
    assert single.reset(seed=1, options={"params": [0.0]})[0][0] == batch.reset()[0][0, 0]
    assert math.isclose(single.unwrapped.model.body_mass[1], 5.0)
    step = batch.step(torch.ones(2, 3))[4]["final_obs"]
    np.testing.assert_array_equal(single.step(np.ones(3, np.float32))[0], step[0])
    assert not torch.equal(step[0], step[1])
