"""The worlds of MuJoCo Warp against Gymnasium's own environments in C: the same seeds, actions, physics, parameters.

Both backends draw starts and parameters from the same generators, so nothing is copied from one to the other. Kernels
are compiled at the first run on a machine, for 25 to 90 s a task; the tasks that are not `slow` share most of theirs.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch
from worlds_against_c import (
    Options,
    actions_of,
    endless,
    error,
    growth,
    growth_ratio,
    made,
    played,
    rounding,
    size_ratio,
    solvers,
    swaying,
)

from surefoot.envs import (
    EnvConfig,
    Parameter,
    Physics,
    UncertaintySet,
    UncertainVectorEnv,
    disturbances,
    find_set,
    make_vec,
    subset,
)
from surefoot.envs.uncertainty.published import SETS
from surefoot.envs.warp.tasks import TASKS
from surefoot.envs.warp.vector_env import WarpVectorEnv

WORLDS = 4
CLOSE = 1e-4  # of 1 + |value|
# A cheetah thrown about at full strength turns a single precision's rounding into 1e-3 rad/s within ten steps, and so
# does C with another rounding (the test of growth, at full strength): step by step it is compared with smaller actions.
STRENGTH = {"HalfCheetah-v5": 0.25}
# It lies on up to thirty contacts whose forces it observes: those change by 4e-4 when C is rounded by 1e-7.
TOLERANCE = {"HumanoidStandup-v5": 1e-3}
# Tasks whose difference is more than twice that of C to itself: by how much, measured 5.8, 2.5, 3.0 and 3.1 times.
LARGER = {"Swimmer-v5": 8, "Humanoid-v5": 4, "HumanoidStandup-v5": 4, "Walker2d-v5": 4}
# With the mass matrix of C in single precision, too, twice is enough but where the forces of contacts are observed.
LARGER_WITH_MASS = {"HumanoidStandup-v5": 4}
# The tasks that forget a small difference; a robot that is thrown about on its feet does not.
CALM = ("Hopper-v5", "InvertedDoublePendulum-v5", "InvertedPendulum-v5", "Pusher-v5", "Reacher-v5", "Swimmer-v5")
DEFAULT = ("Hopper-v5", "HalfCheetah-v5")
FIFTY = [pytest.param(t, marks=() if t in DEFAULT else pytest.mark.slow) for t in CALM]
EVERY = [pytest.param(t, marks=() if t in DEFAULT else pytest.mark.slow) for t in TASKS]
FAST_SETS = ("hopper-3", "hopper-force", "halfcheetah-3")
EVERY_SET = [
    pytest.param(name, marks=() if name in FAST_SETS else pytest.mark.slow) for name in SETS if SETS[name].env in TASKS
]


def ran(config, uncertainty, backend, steps, rounding=0.0):
    """`played` in a few worlds."""
    given = {"uncertainty": uncertainty, "strength": STRENGTH.get(config.id, 1.0), "rounding": rounding}
    return played(config, backend, steps, WORLDS, **given)


def errors(config, uncertainty=None, steps=10):
    """The error of the start and of every step after it (T + 1, N); episodes that end begin anew on both sides."""
    both = (ran(config, uncertainty, backend, steps) for backend in ("mujoco", "warp"))
    return np.array([error(a, b) for a, b in zip(*both, strict=True)])


@pytest.mark.parametrize("name", EVERY)
def test_ten_steps_of_every_task_are_those_of_c(name):
    assert errors(EnvConfig(name)).max() < TOLERANCE.get(name, CLOSE)


@pytest.mark.parametrize("name", FIFTY)
def test_fifty_steps_and_the_episodes_that_begin_in_them_are_those_of_c(name):
    assert errors(EnvConfig(name, max_episode_steps=30), steps=50).max() < CLOSE


@pytest.mark.parametrize("name", EVERY)
def test_a_difference_stays_within_twice_that_of_c_to_itself_or_grows_no_faster(name):
    """Rounded by 1e-7 at every control step; some start from a larger difference, and Walker2d's also grows faster."""
    found = growth(name, 40, 64)
    assert found.rounded.max() > 1e-7
    assert size_ratio(found.warp, found.rounded) <= LARGER.get(name, 2)
    assert growth_ratio(found.warp, found.rounded) <= 2 or name not in LARGER or name == "Walker2d-v5"
    assert size_ratio(found.warp, found.with_mass) <= LARGER_WITH_MASS.get(name, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGER)
def test_a_step_differs_by_the_rounding_of_the_mass_matrix(name):
    """With Warp's mass matrix, off by a rounding or two, C itself moves apart from C by nearly as much."""
    found = rounding(name, Options(steps=20))
    assert found["mass_error"] < 4e-7
    assert 0.5 < found["with_warps_mass"] / found["warp"] < 1.5
    assert found["with_warps_mass"] > 3 * found["rounded_state"]
    if name != "Swimmer-v5":  # which touches nothing
        assert found["distance_error"] < 2e-7
        assert 0.2 < found["forces_with_both"] / found["forces_warp"] < 1.5


@pytest.mark.slow
def test_a_solver_as_strict_as_that_of_c_brings_walker2d_no_nearer(monkeypatch):
    config, strict = endless("Walker2d-v5"), 0

    def stricter(*arguments, **options):
        nonlocal strict
        env = made(*arguments, **options)
        if isinstance(env, WarpVectorEnv):
            strict += 1
            tolerance = env.worlds.simulation.model.opt.tolerance
            assert tolerance.numpy() == pytest.approx(1e-6)
            tolerance.fill_(1e-8)
        return env

    reference, usual = (played(config, backend, 10, 32) for backend in ("mujoco", "warp"))
    monkeypatch.setattr("worlds_against_c.made", stricter)
    own, also = (np.median(error(reference[-1], other[-1])) for other in (usual, played(config, "warp", 10, 32)))
    assert strict == 1
    assert 0.5 < also / own < 2


@pytest.mark.parametrize("name", EVERY_SET)
def test_a_published_set_has_the_same_effect_with_other_parameters_in_every_world(name):
    uncertainty = SETS[name]
    found = errors(EnvConfig(uncertainty.env), uncertainty)
    # Bodies of a hundredth of a kilogram amplify any rounding within ten steps, in C as well: by as much.
    both = (ran(EnvConfig(uncertainty.env), uncertainty, "mujoco", 10, size) for size in (0.0, 1e-7))
    noise = np.array([error(a, b) for a, b in zip(*both, strict=True)]).max(0)
    assert (found.max(0) < np.maximum(TOLERANCE.get(uncertainty.env, CLOSE), 3 * noise)).all()
    stock = ran(EnvConfig(uncertainty.env), None, "mujoco", 10)
    changed = ran(EnvConfig(uncertainty.env), uncertainty, "mujoco", 10)
    assert error(stock[-1], changed[-1]).max() > 10 * np.median(found)  # the parameters do something that would be seen


def test_physics_that_differs_and_action_noise_are_those_of_c():
    physics = Physics(gravity=1.3, friction=0.6, mass=1.2, damping=2.0, action_noise=0.3)
    config = EnvConfig("Hopper-v5", physics, max_episode_steps=7, time_aware=True)
    assert errors(config, steps=20).max() < CLOSE
    stock = EnvConfig("Hopper-v5", max_episode_steps=7, time_aware=True)
    assert error(ran(config, None, "warp", 5)[-1], ran(stock, None, "mujoco", 5)[-1]).min() > 0.01


def every_disturbance():
    found = disturbances(EnvConfig("Hopper-v5"))
    names = [name for name in found.param_names if name != "frame_skip"]  # which this backend refuses
    return subset(found, *names)


def test_every_disturbance_is_that_of_c_also_where_it_begins_and_ends_within_an_episode():
    config = EnvConfig("Hopper-v5", Physics(parameters=("push_rate=0.5", "onset=3", "duration=8")))
    assert errors(config, every_disturbance(), steps=25).max() < CLOSE


def test_parameters_that_walk_and_masses_that_constants_follow_are_those_of_c():
    walking = UncertaintySet(
        "walking",
        "Hopper-v5",
        (*find_set("hopper-3").parameters, Parameter("walk", 0.0, 0.2)),
        recompute_constants=True,
        scale_inertia=True,
    )
    assert errors(EnvConfig("Hopper-v5"), walking, steps=15).max() < CLOSE


def test_the_nominal_parameters_change_nothing_bit_for_bit():
    config = EnvConfig("Hopper-v5", backend="warp", num_envs=2)
    stock, named = make_vec(config), UncertainVectorEnv(config, find_set("hopper-3"))
    named.set_params(torch.from_numpy(named.env.worlds.rows.nominal))
    begun, also = stock.reset(seed=0)[0], named.reset(seed=0)[0]
    assert torch.equal(begun, also)
    for action in actions_of(stock, 10):
        assert torch.equal(stock.step(action)[0], named.step(action)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_mean_return_of_a_fixed_policy_is_that_of_c_within_three_standard_errors(name):
    """200 short episodes from the same starts; a linear policy that moves the robot."""
    means, spreads = [], []
    steps = 20 if name.startswith("Humanoid") else 60  # which take long
    for backend in ("mujoco", "warp"):
        env = make_vec(EnvConfig(name, num_envs=200, max_episode_steps=steps, backend=backend))
        obs, _ = env.reset(seed=0)
        gain = torch.randn(obs.shape[1], env.single_action_space.shape[0], generator=torch.Generator().manual_seed(3))
        returns, running = torch.zeros(200), torch.ones(200, dtype=torch.bool)
        for _ in range(steps):
            obs, reward, terminated, truncated, _ = env.step(torch.tanh(obs @ gain))
            returns += reward * running
            running &= ~(terminated | truncated)
        assert not running.any()
        means.append(float(returns.mean()))
        spreads.append(float(returns.std()) / 200**0.5)
    assert abs(means[0] - means[1]) < 3 * np.hypot(*spreads)


def test_gymnasiums_own_environment_from_the_same_state_gives_the_same_step():
    """Not by seeds but by a state that is set, in a task that this package has not touched."""
    env = make_vec(EnvConfig("Hopper-v5", backend="warp", num_envs=2))
    env.reset(seed=4)
    theirs = gym.make("Hopper-v5").unwrapped
    for world in range(2):
        theirs.reset()
        qpos, qvel = (env.worlds.simulation.field(field)[world].double().numpy() for field in ("qpos", "qvel"))
        theirs.set_state(qpos, qvel)
        action = torch.full((2, 3), 0.4 - world)
        obs, reward, *_ = theirs.step(action[world].numpy())
        moved = env.step(action)
        np.testing.assert_allclose(moved[0][world].numpy(), obs, rtol=0, atol=1e-5)
        assert float(moved[1][world]) == pytest.approx(reward, abs=1e-5)
        env.reset(seed=4)


@pytest.mark.slow
def test_a_step_of_a_humanoid_from_a_state_of_c_is_that_of_c_with_newton():
    found = solvers(*swaying("HumanoidStandup-v5", 5), Options(episodes=2, steps=8))
    assert found["returns"]["C, PGS"]["less_c_with_pgs"] == [0.0, 0.0]
    assert all(figures["mean"][0] > 0 for figures in found["returns"].values())
    step = found["one_step"]
    assert step["states"] == 32
    assert step["in_contact"] > 0
    assert 0 < step["Warp, Newton"]["contact"][0] < CLOSE
    assert step["C, PGS"]["contact"][0] > 0
