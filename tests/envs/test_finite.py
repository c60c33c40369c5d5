"""Numbers that are not finite: the guard names task, step, environment and field, and lets everything else through."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from surefoot.envs import EnvConfig, TaskError, TensorEnv, make_vec
from surefoot.envs.finite import FiniteGuard, as_float32, is_finite
from surefoot.envs.tasks.pendulum import Pendulum


@pytest.fixture(autouse=True)
def _tasks_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


def play(env, steps, reset=True):
    if reset:
        env.reset(seed=0)
    for _ in range(steps):
        env.step(torch.full((env.num_envs, 1), 0.5))


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("fault", "dtype", "message"),
    [
        ("reward", "float32", "at step 7 the reward of environment 0 is nan;"),
        ("huge reward", "float32", "at step 7 the reward of environment 0 is inf;"),
        ("observation", "float32", r"at step 7 the observation of environment 0 is inf \(coordinate 2\)"),
        ("huge observation", "float64", r"at step 7 the observation of environment 0 is -inf \(coordinate 2\)"),
        ("end", "float32", r"at step 7 the observation of environment 0 is nan \(coordinate 0\)"),
        ("reset", "float32", r"at step 9 the observation after reset of environment 0 is nan \(coordinate 1\)"),
    ],
)
def test_the_first_number_that_is_not_finite_stops_everything(vectorization, fault, dtype, message):
    kwargs = {"fault": fault, "at": 7, "dtype": dtype}
    env = make_vec(EnvConfig("faulty_tasks:Faulty-v0", EnvConfig().physics, 2, vectorization, 9, kwargs=kwargs))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # an overflow is this error, and no warning besides
        with pytest.raises(TaskError, match=f"^faulty_tasks:Faulty-v0: {message}") as error:
            play(env, 20)
    assert "\n" not in str(error.value)
    env.close()


def test_a_number_that_is_there_from_the_start_is_found_at_reset():
    env = make_vec(EnvConfig("faulty_tasks:Faulty-v0", kwargs={"fault": "reset", "at": 0}))
    with pytest.raises(TaskError, match="at reset the observation of environment 0 is nan"):
        env.reset(seed=0)


def test_an_action_that_is_not_finite_is_the_policys_fault():
    env = make_vec(EnvConfig("faulty_tasks:Faulty-v0", num_envs=2, kwargs={"fault": "action"}))
    env.reset(seed=0)
    with pytest.raises(TaskError, match=r"at step 1 the action of environment 1 is nan.*policy is no longer finite"):
        env.step(torch.tensor([[1.0], [torch.nan]]))


def test_steps_are_counted_on_after_a_resume():
    env, fresh = (make_vec(EnvConfig("faulty_tasks:Faulty-v0", kwargs={"fault": "reward", "at": 7})) for _ in "ab")
    play(env, 4)
    fresh.load_state_dict(env.state_dict())
    with pytest.raises(TaskError, match="at step 7 "):
        play(fresh, 4, reset=False)


class Broken(Pendulum):
    """The reward of environment 1 is NaN where `broken` is set."""

    broken = False

    def advance(self, state, action):
        successor, reward, terminated = super().advance(state, action)
        return successor, reward.where(torch.arange(len(reward)) != 1, torch.nan) if self.broken else reward, terminated


def test_a_tensor_task_is_guarded_too():
    env: TensorEnv = Broken(num_envs=3)
    play(env, 2)
    env.broken = True
    with pytest.raises(TaskError, match="Broken: at step 3 the reward of environment 1 is nan"):
        env.step(torch.zeros(3, 1))


def test_on_an_accelerator_the_sums_tell_and_what_was_finite_adds_up_to_nothing(monkeypatch):
    monkeypatch.setattr("surefoot.envs.finite.LOOK_EVERY", 10)
    guard = FiniteGuard("Far-v0")

    class Far(torch.Tensor):  # a CPU tensor that says it is somewhere else
        device = torch.device("cuda")

    def steps(*rewards):
        obs = torch.tensor([[3e38, -3e38], [1.0, 2.0]]).as_subclass(Far)
        for reward in rewards:
            guard.check_tensors(torch.zeros(2, 1), torch.tensor([1.0, reward]).as_subclass(Far), obs, obs)

    steps(*[3e38] * 20, 1.0, torch.inf, *[1.0] * 7)
    with pytest.raises(TaskError, match="at steps 21 to 30 the reward of environment 1 is nan"):
        steps(1.0)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 16, 17, 33, 64, 100])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_place_hides_a_number(size, value):
    for place in range(size):
        row = np.ones((1, size), np.float32)
        assert is_finite(row)
        row[0, place] = value
        assert not is_finite(row)


def test_large_numbers_are_finite_and_float32_is_the_limit():
    assert is_finite(np.full((2, 5), 3e38, np.float32))  # whose squares are not
    assert is_finite(np.array([2**62, -(2**62)]))
    assert as_float32(1e300) == np.inf
    assert as_float32(np.array([0.1]))[0] == np.float32(0.1)
