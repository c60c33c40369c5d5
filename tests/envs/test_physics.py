"""Dynamics gaps: docs/derivations/h2o.md §8.1, §8.2 and E12."""

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch

from surefoot.envs import EnvConfig, Physics, make_single, make_vec

CHEETAH = "HalfCheetah-v5"


def model_of(env_id: str, physics: Physics) -> mujoco.MjModel:
    env = make_single(EnvConfig(env_id, physics))
    env.close()
    return env.unwrapped.model


def test_gravity_doubles_every_component():
    np.testing.assert_array_equal(model_of(CHEETAH, Physics(gravity=2.0)).opt.gravity, [0, 0, -19.62])


def test_friction_scales_all_three_numbers_of_all_cheetah_geoms():
    friction = model_of(CHEETAH, Physics(friction=0.3)).geom_friction
    np.testing.assert_allclose(friction, np.tile([0.12, 0.03, 0.03], (9, 1)), rtol=1e-12)


def test_friction_includes_hoppers_floor_which_its_file_does_not_mention():
    model = model_of("Hopper-v5", Physics(friction=0.3))
    floor, foot = (mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, name) for name in ("floor", "foot_geom"))
    np.testing.assert_allclose(model.geom_friction[[floor, foot], 0], [0.3, 0.6], rtol=1e-12)
    # The contact takes the larger of the two: 0.6 here; scaling the file's text alone would leave the floor's 1.0.


def test_walker2d_unmodified_friction_is_what_the_docs_say():
    friction = model_of("Walker2d-v5", Physics()).geom_friction
    np.testing.assert_allclose(friction[0], [0.7, 0.1, 0.1])
    np.testing.assert_allclose(friction[1:, 0], [0.9, 0.9, 0.9, 1.9, 0.9, 0.9, 1.9])


def test_mass_is_what_the_compiler_makes_of_a_heavier_file():
    model = model_of(CHEETAH, Physics(mass=2.0))
    path = gym.make(CHEETAH).unwrapped.fullpath
    with open(path) as file:
        heavier = mujoco.MjModel.from_xml_string(file.read().replace('settotalmass="14"', 'settotalmass="28"'))
    derived = ("body_mass", "body_inertia", "body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0")
    for name in derived:
        np.testing.assert_allclose(getattr(model, name), getattr(heavier, name), rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(model.stat.meaninertia, heavier.stat.meaninertia, rtol=1e-9)


def test_damping_scales_every_degree_of_freedom():
    unmodified, damped = model_of(CHEETAH, Physics()), model_of(CHEETAH, Physics(damping=3.0))
    np.testing.assert_array_equal(damped.dof_damping, 3.0 * unmodified.dof_damping)
    assert unmodified.dof_damping.max() > 0


@pytest.mark.parametrize(
    "physics", [Physics(gravity=2.0), Physics(friction=0.3), Physics(mass=1.5), Physics(damping=2.0)]
)
def test_every_factor_changes_the_motion_and_no_other_environment(physics):
    def fall(env):
        env.reset(seed=0)
        return np.concatenate([env.step(np.full(6, 0.3, np.float32))[0] for _ in range(50)])

    before, after = gym.make(CHEETAH), None
    changed = fall(make_single(EnvConfig(CHEETAH, physics)))
    after = gym.make(CHEETAH)
    np.testing.assert_array_equal(fall(before), fall(after))
    assert np.abs(fall(before) - changed).max() > 1e-3


@pytest.mark.parametrize("env_id", [CHEETAH, "Hopper-v5", "Walker2d-v5"])
def test_neutral_physics_is_the_unmodified_task_bit_for_bit(env_id):
    ours, unmodified = make_vec(EnvConfig(env_id)), gym.make(env_id)
    obs, expected = ours.reset(seed=3)[0], unmodified.reset(seed=3)[0]
    rng = np.random.default_rng(0)
    for _ in range(2000):
        np.testing.assert_array_equal(obs[0], expected.astype(np.float32))
        action = rng.uniform(-1, 1, unmodified.action_space.shape).astype(np.float32)
        obs, reward, terminated, truncated, info = ours.step(torch.from_numpy(action)[None])
        expected, expected_reward, *ended, _ = unmodified.step(action)
        assert float(reward) == np.float32(expected_reward)
        assert [bool(terminated), bool(truncated)] == ended
        np.testing.assert_array_equal(info["final_obs"][0], expected.astype(np.float32))
        if any(ended):
            expected, _ = unmodified.reset()


def test_neutral_physics_leaves_every_array_of_the_model_alone():
    unmodified, ours = gym.make("Ant-v5").unwrapped.model, model_of("Ant-v5", Physics())
    for name in dir(unmodified):
        if isinstance(getattr(unmodified, name), np.ndarray):
            np.testing.assert_array_equal(getattr(ours, name), getattr(unmodified, name), err_msg=name)


def test_action_noise_reaches_the_actuators_but_not_the_caller():
    """The control cost is that of the noisy, unclipped action: 0.1·6·E[ε²] = 0.6 per step (eq. (8.2))."""
    env = make_single(EnvConfig(CHEETAH, Physics(action_noise=1.0)))
    env.reset(seed=0)
    clean = np.zeros(6, np.float32)
    costs = [-env.step(clean)[4]["reward_ctrl"] for _ in range(500)]
    np.testing.assert_array_equal(clean, 0.0)
    actions = torch.zeros(1, 6)
    envs = make_vec(EnvConfig(CHEETAH, Physics(action_noise=1.0)))
    envs.reset(seed=0)
    envs.step(actions)
    torch.testing.assert_close(actions, torch.zeros(1, 6), rtol=0, atol=0)
    np.testing.assert_allclose(np.mean(costs), 0.6, atol=0.05)  # standard error 0.015
    assert np.max(costs) > 1.2  # beyond what actions clipped to [-1, 1] could cost (0.6)


def test_control_cost_is_not_clipped():
    env = make_single(EnvConfig(CHEETAH))
    env.reset(seed=0)
    np.testing.assert_allclose(env.step(np.full(6, 3.0, np.float32))[4]["reward_ctrl"], -5.4)


def test_action_noise_comes_from_the_tasks_own_generator():
    def rewards(global_seed):
        np.random.seed(global_seed)  # noqa: NPY002 - must not matter
        env = make_single(EnvConfig(CHEETAH, Physics(action_noise=0.5)))
        env.reset(seed=0)
        return [env.step(np.zeros(6, np.float32))[1] for _ in range(20)]

    assert rewards(0) == rewards(1)


def test_action_noise_is_in_normalised_units():
    env = make_single(EnvConfig("Pendulum-v1", Physics(action_noise=0.1)))
    torques = []
    for seed in range(300):
        env.reset(seed=seed)
        env.step(np.zeros(1, np.float32))
        torques.append(env.unwrapped.last_u)
    np.testing.assert_allclose(np.std(torques), 0.2, rtol=0.15)  # 0.1 of the bound of 2


@pytest.mark.parametrize(("factor", "g"), [(0.5, 5.0), (-1.0, -10.0), (1.0, 10.0)])
def test_pendulum_gravity_is_its_g(factor, g):
    assert make_single(EnvConfig("Pendulum-v1", Physics(gravity=factor))).unwrapped.g == g


@pytest.mark.parametrize(
    ("env_id", "physics", "named"),
    [
        ("Pendulum-v1", Physics(friction=0.3), "physics.friction"),
        ("MountainCarContinuous-v0", Physics(gravity=2.0), "physics.gravity"),
        ("surefoot/Pendulum-v0", Physics(mass=2.0), "physics.mass"),
        ("CartPole-v1", Physics(action_noise=0.1), "physics.action_noise"),
    ],
)
def test_a_factor_that_the_task_does_not_have_is_an_error(env_id, physics, named):
    with pytest.raises(ValueError, match=named):
        make_single(EnvConfig(env_id, physics))
    with pytest.raises(ValueError, match=named):
        make_vec(EnvConfig(env_id, physics))


@pytest.mark.parametrize(
    "kwargs", [{"friction": -0.1}, {"mass": 0.0}, {"damping": -1.0}, {"action_noise": -1.0}, {"gravity": float("nan")}]
)
def test_out_of_range_is_an_error_that_names_the_field(kwargs):
    with pytest.raises(ValueError, match=rf"physics\.{next(iter(kwargs))}"):
        Physics(**kwargs)
