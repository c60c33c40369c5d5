"""Spaces of every kind: as one vector and one action where that is asked for, else one line that says what helps."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from gymnasium.utils.env_checker import check_env
from space_tasks import ACTIONS, NESTED, OBSERVATIONS

from surefoot.envs import EnvConfig, TensorEnv, make_own, make_single, make_vec, own_action_space, register, spaces_of
from surefoot.envs.make import space_notes
from surefoot.envs.spaces import describe


def task(observation="Vector", action="Force", **fields):
    return EnvConfig("space_tasks:Shows-v0", kwargs={"observation": observation, "action": action}, **fields)


def taken_by(env, action):
    """Return what reaches the task itself."""
    task, taken = env.unwrapped, []

    def step(action):
        taken.append(action)
        return task.observation_space.sample(), 1.0, False, False, {}

    env.reset(seed=0)
    task.step = step
    env.step(action)
    del task.step
    return taken[0]


@pytest.mark.parametrize(("observation", "width"), [("Image", 48), ("Scalar", 1), ("Nested", 19), ("Switches", 3)])
def test_observations_of_any_shape_become_one_vector_when_asked(observation, width):
    with pytest.raises(ValueError, match=f"add --env.flatten for one vector of {width} numbers$") as error:
        spaces_of(task(observation))
    assert "\n" not in str(error.value)
    env = make_single(task(observation, flatten=True))
    raw = gym.make("Shows-v0", observation=observation)
    obs, expected = env.reset(seed=3)[0], raw.reset(seed=3)[0]
    assert (obs.dtype, obs.shape) == (np.float32, (width,))
    np.testing.assert_array_equal(obs, gym.spaces.flatten(OBSERVATIONS[observation], expected).astype(np.float32))
    check_env(env, skip_render_check=True)


@pytest.mark.parametrize(("observation", "parts"), [("Cell", [(4, 1)]), ("Cells", [(3, 0), (2, 0)])])
def test_numbers_become_one_hot_when_asked(observation, parts):
    with pytest.raises(ValueError, match=f"for one one-hot vector of {sum(n for n, _ in parts)} numbers"):
        spaces_of(task(observation))
    env, raw = make_single(task(observation, flatten=True)), gym.make("Shows-v0", observation=observation)
    obs, numbers = env.reset(seed=0)[0], np.atleast_1d(raw.reset(seed=0)[0])
    expected = [np.eye(n)[number - start] for (n, start), number in zip(parts, numbers, strict=True)]
    np.testing.assert_array_equal(obs, np.concatenate(expected))


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("observation", ["Words", "Graph", "Many"])
def test_what_is_no_fixed_number_of_numbers_is_refused_with_the_wrapper_that_helps(observation, flatten):
    with pytest.raises(ValueError, match=r"agents see numbers; .*gymnasium.ObservationWrapper"):
        spaces_of(task(observation, flatten=flatten))


@pytest.mark.parametrize("action", ["Matrix", "Parts"])
def test_boxes_of_actions_become_one_vector_in_their_order(action):
    with pytest.raises(ValueError, match=r"add --env.flatten for one vector of \d numbers"):
        spaces_of(task(action=action))
    config = task(action=action, flatten=True)
    own, space = own_action_space(config), ACTIONS[action]
    assert own == gym.spaces.flatten_space(space)
    env, own_units = make_single(config), make_own(config)
    taken = [
        taken_by(env, np.linspace(-1, 1, *own.shape).astype(own.dtype)),
        taken_by(own_units, (own.low + own.high) / 2),
    ]
    flat = [gym.spaces.flatten(space, action) for action in taken]
    halves = (np.linspace(-1, 1, *own.shape) + 1) / 2
    np.testing.assert_allclose(flat[0], own.low + halves * (own.high - own.low), rtol=1e-6)
    np.testing.assert_allclose(flat[1], (own.low + own.high) / 2, rtol=1e-6)


@pytest.mark.parametrize(("action", "count", "last"), [("Numbers", 6, [2, 2]), ("Buttons", 4, [1, 1])])
def test_combinations_of_choices_are_numbered_when_asked(action, count, last):
    with pytest.raises(ValueError, match=f"add --env.flatten for one number for each of the {count} combinations"):
        spaces_of(task(action=action))
    env = make_single(task(action=action, flatten=True))
    assert env.action_space == own_action_space(task(action=action, flatten=True)) == gym.spaces.Discrete(count)
    taken = [taken_by(env, np.int64(number)) for number in range(count)]
    assert all(ACTIONS[action].contains(one) for one in taken)
    assert len({tuple(one) for one in taken}) == count
    assert taken[-1].tolist() == last
    assert taken[1].tolist() == [*taken[0].tolist()[:-1], taken[0].tolist()[-1] + 1]  # the last choice changes fastest


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("TooMany", r"2500 combinations, and --env.flatten numbers up to 1000; .*gymnasium.ActionWrapper with fewer"),
        ("Hybrid", r"Tuple\(Discrete\(2\), Box\(2,\)\); .*gymnasium.ActionWrapper that takes a Box or a Discrete"),
        ("Letters", r"gymnasium.ActionWrapper that takes a Box or a Discrete"),
    ],
)
def test_other_actions_are_refused_with_the_wrapper_that_helps(action, message):
    for flatten in (False, True):
        with pytest.raises(ValueError, match=message):
            spaces_of(task(action=action, flatten=flatten))


@pytest.mark.parametrize(
    ("action", "low", "high"), [("Unbounded", -3.0, 3.0), ("Positive", 0.0, 3.0), ("Huge", -3.0, 3.0)]
)
def test_actions_without_bounds_get_those_that_are_asked_for(action, low, high):
    with pytest.raises(ValueError, match=r"without finite bounds; add --env.action-bound B"):
        spaces_of(task(action=action))
    config = task(action=action, action_bound=3.0)
    own = own_action_space(config)
    assert (own.low == low).all()
    assert (own.high == high).all()
    env = make_single(config)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, own.shape, own.dtype)
    taken = [taken_by(env, np.full(own.shape, unit, np.float32)) for unit in (-1.0, 0.5, 1.0)]
    np.testing.assert_allclose(np.stack(taken)[:, 0], [low, low + 0.75 * (high - low), high], rtol=1e-6)


def test_a_bound_cuts_larger_ones_and_must_do_something():
    assert own_action_space(task(action_bound=0.5)) == gym.spaces.Box(-0.5, 0.5, (1,), np.float32)
    with pytest.raises(ValueError, match=r"smaller bounds than --env.action-bound 9; leave it out"):
        spaces_of(task(action_bound=9.0))
    with pytest.raises(ValueError, match=r"Discrete\(3, start=2\); leave --env.action-bound out"):
        spaces_of(task(action="Number", action_bound=9.0))
    for bad in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"--env.action-bound must be (positive and )?finite"):
            task(action_bound=bad)


def test_flattened_tasks_are_vectorised_and_resumed_like_others():
    config = task("Nested", "Numbers", flatten=True, num_envs=3)
    env, other = make_vec(config), make_vec(config)
    obs, _ = env.reset(seed=1)
    assert (tuple(obs.shape), obs.dtype) == ((3, 19), torch.float32)
    for number in range(6):
        env.step(torch.full((3,), number))
    other.load_state_dict(env.state_dict())
    for left, right in zip(env.step(torch.zeros(3).long())[:4], other.step(torch.zeros(3).long())[:4], strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


@pytest.mark.parametrize("observation", ["Bytes", "Cell"])
def test_the_step_is_appended_in_a_type_that_holds_it(observation):
    env = make_single(task(observation, flatten=True, time_aware=True, max_episode_steps=300))
    env.reset(seed=0)
    for step in range(1, 300):
        obs = env.step(np.zeros(1, np.float32))[0]
        assert obs[-1] == step
    assert env.observation_space.contains(obs)


def test_what_was_done_is_said_and_nothing_else():
    assert space_notes(task()) == []
    assert space_notes(task(flatten=True)) == [
        "--env.flatten changes nothing: space_tasks:Shows-v0 has vectors already"
    ]
    assert space_notes(task("Cells", "Buttons", flatten=True)) == [
        "observations MultiDiscrete([3, 2]) become Box(5,)",
        "actions MultiBinary(2) become Discrete(4)",
    ]
    assert space_notes(task(action="Unbounded", action_bound=2.0)) == ["actions are within ±2"]


def test_a_space_is_described_in_one_line():
    text = "Dict(arm: Box(2,), camera: Box(2, 2, 3), goal: Tuple(Discrete(3), MultiBinary(2)))"
    assert describe(NESTED) == text


def test_where_numbers_begin_is_said_where_it_is_not_at_zero():
    texts = [describe(space) for space in (ACTIONS["Number"], Discrete(3), ACTIONS["Numbers"], MultiDiscrete([3, 2]))]
    assert texts[:2] == ["Discrete(3, start=2)", "Discrete(3)"]
    assert texts[2:] == ["MultiDiscrete([3, 2], start=[0, 1])", "MultiDiscrete([3, 2])"]


class Grid(TensorEnv):
    """A batched task whose spaces are no vectors, which nothing can mend from outside."""

    def __init__(self, observation=OBSERVATIONS["Image"], action=ACTIONS["Force"], **shared):
        super().__init__(observation, action, **shared)

    def draw_state(self):
        return ()

    def advance(self, state, action):
        raise NotImplementedError

    def observe(self, state):
        raise NotImplementedError


@pytest.mark.parametrize("make", [make_vec, make_single])
@pytest.mark.parametrize(
    ("spaces", "fields", "message"),
    [
        ({}, {"flatten": True}, r"shows a one-dimensional Box, not Box\(4, 4, 3\)"),
        ({"observation": OBSERVATIONS["Vector"], "action": ACTIONS["Buttons"]}, {}, r"takes vectors or Discrete"),
        ({"observation": OBSERVATIONS["Vector"]}, {"action_bound": 1.0}, r"takes actions as they are"),
    ],
)
def test_a_batched_task_writes_its_own_vectors(make, spaces, fields, message, monkeypatch):
    monkeypatch.delitem(gym.registry, "surefoot/Grid-v0", raising=False)
    register("surefoot/Grid-v0", lambda **shared: Grid(**spaces, **shared), None)
    monkeypatch.setattr("surefoot.envs.make._native", lambda spec: spec.vector_entry_point)
    with pytest.raises(ValueError, match=message):
        make(EnvConfig("surefoot/Grid-v0", **fields))
    del gym.registry["surefoot/Grid-v0"]
