"""From an id to an environment: spaces as agents see them, independent checkers, and bad input."""

import sys
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check_env

import surefoot.envs
from surefoot.envs import EnvConfig, Physics, make_single, make_vec, spaces_of
from surefoot.envs.termination import _find

# The locks take any vector as an action, which these checks are against: test_combination_lock.py has their own.
OURS = sorted(env_id for env_id in gym.registry if env_id.startswith("surefoot/") and "Lock" not in env_id)
ONE_STEP = "surefoot/GapBandit-v0"  # Gymnasium's checker holds that no task may truncate at its first step
MUJOCO = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "InvertedPendulum-v5", "Pendulum-v1"]


@pytest.fixture(autouse=True)
def _scripted_env_is_importable(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


@pytest.mark.parametrize("env_id", [*OURS, *MUJOCO])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_independent_checkers_accept_the_single_stack(env_id):
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    noisy = [Physics(action_noise=0.1)] if isinstance(spaces_of(EnvConfig(env_id))[1], gym.spaces.Box) else []
    for physics in (Physics(), *noisy):
        if env_id != ONE_STEP:
            gymnasium_check_env(make_single(EnvConfig(env_id, physics)), skip_render_check=True)
        sb3_check_env(make_single(EnvConfig(env_id, physics)), skip_render_check=True)


@pytest.mark.parametrize("env_id", [env_id for env_id in OURS if env_id != ONE_STEP])
def test_independent_checkers_accept_what_gymnasium_makes(env_id):
    gymnasium_check_env(gym.make(env_id).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("env_id", [*OURS, *MUJOCO, "Humanoid-v5"])
def test_spaces_are_the_same_by_every_door(env_id):
    config = EnvConfig(env_id)
    observation, action = spaces_of(config)
    vec, single = make_vec(config), make_single(config)
    assert (vec.single_observation_space, vec.single_action_space) == (observation, action)
    assert (single.observation_space, single.action_space) == (observation, action)
    assert observation.dtype == np.float32
    assert isinstance(action, gym.spaces.Discrete) or action == gym.spaces.Box(-1.0, 1.0, action.shape, np.float32)
    assert vec.reset(seed=0)[0].shape == (1, *observation.shape)


@pytest.mark.parametrize(("action", "torque"), [(-1.0, -2.0), (0.25, 0.5), (1.0, 2.0)])
def test_actions_are_scaled_to_the_tasks_bounds(action, torque):
    env = make_single(EnvConfig("Pendulum-v1"))
    env.reset(seed=0)
    env.step(np.array([action], np.float32))
    assert env.unwrapped.last_u == torque


def test_actions_beyond_the_bounds_are_not_clipped():
    env = make_single(EnvConfig("InvertedPendulum-v5"))  # bounds of 3; the actuator itself clips
    env.reset(seed=0)
    env.step(np.array([1.5], np.float32))
    np.testing.assert_allclose(env.unwrapped.data.ctrl, 4.5)


def test_constructor_arguments_reach_the_task():
    obs = make_vec(EnvConfig("HalfCheetah-v5", kwargs={"exclude_current_positions_from_observation": False})).reset()[0]
    assert obs.shape == (1, 18)
    assert make_vec(EnvConfig("surefoot/Pendulum-v0", Physics(gravity=0.5))).gravity == 5.0
    assert make_single(EnvConfig("surefoot/Pendulum-v0", Physics(gravity=0.5))).unwrapped.batch.gravity == 5.0


def test_a_module_registers_its_tasks():
    assert make_vec(EnvConfig("scripted_env:Scripted-v0", num_envs=2)).num_envs == 2


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("HalfCheeta-v5", "did you mean HalfCheetah-v5"),
        ("HalfCheetah", "did you mean HalfCheetah-v5"),
        ("HalfCheetah-v9", "did you mean HalfCheetah-v5"),
        ("surefoot/Pendulun-v0", "did you mean surefoot/Pendulum-v0"),
        ("no such task", "unknown environment 'no such task'"),
        ("HalfCheetah-v3", "use HalfCheetah-v5"),
        ("Hopper-v2", "use Hopper-v5"),
    ],
)
@pytest.mark.parametrize("make", [make_vec, make_single, spaces_of])
def test_bad_ids_and_spaces_are_one_line(make, env_id, message):
    with pytest.raises(ValueError, match=message) as error:
        make(EnvConfig(env_id))
    assert "\n" not in str(error.value)


def test_a_missing_module_is_one_line_that_names_it():
    with pytest.raises(
        ImportError, match=r"cannot import 'no_such_module'.*PYTHONPATH, or start in that folder"
    ) as error:
        make_vec(EnvConfig("no_such_module:Task-v0"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("module", "extra"), [("shimmy", "dm-control"), ("gymnasium_robotics", "robotics")])
def test_a_missing_package_with_tasks_names_its_extra(module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install "surefoot\[{extra}\]"'):
        spaces_of(EnvConfig(f"{module}:Task-v0"))


def test_an_id_without_the_module_that_registers_it_says_how_it_is_written(monkeypatch):
    monkeypatch.setattr("surefoot.envs.make.difflib.get_close_matches", lambda *names, n: [])  # dm_control not imported
    with pytest.raises(ValueError, match=r'write shimmy:dm_control/cartpole-swingup-v0, .*"surefoot\[dm-control\]"'):
        spaces_of(EnvConfig("dm_control/cartpole-swingup-v0"))


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Return a function that writes a module into a working folder that Python does not search, and its id."""
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    monkeypatch.chdir(tmp_path)

    def write(name: str) -> str:
        text = "import gymnasium as gym\nfrom scripted_env import Scripted\n"
        rule = "def rule(obs, action, next_obs):\n    return obs[:, 0] > 9\n"
        (tmp_path / f"{name}.py").write_text(f'{text}gym.register("{name}-v0", Scripted)\n\n\n{rule}')
        return f"{name}:{name}-v0"

    return write


def test_a_module_of_the_working_folder_is_found(own_module, tmp_path):
    assert make_vec(EnvConfig(own_module("here_task"))).single_observation_space.shape == (2,)
    own_module("here_rule")
    assert _find(EnvConfig("HalfCheetah-v5", termination="here_rule:rule"))[1] == "here_rule:rule"
    assert sys.path[-1] == str(tmp_path)  # where it hides nothing


def test_what_is_installed_comes_before_the_working_folder(own_module):
    with pytest.raises(ValueError, match="unknown environment 'json:json-v0'"):
        make_vec(EnvConfig(own_module("json")))


def test_a_constructor_that_fails_is_one_line_with_the_place(monkeypatch):
    def broken(**kwargs):
        raise KeyError("first\nsecond")

    monkeypatch.setitem(gym.registry, "Broken-v0", gym.envs.registration.EnvSpec("Broken-v0", broken))
    with pytest.raises(ValueError, match=r"Broken-v0 with {}: KeyError .*\(test_make.py, line \d+\)$") as error:
        spaces_of(EnvConfig("Broken-v0"))
    assert "\n" not in str(error.value)


DM_CONTROL = EnvConfig("shimmy:dm_control/cartpole-swingup-v0", flatten=True, time_aware=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_suite_of_dm_control_is_a_task_like_any_other():
    """Its physics and rewards are those of dm_control itself, and it resumes, though its generator is one of old."""
    suite = pytest.importorskip("dm_control.suite", reason="extra dm-control not installed")
    env, other = make_vec(DM_CONTROL), make_vec(DM_CONTROL)
    env.reset()
    env.sub_envs.envs[0].unwrapped.np_random.seed(3)
    obs, _ = env.reset()
    own = suite.load("cartpole", "swingup", task_kwargs={"random": 3})
    step = own.reset()
    for count in range(60):
        np.testing.assert_allclose(obs[0], np.concatenate([*step.observation.values(), [count]]), rtol=1e-6, atol=1e-7)
        obs, reward, *_ = env.step(torch.full((1, 1), 0.5))
        step = own.step(np.array([0.5]))
        assert float(reward) == pytest.approx(step.reward, abs=1e-6)
    other.load_state_dict(env.state_dict())
    for left, right in zip(*(one.step(torch.full((1, 1), -0.5)) for one in (env, other)), strict=True):
        if isinstance(left, torch.Tensor):
            torch.testing.assert_close(left, right, rtol=0, atol=0)
    assert env.reset(seed=7)[0].equal(other.reset(seed=7)[0])


def test_a_goal_task_of_gymnasium_robotics_is_one_vector():
    pytest.importorskip("gymnasium_robotics", reason="extra robotics not installed")
    config = EnvConfig("gymnasium_robotics:PointMaze_UMaze-v3", flatten=True)
    env = make_single(config)
    raw = gym.make("PointMaze_UMaze-v3")
    obs, parts = env.reset(seed=0)[0], raw.reset(seed=0)[0]
    names = ("achieved_goal", "desired_goal", "observation")
    np.testing.assert_array_equal(obs, np.concatenate([parts[name] for name in names]).astype(np.float32))


@pytest.mark.skipif(int(mujoco.__version__.split(".")[0]) < 4, reason="works with MuJoCo 3")
def test_what_fails_in_gymnasium_robotics_with_mujoco_4_says_so():
    pytest.importorskip("gymnasium_robotics", reason="extra robotics not installed")
    with pytest.raises(ValueError, match=r'FetchReach-v4 .*need MuJoCo 3: pip install "mujoco<4"'):
        spaces_of(EnvConfig("gymnasium_robotics:FetchReach-v4", flatten=True))


def test_a_missing_package_of_a_task_is_an_import_error(monkeypatch):
    def missing(**kwargs):
        raise gym.error.DependencyNotInstalled("Box2D is not installed")

    monkeypatch.setitem(gym.registry, "NeedsBox2D-v0", gym.envs.registration.EnvSpec("NeedsBox2D-v0", missing))
    with pytest.raises(ImportError, match="NeedsBox2D-v0: Box2D is not installed"):
        make_vec(EnvConfig("NeedsBox2D-v0"))


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "surefoot/Pendulum-v0"])
def test_an_unknown_constructor_argument_is_named(env_id):
    for make in (make_vec, make_single):
        with pytest.raises(ValueError, match=rf"{env_id}.*wheels"):
            make(EnvConfig(env_id, kwargs={"wheels": 4}))


@pytest.mark.parametrize(
    ("field", "value"), [("num_envs", 0), ("num_envs", -1), ("max_episode_steps", 0), ("vectorization", "threads")]
)
def test_config_out_of_range_names_the_field(field, value):
    with pytest.raises(ValueError, match=f"--env.{field.replace('_', '-')}"):
        EnvConfig(**{field: value})


def test_a_native_task_that_cannot_be_rendered_says_so():
    for make in (make_vec, make_single):
        with pytest.raises(ValueError, match="render_mode"):
            make(EnvConfig("surefoot/Pendulum-v0"), render_mode="rgb_array")


def test_public_names_exist():
    assert all(hasattr(surefoot.envs, name) for name in surefoot.envs.__all__)


def test_vector_env_follows_the_agents_interface():
    from surefoot.agents.interface import VectorEnv

    for env_id in ("HalfCheetah-v5", "surefoot/Pendulum-v0"):
        env = make_vec(EnvConfig(env_id))
        env.reset(seed=0)
        obs, reward, terminated, truncated, info = env.step(torch.zeros(1, *env.single_action_space.shape))
        assert all(hasattr(env, name) for name in [*VectorEnv.__annotations__, *vars(VectorEnv)] if name[0] != "_")
        assert obs.dtype == reward.dtype == info["final_obs"].dtype == torch.float32
        assert terminated.dtype == truncated.dtype == info["_final_obs"].dtype == torch.bool


def test_making_a_task_prints_nothing_and_writes_no_log(capfd, tmp_path, monkeypatch):
    """MuJoCo's own handler would print a deprecation of Gymnasium's model and leave MUJOCO_LOG.TXT behind."""
    monkeypatch.chdir(tmp_path)
    make_single(EnvConfig(id="HalfCheetah-v5")).close()
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
