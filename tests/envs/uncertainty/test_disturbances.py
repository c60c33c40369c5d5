"""What every task can be disturbed by: neutral values leave every bit alone, batched episodes are single ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from surefoot.envs import (
    BatchedEpisodes,
    EnvConfig,
    Parameter,
    Physics,
    UncertainVectorEnv,
    WithParameters,
    disturbances,
    make_single,
    make_vec,
    point,
    subset,
)

MUJOCO = [
    "Ant-v5", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Humanoid-v5", "HumanoidStandup-v5", "InvertedPendulum-v5",
    "InvertedDoublePendulum-v5", "Reacher-v5", "Swimmer-v5", "Pusher-v5",
]  # fmt: skip
OTHERS = [
    "CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "surefoot/Pendulum-v0",
]  # fmt: skip
STEPS = 6


def actions_of(env, count, seed=0):
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


def test_the_ranges_of_a_hopper_follow_from_its_model():
    """Gears of 200 and controls of ±1; a torso of 0.05 + 0.2 m; 15.82 kg; 4 physics steps a control step."""
    found = {one.name: (one.low, one.high) for one in disturbances(EnvConfig("Hopper-v5"), per_part=True).parameters}
    parts = {
        name: value
        for motor in range(3)  # which have no names in this model
        for name, value in ((f"actuator_gain.{motor}", (0.0, 1.5)), (f"actuator_offset.{motor}", (-0.2, 0.2)))
    }
    expected = {
        "gravity": (4.905, 14.715),
        "gravity_pitch": (-15.0, 15.0),
        "body_mass_scale.*": (0.5, 2.0),
        "body_inertia_scale.*": (0.5, 2.0),
        "body_ipos_x.torso": (-0.05, 0.05),
        "geom_friction_scale.*": (0.3, 2.0),
        "jnt_stiffness.@actuated": (0.0, 100.0),
        "dof_armature_scale.@actuated": (0.0, 3.0),
        "dof_frictionloss.@actuated": (0.0, 40.0),
        "dof_damping_scale.@actuated": (0.0, 3.0),
        "actuator_gain.*": (0.5, 1.5),
        "actuator_offset.*": (-0.2, 0.2),
        "dead_actuator": (0.0, 3.0),
        "control_delay": (0.0, 5.0),
        "sensor_noise.@qpos": (0.0, 0.1),
        "sensor_bias.@qpos": (-0.1, 0.1),
        "sensor_noise.@qvel": (0.0, 1.0),
        "sensor_bias.@qvel": (-1.0, 1.0),
        "sensor_drop": (0.0, 0.9),
        "frame_skip": (2.0, 8.0),
        "push.torso": (0.0, 15.82),
    } | parts
    assert set(found) == set(expected)
    for name, bounds in expected.items():
        assert found[name] == pytest.approx(bounds, abs=1e-4), name


@pytest.mark.parametrize("env_id", [*MUJOCO, *OTHERS])
def test_the_neutral_point_is_the_stock_task_bit_for_bit_also_after_all_extremes(env_id):
    config = EnvConfig(env_id, max_episode_steps=50)
    everything = disturbances(config)
    env, stock = WithParameters(make_single(config), everything), make_single(config)
    env.reset(seed=9, options={"params": everything.high})
    env.step(actions_of(stock, 1)[0])
    ours, theirs = env.reset(seed=3, options={"params": env.nominal})[0], stock.reset(seed=3)[0]
    for action in actions_of(stock, STEPS):
        assert ours.tobytes() == theirs.tobytes()
        (ours, *rest), (theirs, *expected) = env.step(action)[:4], stock.step(action)[:4]
        assert rest == expected
    model, fresh = (getattr(one.unwrapped, "model", None) for one in (env, make_single(config)))
    for name in dir(model) if model else ():
        if isinstance(value := getattr(model, name), np.ndarray):
            np.testing.assert_array_equal(value, getattr(fresh, name), err_msg=name)
    assert model is None or model.stat.meaninertia == fresh.stat.meaninertia


@pytest.mark.parametrize(
    "env_id", ["Ant-v5", "HalfCheetah-v5", "HumanoidStandup-v5", "Reacher-v5", *OTHERS[:2], OTHERS[-1]]
)
def test_every_disturbance_of_a_batch_is_that_of_a_single_environment_and_does_something(env_id):
    config = EnvConfig(env_id, max_episode_steps=50)
    everything = disturbances(config)
    env = WithParameters(make_single(config), everything)
    ends = [{p.name: p.high if p.nominal == p.low else p.low} for p in everything.parameters]
    points = np.stack([point(everything, env.nominal, end) for end in [{}, *ends]])
    actions = actions_of(env, STEPS)
    queue = BatchedEpisodes(config, everything, points, [5] * len(points), threads=2)
    seen = [queue.reset()[0].numpy()]
    rewards = []
    for action in actions:
        _, reward, _, _, info = queue.step(torch.from_numpy(np.stack([action] * len(points))))
        seen.append(info["final_obs"].numpy())
        rewards.append(reward.numpy())
    for k, values in enumerate(points):
        np.testing.assert_array_equal(env.reset(seed=5, options={"params": values})[0], seen[0][k])
        for t, action in enumerate(actions):
            obs, reward, terminated, truncated, _ = env.step(action)
            np.testing.assert_array_equal(obs, seen[t + 1][k])
            assert np.float32(reward) == rewards[t][k]
            if terminated or truncated:
                break
    # A push comes once in 100 steps, actions may stay below 1 N m, Reacher lies flat.
    rare = {"push", "geom_friction_scale", "max_torque", *(["gravity"] if env_id == "Reacher-v5" else [])}
    paths = np.stack(seen, 1)
    same = [name for k, name in enumerate(everything.param_names) if (paths[k + 1] == paths[0]).all()]
    assert {name.partition(".")[0] for name in same} <= rare


def test_a_subset_and_a_point_name_what_there_is():
    everything = disturbances(EnvConfig("CartPole-v1"))
    pair = subset(everything, "pole_mass", "control_delay")
    assert pair.param_names == ("pole_mass", "control_delay")
    assert pair.parameters[1] == Parameter("control_delay", 0.0, 5.0, 0.0)
    np.testing.assert_array_equal(point(pair, np.array([0.1, 0.0]), {"control_delay": 3}), [0.1, 3.0])
    for wrong in (lambda: subset(everything, "mass"), lambda: point(everything, everything.low, {"mass": 1.0})):
        with pytest.raises(ValueError, match="no parameter 'mass'; it has gravity, cart_mass, pole_mass"):
            wrong()


def test_ranges_include_what_the_physics_fixes_and_every_actuator_is_there_if_asked_for():
    there = disturbances(
        EnvConfig("HalfCheetah-v5", Physics(gravity=3.0, parameters=("control_delay=9",))), per_part=True
    )
    known = {one.name: one for one in there.parameters}
    assert known["control_delay"] == Parameter("control_delay", 0.0, 9.0, 9.0)
    np.testing.assert_allclose(known["gravity"].nominal, 3 * 9.81)
    assert {f"actuator_{what}.{name}" for what in ("gain", "offset") for name in ("bthigh", "ffoot")} <= set(known)


@pytest.mark.parametrize("env_id", ["Hopper-v5", "CartPole-v1"])
def test_vector_environments_at_neutral_values_are_the_stock_ones_through_their_resets(env_id):
    config = EnvConfig(env_id, num_envs=2, max_episode_steps=4)
    everything = disturbances(config)
    neutral = tuple(f"{one.name}={one.nominal!r}" for one in everything.parameters)
    fixed, varied = (
        make_vec(replace(config, physics=Physics(parameters=neutral))),
        UncertainVectorEnv(config, everything),
    )
    varied.set_params(torch.tensor([one.nominal for one in everything.parameters], dtype=torch.float64))
    envs = [make_vec(config), fixed, varied]
    stock, *ours = (env.reset(seed=2)[0] for env in envs)
    assert all(torch.equal(stock, one) for one in ours)
    envs[0].action_space.seed(0)
    for _ in range(10):
        action = torch.from_numpy(envs[0].action_space.sample())
        stock, *ours = (env.step(action)[:4] for env in envs)
        assert all(torch.equal(*pair) for one in ours for pair in zip(stock, one, strict=True))
