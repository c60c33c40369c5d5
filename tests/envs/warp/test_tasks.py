"""The eleven tasks on tensors against Gymnasium's own code, which reads the same state of the same simulator in C."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.envs.warp.tasks import TASKS, mass_centre

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SETTINGS = {  # other weights and ranges than the defaults, so that a constant in place of a setting shows
    "Ant-v5": {
        "ctrl_cost_weight": 0.3,
        "forward_reward_weight": 2.0,
        "contact_cost_weight": 0.01,
        "healthy_reward": 0.7,
        "healthy_z_range": (0.5, 0.9),
        "contact_force_range": (-0.5, 2.0),
        "exclude_current_positions_from_observation": False,
        "reset_noise_scale": 0.2,
    },
    "HalfCheetah-v5": {"forward_reward_weight": 2.0, "ctrl_cost_weight": 0.3, "reset_noise_scale": 0.2},
    "Hopper-v5": {
        "forward_reward_weight": 2.0,
        "healthy_reward": 3.0,
        "healthy_state_range": (-2.0, 2.0),
        "healthy_z_range": (1.0, 1.5),
        "healthy_angle_range": (-0.1, 0.15),
        "exclude_current_positions_from_observation": False,
    },
    "Humanoid-v5": {
        "contact_cost_weight": 0.01,
        "contact_cost_range": (0.5, 3.0),
        "healthy_z_range": (1.3, 1.5),
        "forward_reward_weight": 2.0,
        "include_cvel_in_observation": False,
    },
    "HumanoidStandup-v5": {
        "ctrl_cost_weight": 0.5,
        "impact_cost_weight": 0.01,
        "impact_cost_range": (0.5, 3.0),
        "include_cfrc_ext_in_observation": False,
        "include_cinert_in_observation": False,
    },
    "InvertedDoublePendulum-v5": {"healthy_reward": 3.0, "reset_noise_scale": 0.05},
    "InvertedPendulum-v5": {"reset_noise_scale": 0.1},
    "Pusher-v5": {"reward_near_weight": 2.0, "reward_dist_weight": 3.0, "reward_control_weight": 0.7},
    "Reacher-v5": {"reward_dist_weight": 3.0, "reward_control_weight": 0.7},
    "Swimmer-v5": {"forward_reward_weight": 2.0, "ctrl_cost_weight": 0.1, "reset_noise_scale": 0.3},
    "Walker2d-v5": {"healthy_z_range": (1.0, 1.4), "healthy_angle_range": (-0.3, 0.5), "healthy_reward": 2.0},
}
CASES = [(name, {}) for name in TASKS] + list(SETTINGS.items())
ENDING = ("Ant-", "Hopper-", "Humanoid-", "InvertedDoublePendulum-", "InvertedPendulum-", "Walker2d-")


def fields(env, names):
    """Arrays of the C simulator, a batch of one."""
    model, data = env.unwrapped.model, env.unwrapped.data
    return {
        name: torch.from_numpy(np.array(getattr(model if name == "body_mass" else data, name)))[None] for name in names
    }


def played(name, kwargs, steps=100):
    """Yield Gymnasium's step, the state before and after, and the action; episodes follow each other."""
    env = gym.make(name, disable_env_checker=True, **kwargs)
    env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(steps):
        before = fields(env, TASKS[name].before)
        action = env.action_space.sample().astype(np.float64)
        step = env.step(action)
        yield env.unwrapped, step, before, fields(env, TASKS[name].after), torch.from_numpy(action)[None]
        if step[2] or step[3]:
            env.reset()


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_observation_reward_end_and_info_are_gymnasiums(name, kwargs):
    ended = 0
    for task, (obs, reward, terminated, _, info), before, after, action in played(name, kwargs):
        outcome = TASKS[name].outcome(task, before, after, action)
        np.testing.assert_allclose(TASKS[name].observe(task, after)[0].numpy(), obs, **EXACT)
        np.testing.assert_allclose(float(outcome.reward[0]), reward, **EXACT)
        assert bool(outcome.terminated[0]) == terminated
        ended += terminated
        assert set(outcome.info) == set(info) - {"TimeLimit.truncated"}
        for key, value in outcome.info.items():
            np.testing.assert_allclose(value[0].numpy(), info[key], **EXACT, err_msg=key)
    stands = name == "Ant-v5" and not kwargs  # for 100 steps; with the narrower range of heights it falls
    assert (ended > 0) == (name.startswith(ENDING) and not stands)


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_a_start_is_gymnasiums_number_for_number_and_leaves_the_generator_where_it_does(name, kwargs):
    env = gym.make(name, disable_env_checker=True, **kwargs)
    task, ours = env.unwrapped, np.random.default_rng()
    for seed in range(20):
        env.reset(seed=seed)
        ours.bit_generator.state = gym.utils.seeding.np_random(seed)[0].bit_generator.state
        qpos, qvel = TASKS[name].start(task, ours)
        np.testing.assert_array_equal(qpos, task.data.qpos)
        np.testing.assert_array_equal(qvel, task.data.qvel)
        assert ours.bit_generator.state == task.np_random.bit_generator.state


def test_the_centre_of_mass_is_of_each_worlds_own_masses():
    xipos = torch.tensor([[[0.0, 0.0, 5.0], [1.0, 2.0, 5.0]]]).expand(2, -1, -1)
    mass = torch.tensor([[1.0, 1.0], [1.0, 3.0]])
    assert mass_centre(mass, xipos).tolist() == [[0.5, 1.0], [0.75, 1.5]]


@pytest.mark.parametrize("name", TASKS)
def test_worlds_in_a_batch_do_not_mix(name):
    """Two states of an episode as a batch give what each gives alone."""
    rows = [row for k, row in enumerate(played(name, {}, 30)) if k in (10, 29)]
    task = rows[0][0]
    before, after = ({key: torch.cat([row[k][key] for row in rows]) for key in rows[0][k]} for k in (2, 3))
    action = torch.cat([row[4] for row in rows])
    together, seen = TASKS[name].outcome(task, before, after, action), TASKS[name].observe(task, after)
    for i, row in enumerate(rows):
        assert float(together.reward[i]) == pytest.approx(row[1][1], rel=1e-12)
        np.testing.assert_allclose(seen[i].numpy(), row[1][0], **EXACT)
