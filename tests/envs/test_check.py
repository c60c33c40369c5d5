"""The look at a task before a run: a breach of the protocol is one line that names the method and what it must do."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from surefoot.envs import EnvConfig, TaskError, examine_task, make_vec, require_time_limit


@pytest.fixture(autouse=True)
def _tasks_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


def careless(breach, name="Careless"):
    return EnvConfig(f"faulty_tasks:{name}-v0", kwargs={"breach": breach})


@pytest.mark.parametrize(
    ("breach", "message"),
    [
        ("no info", r"reset returned an array of shape \(2,\); it must be reset\(self, \*, seed=None, options=None\)"),
        ("reset a list", r"reset returned a list of 2 as the observation; it must be an array of \(2,\)"),
        ("four", r"step returned a tuple of 4; it must return \(observation, reward, terminated, truncated, info\)"),
        ("no dictionary", "step returned a tuple of 5; it must return .*info a dictionary"),
        ("a list", r"step returned a list of 2 as the observation; it must be an array of \(2,\)"),
        ("another shape", r"step returned an array of shape \(3,\) as the observation; it must be an array of \(2,\)"),
        ("outside", r"step returned 1.5 at \[1\] of the observation, outside .* which is -1.0 to 1.0 there"),
        ("an array", r"step returned an array of shape \(1,\) as the reward; it must be one number"),
        ("no reward", r"step returned None \(NoneType\) as the reward; it must be one number"),
        ("no flag", r"step returned None \(NoneType\) as `terminated`; it must be a bool"),
        ("raises", r"step\(\d\) raised KeyError: 'power'"),
    ],
)
def test_a_breach_of_the_protocol_is_one_line(breach, message):
    with pytest.raises(TaskError, match=f"^faulty_tasks:Careless-v0: {message}") as error:
        examine_task(careless(breach))
    assert "\n" not in str(error.value)


def test_a_reset_without_a_seed_says_how_it_must_look():
    with pytest.raises(TaskError, match=r"raised TypeError: .*'seed'; it must be reset\(self, \*, seed=None, options="):
        examine_task(EnvConfig("faulty_tasks:NoSeed-v0"))


@pytest.mark.parametrize("breach", ["", "double"])
def test_a_sound_task_repeats_itself_also_with_wider_types(breach):
    assert examine_task(careless(breach))


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Pendulum-v1", "CartPole-v1", "surefoot/Pendulum-v0"])
def test_known_tasks_are_sound(env_id):
    assert examine_task(EnvConfig(env_id))


@pytest.mark.parametrize("task", ["Careless", "Unseeded", "Hardware"])
def test_a_task_that_does_not_repeat_itself_is_known_and_the_global_generators_stay(task):
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # noqa: NPY002
    assert not examine_task(careless("global" if task == "Careless" else "", task))
    assert before[:2] == (random.getstate(), np.random.get_state()[1].tobytes())  # noqa: NPY002
    assert torch.equal(before[2], torch.get_rng_state())


@pytest.mark.parametrize("breach", ["", "terminated"])
def test_a_task_without_a_time_limit_is_told_the_flag(breach):
    with pytest.raises(TaskError, match=r"no time limit.*add --env.max-episode-steps N"):
        require_time_limit(careless(breach, "Ends"))


def test_a_declared_an_own_or_a_given_limit_is_one():
    require_time_limit(careless("own", "Ends"))
    require_time_limit(EnvConfig("faulty_tasks:Ends-v0", max_episode_steps=7))
    for env_id in ("Hopper-v5", "surefoot/Gate-v0", "surefoot/CombinationLock-v0", "surefoot/RiverSwim-v0"):
        require_time_limit(EnvConfig(env_id))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Whole", r"Box\(2,\) of whole numbers; register the task behind a gymnasium.ActionWrapper that takes floats"),
        ("Fixed", "coordinate 1 can only be 0.5; register"),
        ("Huge", "without finite bounds; add --env.action-bound"),
    ],
)
def test_actions_that_cannot_be_scaled_are_refused_at_the_start(name, message):
    with pytest.raises(ValueError, match=f"faulty_tasks:{name}Actions-v0: actions are .*{message}"):
        make_vec(EnvConfig(f"faulty_tasks:{name}Actions-v0"))


@pytest.mark.filterwarnings("error")
def test_bounds_beyond_float32_are_none_and_warn_of_nothing():
    space = make_vec(EnvConfig("faulty_tasks:Faulty-v0", kwargs={"dtype": "float64"})).single_observation_space
    assert not space.bounded_below.any()
    assert not space.bounded_above.any()
