"""Uncertainty sets against docs/derivations/iwocs.md §7.6 to §7.9: which numbers change, when, and nothing else."""

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch

from surefoot.envs import (
    SETS,
    EnvConfig,
    Parameter,
    Pendulum,
    Uncertain,
    UncertaintySet,
    WithParameters,
    find_set,
    make_single,
    set_from_mapping,
)
from surefoot.envs.uncertainty import probe

MUJOCO_SETS = sorted(name for name, one in SETS.items() if not one.env.startswith("surefoot/"))


def parameterised(name: str) -> WithParameters:
    return WithParameters(make_single(EnvConfig(SETS[name].env)), SETS[name])


def actions_for(env, steps, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)


def trajectory(env, values, steps=40, seed=3):
    obs, _ = env.reset(seed=seed, options=None if values is None else {"params": values})
    seen = [obs]
    for action in actions_for(env, steps):
        seen.append(env.step(action)[0])
    return np.stack(seen)


def arrays(model):
    found = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    return {name: value.copy() for name, value in found.items() if isinstance(value, np.ndarray)}


# --- the table of §7.6, and E11 ---------------------------------------------------------------------------------------

NOMINAL_NOW = {
    "ant-3": [0.3272, 0.0392, 0.0392],
    "ant-3-m2td3": [0.3272, 0.0392, 0.0676],
    "halfcheetah-3": [0.4, 6.2502, 1.5435],
    "hopper-3": [1.0, 3.6652, 4.0579],
    "humanoidstandup-2": [8.9075, 1.7671],
    "humanoidstandup-3": [8.9075, 4.7518, 1.7671],
    "inverted-pendulum-2": [5.0186, 10.4720],
    "walker-3": [0.7, 3.6652, 4.0579],
}


@pytest.mark.parametrize(("name", "expected"), NOMINAL_NOW.items())
def test_nominal_values_are_those_of_the_models_of_today(name, expected):
    np.testing.assert_allclose(parameterised(name).nominal, expected, atol=5e-5)


def test_every_published_set_is_there():
    one_to_three = {"ant", "halfcheetah", "hopper", "humanoidstandup", "walker"}
    names = {f"{robot}-{d}" for robot in one_to_three for d in (1, 2, 3)} | {
        "inverted-pendulum-1",
        "inverted-pendulum-2",
    }
    names |= {f"{robot}-force" for robot in one_to_three | {"inverted-pendulum"}}
    assert names <= set(SETS)
    highs = {"ant-3": [3, 3, 3], "halfcheetah-1": [3], "halfcheetah-2": [4, 7], "hopper-3": [3, 3, 4]}
    highs |= {"humanoidstandup-3": [16, 5, 8], "humanoidstandup-3-m2td3": [16, 5, 8], "walker-3": [4, 5, 6]}
    for name, high in highs.items():
        np.testing.assert_array_equal(SETS[name].high, high, err_msg=name)
    np.testing.assert_array_equal(SETS["ant-3"].low, [0.1, 0.01, 0.01])
    assert SETS["humanoidstandup-3"].param_names != SETS["humanoidstandup-3-m2td3"].param_names


RANGES = {  # §7.6, §7.8: (low, high) of each parameter; a set of fewer is the beginning of that of most
    "ant-3": [(0.1, 3), (0.01, 3), (0.01, 3)],
    "ant-3-m2td3": [(0.1, 3), (0.01, 3), (0.01, 3)],
    "halfcheetah-1": [(0.1, 3)],
    "halfcheetah-1-m2td3": [(0.1, 4)],
    "halfcheetah-3": [(0.1, 4), (0.1, 7), (0.1, 3)],
    "hopper-3": [(0.1, 3), (0.1, 3), (0.1, 4)],
    "humanoidstandup-2": [(0.1, 16), (0.1, 8)],
    "humanoidstandup-3": [(0.1, 16), (0.1, 5), (0.1, 8)],
    "humanoidstandup-3-m2td3": [(0.1, 16), (0.1, 5), (0.1, 8)],
    "inverted-pendulum-2": [(1, 31), (1, 11)],
    "walker-3": [(0.1, 4), (0.1, 5), (0.1, 6)],
    "pendulum-2": [(0.5, 1.5), (0.7, 1.3)],
}
PARTS = {"ant-2": "ant-3", "halfcheetah-2": "halfcheetah-3", "hopper-2": "hopper-3", "walker-2": "walker-3"}
PARTS |= {"ant-1": "ant-2", "hopper-1": "hopper-2", "walker-1": "walker-2"}
PARTS |= {"humanoidstandup-1": "humanoidstandup-2", "inverted-pendulum-1": "inverted-pendulum-2"}


def test_both_ends_of_every_range_are_the_published_ones():
    assert {*RANGES, *PARTS} == {name for name in SETS if not name.endswith("-force")}
    for name, ranges in RANGES.items():
        assert list(zip(SETS[name].low, SETS[name].high, strict=True)) == ranges, name
    for name, longer in PARTS.items():
        assert SETS[name].parameters == SETS[longer].parameters[: int(name[-1])], name
    for name in SETS.keys() - {*RANGES, *PARTS}:  # Newton
        assert {(one.low, one.high) for one in SETS[name].parameters} == {(-3.0, 3.0)}, name


BODIES = {  # §7.7: indices that RRLS writes to
    "ant-3": [1, 2, 5],
    "halfcheetah-3": [None, 1, 2],
    "hopper-3": [0, 1, 2],
    "humanoidstandup-3": [1, 7, 6],
    "inverted-pendulum-2": [2, 1],
    "walker-3": [0, 1, 2],
}


@pytest.mark.parametrize(("name", "rows"), BODIES.items())
def test_a_parameter_changes_one_field_of_the_model_and_the_next_observation(name, rows):
    env = parameterised(name)
    env.reset(seed=0)
    unmodified, path = arrays(env.unwrapped.model), trajectory(env, env.nominal)
    for i, row in enumerate(rows):
        values = env.nominal.copy()
        values[i] = SETS[name].high[i]
        moved = trajectory(env, values)
        now = arrays(env.unwrapped.model)
        changed = {field for field in unmodified if not np.array_equal(unmodified[field], now[field])}
        field = SETS[name].param_names[i].split(".")[0]
        assert changed == {field}
        where = np.argwhere(unmodified[field] != now[field])
        if row is None:  # HalfCheetah: the sliding friction of all geoms
            assert {tuple(index) for index in where} == {(geom, 0) for geom in range(len(unmodified[field]))}
        else:
            assert where[:, 0].tolist() == [row]
            assert field == "body_mass" or where[:, 1].tolist() == [0]
        differs = not np.array_equal(moved, path)
        assert differs or name in ("hopper-3", "walker-3"), (name, i)  # their floors: see below


def test_the_half_open_grid_has_ten_values_and_the_published_corners():
    for one in SETS.values():
        for axis, low, high in zip(one.axes() if len(one.parameters) < 6 else [], one.low, one.high, strict=False):
            assert len(axis) == 10
            assert axis[0] == low
            assert axis[-1] < high
    corner = {name: SETS[name].grid(10)[-1] for name in ("humanoidstandup-2", "walker-1", "hopper-1", "ant-1")}
    np.testing.assert_allclose(corner["humanoidstandup-2"], [14.41, 7.21])
    np.testing.assert_allclose(SETS["humanoidstandup-3"].axes()[1][-1], 4.51)
    np.testing.assert_allclose(corner["walker-1"], [3.61])
    np.testing.assert_allclose(corner["hopper-1"], [2.71])
    np.testing.assert_allclose(SETS["inverted-pendulum-2"].grid()[-1], [28.0, 10.0])
    np.testing.assert_allclose(SETS["inverted-pendulum-2"].grid(closed=True)[-1], [31.0, 11.0])
    assert SETS["halfcheetah-3"].grid().shape == (1000, 3)
    np.testing.assert_allclose(SETS["halfcheetah-2"].grid(2), [[0.1, 0.1], [0.1, 3.55], [2.05, 0.1], [2.05, 3.55]])


# --- when they are written --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ant-3", "halfcheetah-3", "hopper-3", "humanoidstandup-3", "walker-3", "ant-force"])
def test_nominal_is_the_unmodified_task_bit_for_bit(name):
    unmodified = make_single(EnvConfig(SETS[name].env))
    np.testing.assert_array_equal(trajectory(parameterised(name), None), trajectory(unmodified, None))


@pytest.mark.parametrize("name", ["halfcheetah-3", "ant-force"])
def test_nothing_leaks_into_the_next_episode(name):
    used, fresh = parameterised(name), parameterised(name)
    trajectory(used, used.high)
    np.testing.assert_array_equal(trajectory(used, None), trajectory(fresh, None))
    trajectory(used, used.high)
    np.testing.assert_array_equal(trajectory(used, used.low), trajectory(fresh, fresh.low))
    used.set_params(used.high)
    assert not np.array_equal(trajectory(used, None), trajectory(fresh, None))


def test_forces_push_their_body_only():
    env = parameterised("hopper-force")
    values = np.array([2.0, -1.0])
    env.reset(seed=0, options={"params": values})
    expected = np.zeros((5, 6))
    expected[4, :2] = values
    np.testing.assert_array_equal(env.unwrapped.data.xfrc_applied, expected)
    assert np.abs(trajectory(env, values) - trajectory(env, None)).max() > 1e-4


def test_mass_is_all_that_changes_unless_asked_otherwise():
    plain = SETS["walker-2"]
    more = UncertaintySet("more", plain.env, plain.parameters, recompute_constants=True, scale_inertia=True)
    env, nominal = WithParameters(make_single(EnvConfig(plain.env)), more), np.array([0.7, 3.6651914])
    env.reset(seed=0)
    before = arrays(env.unwrapped.model)
    env.reset(options={"params": nominal * [1.0, 2.0]})
    model = env.unwrapped.model
    np.testing.assert_allclose(model.body_inertia[1], 2 * before["body_inertia"][1], rtol=1e-6)
    np.testing.assert_allclose(model.body_subtreemass[1], model.body_mass.sum(), rtol=1e-12)
    assert model.body_invweight0[1, 0] < before["body_invweight0"][1, 0]
    env.reset()
    for name, value in before.items():
        np.testing.assert_allclose(getattr(model, name), value, rtol=1e-12, err_msg=name)


# --- friction that does nothing (§7.9, E12) ---------------------------------------------------------------------------


def standing_still(env, friction, steps=60):
    obs, _ = env.reset(seed=0, options={"params": [friction]})
    path = [obs]
    for action in 0.3 * actions_for(env, steps):
        obs, _, fallen, *_ = env.step(action)
        path.append(obs)
        if fallen:
            break
    return np.stack(path)


def test_hoppers_floor_friction_does_nothing_below_that_of_the_foot():
    env = parameterised("hopper-1")
    np.testing.assert_array_equal(trajectory(env, [0.1], 200), trajectory(env, [0.9], 200))
    np.testing.assert_array_equal(standing_still(env, 0.1), standing_still(env, 1.9))
    assert not np.array_equal(standing_still(env, 0.1), standing_still(env, 2.13))


# --- own sets ---------------------------------------------------------------------------------------------------------


def test_a_set_from_yaml_on_any_mujoco_task():
    content = {
        "env": "Reacher-v5",
        "parameters": {
            "body_mass.body0": {"low": 0.01, "high": 0.1},
            "dof_damping.joint1": {"low": 0.1, "high": 3, "nominal": 1.0},
            "actuator_gear.*": {"low": "1e2", "high": 300},  # PyYAML reads 1e2 as a string
        },
    }
    own = set_from_mapping(content, "own.yaml")
    env = WithParameters(make_single(EnvConfig("Reacher-v5")), own)
    np.testing.assert_allclose(env.nominal[1:], [1.0, 200.0])
    env.reset(seed=0, options={"params": own.high})
    model = env.unwrapped.model
    joint = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, "joint1")
    assert model.dof_damping[model.jnt_dofadr[joint]] == 3
    np.testing.assert_array_equal(model.actuator_gear[:, 0], 300)


class Spring(gym.Env):
    """A task of one's own with two parameters; the observation shows them."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    param_names = ("stiffness", "rest")
    low, high, nominal = np.array([1.0, -1.0]), np.array([9.0, 1.0]), np.array([4.0, 0.25])

    def set_params(self, values):
        self.values = np.asarray(values, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.values.copy(), {}

    def step(self, action):
        return self.values.copy(), float(-self.values @ self.values), False, False, {}


gym.register("Spring-v0", Spring, max_episode_steps=5)


def test_a_task_of_ones_own_by_the_protocol():
    assert isinstance(Spring(), Uncertain)
    own = UncertaintySet("springs", "Spring-v0", (Parameter("rest", -1.0, 1.0),))
    env = WithParameters(make_single(EnvConfig("Spring-v0")), own)
    np.testing.assert_array_equal(env.nominal, [0.25])
    np.testing.assert_array_equal(env.reset(options={"params": [0.5]})[0], [4.0, 0.5])  # the other one nominal
    np.testing.assert_array_equal(env.reset()[0], [4.0, 0.25])


def test_the_tensor_pendulum_has_a_mass_and_a_length_per_environment():
    env, unmodified = Pendulum(3, dtype=torch.float64), Pendulum(3, dtype=torch.float64)
    assert isinstance(env, Uncertain)
    env.set_params(torch.tensor([[1.0, 1.0], [0.5, 1.0], [1.0, 1.3]]))
    env.reset(seed=0), unmodified.reset(seed=0)
    angle, speed = env._state
    torque = torch.full((3, 1), 0.5, dtype=torch.float64)
    env.step(torque), unmodified.step(torque)
    g, u = 10.0, 1.0
    mass, length = torch.tensor([1.0, 0.5, 1.0]), torch.tensor([1.0, 1.0, 1.3], dtype=torch.float32).double()
    expected = speed + 0.05 * (3 * g / (2 * length) * torch.sin(angle) + 3 / (mass * length**2) * u)
    torch.testing.assert_close(env._state[1], expected)
    assert env._state[1][0] == unmodified._state[1][0]
    assert (env._state[1][1:] != unmodified._state[1][1:]).all()


# --- bad input --------------------------------------------------------------------------------------------------------

BAD = [
    ({"low": 2, "high": 1}, r"\[2.0, 1.0\].*low < high"),
    ({"low": 1, "high": float("nan")}, "finite"),
    ({"low": 1, "high": 2, "nominal": 3}, r"nominal body_mass.torso, 3.0, lies outside of \[1.0, 2.0\]"),
    ({"low": 1}, "needs low and high"),
    ({"low": 1, "high": "much"}, "are numbers"),
    ({"low": 1, "high": 2, "step": 1}, "needs low and high"),
]


@pytest.mark.parametrize(("entry", "message"), BAD)
def test_a_bad_entry_is_one_clear_line(entry, message):
    with pytest.raises(ValueError, match=message) as error:
        set_from_mapping({"env": "Hopper-v5", "parameters": {"body_mass.torso": entry}}, "own.yaml")
    assert "own.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"env": "Hopper-v5", "parameters": {}}, "at least one"),
        ({"env": "Hopper-v5"}, "expected `env: ID`"),
        ({"env": "Hopper-v5", "parameters": {}, "grid": 3}, "unknown key 'grid'"),
        ({"env": "Hopper-v5", "parameters": {"a.b": {"low": 0, "high": 1}}, "scale_inertia": 1}, "true or false"),
    ],
)
def test_a_bad_file_is_one_clear_line(content, message):
    with pytest.raises(ValueError, match=message):
        set_from_mapping(content, "own.yaml")


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("body_mass.tail", "no 'tail' for body_mass.*torso, thigh, leg, foot"),
        ("colour.torso", "unknown parameter 'colour.torso'.*body_mass, geom_friction"),
        ("body_mass.9", "no '9'"),
        ("body_mass.*", "give it a nominal"),
    ],
)
def test_a_parameter_that_the_task_does_not_have(parameter, message):
    own = UncertaintySet("own", "Hopper-v5", (Parameter(parameter, 0.1, 1.0),))
    with pytest.raises(ValueError, match=message):
        WithParameters(make_single(EnvConfig("Hopper-v5")), own)


def test_a_set_for_another_task():
    with pytest.raises(ValueError, match="hopper-1 is for Hopper-v5, not for Walker2d-v5"):
        WithParameters(make_single(EnvConfig("Walker2d-v5")), SETS["hopper-1"])
    WithParameters(make_single(EnvConfig("Hopper-v4")), SETS["hopper-1"])  # another version of the same
    own = UncertaintySet("own", "Spring-v0", (Parameter("mass", 0.1, 1.0),))
    with pytest.raises(ValueError, match="unknown parameter 'mass'; Spring-v0 has stiffness, rest"):
        WithParameters(make_single(EnvConfig("Spring-v0")), own)
    bare = UncertaintySet("bare", "CliffWalking-v1", (Parameter("mass", 0.1, 1.0),))
    with pytest.raises(ValueError, match="no parameters to set"):
        WithParameters(make_single(EnvConfig("CliffWalking-v1", flatten=True)), bare)


def test_unknown_sets_and_impossible_grids_name_the_way_out():
    with pytest.raises(ValueError, match=r"unknown uncertainty set 'hoper-1'; give a YAML file or one of .*hopper-1"):
        find_set("hoper-1")
    with pytest.raises(ValueError, match="at least 2"):
        SETS["hopper-1"].grid(1)
    with pytest.raises(ValueError, match=r"1000000 points.*smaller --n"):
        SETS["ant-force"].grid(10)
    with pytest.raises(ValueError, match="2 finite numbers"):
        parameterised("hopper-2").reset(options={"params": [1.0]})


def test_published_names_are_unique_and_find_their_task():
    for name in MUJOCO_SETS:
        assert find_set(name).name == name
        assert gym.spec(find_set(name).env).id.endswith("-v5")


def test_neighbouring_values_that_move_alike_make_a_range(monkeypatch):
    one = UncertaintySet("two", "InvertedPendulum-v5", (Parameter("pole", 0.0, 6.0), Parameter("cart", 0.0, 6.0)))
    path = lambda row, actions, seed: np.array([row[0] // 3])  # noqa: E731 - poles of 0, 1, 2 | 3, 4, 5 | 6 move alike
    monkeypatch.setattr(probe, "_open", lambda *task: (np.zeros(2), gym.spaces.Discrete(2), path))
    axes = one.axes(7, closed=True)
    found = probe.indistinct(EnvConfig("InvertedPendulum-v5"), one, axes)
    assert found == {"pole": [(0.0, 2.0), (3.0, 5.0)], "cart": [(0.0, 6.0)]}
    assert probe.inert(one, axes, found) == ["cart"]


@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_tensor_task_is_tried_at_its_start_and_step_by_step(num_envs):
    task, own = EnvConfig("surefoot/Pendulum-v0", num_envs=num_envs), SETS["pendulum-2"]
    nominal, _, path = probe._open(task, own)
    assert nominal.tolist() == [1.0, 1.0]
    push = np.array([0.5], np.float32)
    seen = path(np.array([0.5, 1.3]), [push, push], 3)
    env = Pendulum(num_envs)
    env.set_params(torch.tensor([[0.5, 1.3]] * num_envs, dtype=torch.float64))
    expected = [env.reset(seed=3)[0], *(env.step(torch.full((num_envs, 1), 0.5))[0] for _ in range(2))]
    np.testing.assert_array_equal(seen[..., :-2], torch.stack(expected).numpy())
    assert probe.indistinct(task, own, own.axes(3), steps=5) == {}


class Priced(gym.Env):
    """Shows nothing of its parameters: a price in the reward, a step at which it ends, and one that nothing reads."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Box(-1, 1, (1,))
    param_names, low, high, nominal = ("price", "last", "idle"), np.zeros(3), np.full(3, 9.0), np.array([1.0, 9.0, 0.0])

    def __init__(self):
        self.set_params(self.nominal)

    def set_params(self, values):
        self.price, self.last, _ = values

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        ended = self.steps == 5  # in any case, so that the number of steps tells nothing
        return np.zeros(1, np.float32), -self.price, ended and self.last < 5, ended, {}


def test_a_parameter_of_the_reward_or_of_the_end_alone_has_an_effect():
    gym.register("Priced-v0", Priced)
    own = UncertaintySet("own", "Priced-v0", tuple(Parameter(name, 0.0, 9.0) for name in Priced.param_names))
    found = probe.indistinct(EnvConfig("Priced-v0"), own, own.axes(4, closed=True))
    assert found == {"last": [(0.0, 3.0), (6.0, 9.0)], "idle": [(0.0, 9.0)]}
    assert probe.without_effect(EnvConfig("Priced-v0"), own) == ["idle"]


@pytest.mark.parametrize("of", ["reward", "end"])
def test_so_has_one_of_a_tensor_task(of, monkeypatch):
    step = Pendulum.step

    def priced(self, action):
        obs, reward, terminated, *others = step(self, action)
        at = slice(1, None)  # one environment is as another, but any may tell
        reward[at] += self.mass[at] if of == "reward" else 0
        return obs * 0, reward * (of == "reward"), terminated | ((self.mass > 1) & (of == "end")), *others

    monkeypatch.setattr(Pendulum, "step", priced)
    own = UncertaintySet("own", "surefoot/Pendulum-v0", (Parameter("mass", 0.5, 1.5),))
    assert probe.without_effect(EnvConfig("surefoot/Pendulum-v0", num_envs=2), own) == []


@pytest.mark.parametrize("rate", [True, False])
def test_a_push_that_did_not_come_within_the_probe_is_not_called_without_effect(rate):
    parameters = [Parameter("push.cart", 0.0, 5.0), Parameter("push_rate", 0.0, 0.1)][: 1 + rate]
    own = UncertaintySet("own", "InvertedPendulum-v5", tuple(parameters))
    assert probe.indistinct(EnvConfig("InvertedPendulum-v5"), own, own.axes(3), steps=5) == {}
    found = probe.indistinct(EnvConfig("InvertedPendulum-v5"), own, [np.zeros(3), *own.axes(3)[1:]], steps=5)
    assert list(found) == ["push.cart"] * rate
