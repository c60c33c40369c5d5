"""The dynamical linear bandit against exact answers, and its exact epochs against its rounds.

docs/derivations/dynlin.md §9, E1 and E18; epochs: §5.2.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.envs import DynamicalLinear, EnvConfig, make_vec, spaces_of
from surefoot.envs.tasks.linear_system import (
    SYSTEMS,
    cumulative_markov,
    make_actions,
    make_system,
    polytope_vertices,
    repeat_distribution,
    spectral_radius,
)

ID = "surefoot/DynamicalLinear-v0"


def equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", SYSTEMS)
def test_h_is_the_sum_of_the_markov_parameters(name):
    A, B, omega, theta, *_ = make_system(SYSTEMS[name])
    parameters = [theta] + [B.T @ np.linalg.matrix_power(A.T, s - 1) @ omega for s in range(1, 200)]
    np.testing.assert_allclose(cumulative_markov(make_system(SYSTEMS[name])), sum(parameters), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "h", "values"),
    [
        ("synthetic", [0.5625, 0.5, 0.111111], [0.361111, 0.555556, 0.392361, 0.78125, 0.618056, 0.8125]),
        ("real-data", [0.251525, -0.036298, 0.106121], [0.087973, 0.016763, 0.231884, 0.089465, 0.304586, 0.233376]),
        ("s1", [1.0, 0.0], [1.0, 0.0, 0.5]),
    ],
)
def test_steady_state_rewards_are_those_of_the_derivation(name, h, values):
    env = DynamicalLinear(system=name)
    np.testing.assert_allclose(env.h, h, rtol=0, atol=6e-7)
    np.testing.assert_allclose(env.actions @ env.h, values, rtol=0, atol=6e-7)
    assert env.optimum == max(env.actions @ env.h)


def test_the_first_markov_parameters_are_read_from_impulses():
    env = DynamicalLinear(3, system="synthetic", noise=0.0)
    env.reset(seed=0)
    unit, nothing = torch.eye(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    rewards = [env.step(unit if t == 0 else nothing)[1].tolist() for t in range(4)]
    np.testing.assert_allclose(
        rewards, [[0, 0.5, 0.1], [0.45, 0, 0.01], [0.09, 0, 0.001], [0.018, 0, 0.0001]], rtol=0, atol=1e-15
    )


def test_rewards_of_a_held_action_are_read_before_the_state_moves():
    env = DynamicalLinear(system="synthetic", noise=0.0)
    env.reset(seed=0)
    rewards = [float(env.step(torch.tensor([5]))[1]) for _ in range(6)]
    np.testing.assert_allclose(rewards, [0.25, 0.7, 0.79, 0.808, 0.8116, 0.81232], rtol=0, atol=1e-12)


def test_info_says_what_the_state_hides():
    env = DynamicalLinear(1, system="s1", noise=0.0)
    obs, _ = env.reset(seed=0)
    assert obs.tolist() == [[0.0]]
    env.step(torch.tensor([0]))
    obs, reward, terminated, truncated, info = env.step(torch.tensor([0]))
    assert obs.tolist() == [[0.0]]
    assert float(info["mean_reward"]) == float(reward) == pytest.approx(0.6 - 0.2)
    assert (float(info["steady_state_reward"]), float(info["optimal_steady_state_reward"])) == (1.0, 1.0)
    assert not terminated.any()
    assert not truncated.any()
    single = gym.make(ID)
    single.reset(seed=0)
    assert single.step(1)[4]["steady_state_reward"] == 0.0


def test_a_named_systems_outputs_are_summed():
    system = make_system(SYSTEMS["real-data"])
    np.testing.assert_allclose(system.omega, [-0.61, -0.04, -0.13], atol=1e-12)
    np.testing.assert_allclose(system.theta, [0.13, 0.41, 0.02], atol=1e-12)
    assert system.reward_noise == pytest.approx(0.01 * 3**0.5)
    assert spectral_radius(system.A) == pytest.approx(0.666891, abs=1e-6)
    weighted = make_system({**SYSTEMS["real-data"], "weights": [1, 0, 0]})
    np.testing.assert_allclose(weighted.omega, [0.25, -0.14, 0.01])


# --- epochs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_without_noise_an_epoch_is_its_rounds(rounds):
    epoch, single = (DynamicalLinear(6, system="real-data", noise=0.0) for _ in range(2))
    epoch.reset(seed=0), single.reset(seed=0)
    for shift in range(3):
        actions = (torch.arange(6) + shift) % 6
        repeated = epoch.repeat(actions, rounds)
        rewards = torch.stack([single.step(actions)[1] for _ in range(rounds)])
        torch.testing.assert_close(repeated.last_reward, rewards[-1], rtol=0, atol=1e-13)
        torch.testing.assert_close(repeated.total_reward, rewards.sum(0), rtol=0, atol=1e-13)
        torch.testing.assert_close(epoch._state[0], single._state[0], rtol=0, atol=1e-13)


def test_the_distribution_of_an_epoch_has_the_covariance_of_its_rounds():
    system, rounds = make_system({**SYSTEMS["real-data"], "state_noise": 0.3, "output_noise": 0.2}), 4
    distribution = repeat_distribution(system, rounds)
    covariance = distribution.noise @ distribution.noise.T
    powers = [np.linalg.matrix_power(system.A, i) for i in range(rounds)]
    before_last = 0.3**2 * sum(P @ P.T for P in powers[:-1])
    np.testing.assert_allclose(covariance[:3, :3], 0.3**2 * sum(P @ P.T for P in powers), atol=1e-12)
    np.testing.assert_allclose(covariance[3, 3], 0.12 + system.omega @ before_last @ system.omega, atol=1e-12)
    np.testing.assert_allclose(covariance[3, :3], system.A @ before_last @ system.omega, atol=1e-12)


def test_epochs_and_rounds_agree_in_distribution():
    num_envs, rounds = 10_000, 3
    kwargs = {"system": "real-data", "state_noise": 0.3, "output_noise": 0.1}
    epoch, single = DynamicalLinear(num_envs, **kwargs), DynamicalLinear(num_envs, **kwargs)
    epoch.reset(seed=0), single.reset(seed=1)
    action = torch.full((num_envs,), 2)
    samples = []
    for env in (epoch, single):
        for _ in range(2):
            if env is epoch:
                repeated = env.repeat(action, rounds)
                last, total = repeated.last_reward, repeated.total_reward
            else:
                rewards = torch.stack([env.step(action)[1] for _ in range(rounds)])
                last, total = rewards[-1], rewards.sum(0)
        samples.append(torch.stack([*env._state[0].T, last, total]))
    torch.testing.assert_close(samples[0].mean(1), samples[1].mean(1), rtol=0, atol=0.03)
    torch.testing.assert_close(samples[0].cov(), samples[1].cov(), rtol=0, atol=0.04)


def test_a_repeated_action_leaves_a_state_that_was_taken_as_it_was():
    env = DynamicalLinear(2, system="s1")
    env.reset(seed=0)
    env.step(torch.zeros(2, dtype=torch.int64))
    state = env.state_dict()
    for _ in range(2):
        env.repeat(torch.zeros(2, dtype=torch.int64), 7)
        assert (state["elapsed_steps"].tolist(), env.state_dict()["elapsed_steps"].tolist()) == ([1, 1], [8, 8])
        env.load_state_dict(state)


def test_an_epoch_does_not_cross_an_episodes_end():
    env = DynamicalLinear(2, system="s1", max_episode_steps=10)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"set no --env\.max-episode-steps"):
        env.repeat(torch.zeros(2, dtype=torch.int64), 3)


# --- replicates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeated", [False, True])
def test_an_environment_does_not_depend_on_how_many_there_are(repeated):
    few, many = DynamicalLinear(2, system="real-data"), DynamicalLinear(37, system="real-data")
    few.reset(seed=3), many.reset(seed=3)
    for t in range(300):  # more than one block of noise
        actions = torch.arange(37) * (t + 1) % 6
        if repeated:
            one, other = few.repeat(actions[:2], 4), many.repeat(actions, 4)
            equal(one.total_reward, other.total_reward[:2])
        else:
            equal(few.step(actions[:2])[1], many.step(actions)[1][:2])
        equal(few._state[0], many._state[0][:2])


def test_environments_and_seeds_have_noise_of_their_own():
    env = DynamicalLinear(3, system="s1")
    env.reset(seed=0)
    first = env.step(torch.zeros(3, dtype=torch.int64))[1]
    assert len(set(first.tolist())) == 3
    env.reset(seed=0)
    equal(env.step(torch.zeros(3, dtype=torch.int64))[1], first)
    env.reset()
    assert not torch.equal(env.step(torch.zeros(3, dtype=torch.int64))[1], first)


def test_noise_has_the_asked_for_moments():
    env = DynamicalLinear(20_000, system="synthetic", noise=0.5, n_outputs=3)
    env.reset(seed=0)
    _, reward, *_, info = env.step(torch.full((20_000,), 5))
    assert float((reward - info["mean_reward"]).std()) == pytest.approx(0.5 * 3**0.5, rel=0.03)
    _, _, *_, info = env.step(torch.full((20_000,), 5))
    assert float(info["mean_reward"].std()) == pytest.approx(0.5 * np.linalg.norm([1, 0, 0.1]), rel=0.03)


def test_a_saved_environment_goes_on_bit_for_bit():
    env, fresh = (DynamicalLinear(3, system="real-data") for _ in range(2))
    env.reset(seed=0)
    for t in range(260):
        env.repeat(torch.full((3,), t % 6), 1 + t % 3)
    fresh.load_state_dict(env.state_dict())
    for t in range(10):
        equal(
            env.repeat(torch.full((3,), t % 6), 2).total_reward, fresh.repeat(torch.full((3,), t % 6), 2).total_reward
        )
    equal(env.reset()[0], fresh.reset()[0])
    equal(env.step(torch.zeros(3, dtype=torch.int64))[1], fresh.step(torch.zeros(3, dtype=torch.int64))[1])


# --- actions ----------------------------------------------------------------------------------------------------------


def test_the_budget_polytope_has_ten_vertices():
    matrix = np.vstack([np.eye(3), -np.eye(3), np.ones((1, 3))])
    vertices = polytope_vertices(matrix, np.array([1, 1, 1, 0, 0, 0, 1.5]))
    expected = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)] + [tuple(v) for v in SYSTEMS["synthetic"]["actions"]]
    assert sorted(map(tuple, vertices)) == sorted(expected)
    env = DynamicalLinear(system="synthetic", polytope={"matrix": matrix.tolist(), "bound": [1, 1, 1, 0, 0, 0, 1.5]})
    assert env.single_action_space == gym.spaces.Discrete(10)
    assert env.optimum == pytest.approx(0.8125)


def test_on_a_ball_actions_are_unit_vectors_scaled_by_the_radius():
    env = DynamicalLinear(3, system="s1", noise=0.0, ball=2.0)
    assert env.single_action_space == gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    assert env.optimum == pytest.approx(2.0)
    env.reset(seed=0)
    actions = torch.tensor([[0.5, 0.0], [0.0, 1.0], [3.0, 4.0]], dtype=torch.float64)  # the last one is too long
    _, reward, *_, info = env.step(actions)
    torch.testing.assert_close(reward, torch.tensor([-0.2, 1.2, 2 * (0.6 * -0.2 + 0.8 * 0.6)], dtype=torch.float64))
    torch.testing.assert_close(info["steady_state_reward"], torch.tensor([1.0, 0.0, 1.2], dtype=torch.float64))


def test_own_systems_are_taken_from_plain_values():
    matrices = {"A": [["5e-1"]], "B": [[0.6, -0.3]], "omega": [1], "theta": [-0.2, 0.6]}  # YAML reads 5e-1 as text
    kwargs = {**matrices, "noise": 0.05, "actions": [[1, 0], [0, 1], [0.5, 0.5]]}
    own, named = (make_vec(EnvConfig(ID, num_envs=2, kwargs=k)) for k in (kwargs, {"system": "s1"}))
    own.reset(seed=0), named.reset(seed=0)
    equal(own.repeat(torch.tensor([0, 1]), 3).total_reward, named.repeat(torch.tensor([0, 1]), 3).total_reward)
    assert spaces_of(EnvConfig(ID, kwargs=kwargs))[1] == gym.spaces.Discrete(3)


S1 = {name: SYSTEMS["s1"][name] for name in ("A", "B", "omega", "theta", "actions")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"A": [[1.0]]}, "spectral radius 1; the system is unstable"),
        ({"A": [[0.5, 1.0]]}, "A is 1 x 2; it must be square"),
        ({"A": [[0.5, 0], [0, 0.5]]}, "B is 1 x 2, but A is 2 x 2"),
        ({"A": "matrix"}, "A is not a matrix of numbers"),
        ({"A": [[float("nan")]]}, "A holds numbers that are not finite"),
        ({"B": None}, "B is missing; a system needs A, B and either"),
        ({"omega": [1, 2]}, "reads 2 states, but A has 1"),
        ({"theta": [1, 2, 3]}, "reads 3 actions, but B has 2 columns"),
        ({"C": [[1.0]], "D": [[1.0, 0.0]]}, "give omega and theta, or C and D, not both"),
        ({"weights": [1.0]}, "weights go with C and D"),
        ({"noise": -0.1}, "state_noise is -0.1; a standard deviation is at least 0"),
        ({"n_outputs": -1}, "n_outputs is -1"),
        ({"actions": []}, "actions is empty"),
        ({"actions": [[1, 0]]}, "1 distinct point"),
        ({"actions": [[1, 0], [1, 0]]}, "1 distinct point"),
        ({"actions": [[1], [2]]}, "actions have 1 components, but B has 2 columns"),
        ({"actions": None}, "give one of actions, polytope and ball, not none"),
        ({"ball": 1.0}, "give one of actions, polytope and ball, not actions and ball"),
        ({"actions": None, "ball": -1.0}, "ball is -1.0; a radius is positive"),
        ({"actions": None, "polytope": [1]}, "polytope needs matrix and bound"),
        ({"actions": None, "polytope": {"matrix": [[1, 0], [0, 1]], "bound": [1, 1]}}, "polytope is unbounded"),
    ],
)
def test_what_is_no_system_is_named(changes, message):
    description = {**S1, **changes}
    with pytest.raises(ValueError, match=message):
        make_actions(description, make_system(description).B.shape[1])


def test_the_environment_names_the_task_and_the_known_systems():
    with pytest.raises(ValueError, match="unknown system 's2'; choose one of synthetic, real-data, s1"):
        make_vec(EnvConfig(ID, kwargs={"system": "s2"}))
    with pytest.raises(ValueError, match=r"x0 is \[0.0, 0.0\]; the state has 1"):
        make_vec(EnvConfig(ID, kwargs={"x0": [0, 0]}))
