"""Every physical parameter against a model that was compiled, or edited by hand, with that number in it."""

import math

import mujoco
import numpy as np
import pytest

from surefoot.envs import BatchedEpisodes, EnvConfig, Parameter, Physics, UncertaintySet, WithParameters, make_single
from surefoot.envs.model_parameters import ModelParameters, tilted

# A cart on a rail with a pendulum and a knee; what is in braces is what a parameter changes.
ROBOT = {
    "gravity": "0 0 -9.81",
    "mass": "2",
    "inertia": "0.25 0.2 0.1",
    "ipos": "0.05 0 -0.4",
    "stiffness": "3",
    "damping": "0.5",
    "armature": "0.01",
    "frictionloss": "0",
    "knee": "0",
    "gear": "7",
    "friction": "0.8",
}
XML = """
<mujoco>
  <option gravity="{gravity}" timestep="0.01"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 1" pos="0 0 -1.2" friction="{friction} 0.1 0.1"/>
    <body name="cart">
      <joint name="rail" type="slide" axis="1 0 0" damping="1"/>
      <geom type="box" size="0.2 0.1 0.1" mass="3" contype="0" conaffinity="0"/>
      <body name="pole">
        <inertial pos="{ipos}" mass="{mass}" diaginertia="{inertia}"/>
        <joint name="hinge" axis="0 1 0" stiffness="{stiffness}" damping="{damping}" armature="{armature}"
               frictionloss="{frictionloss}"/>
        <geom name="rod" type="capsule" size="0.05" fromto="0 0 0 0 0 -0.8" friction="0.1"/>
        <geom name="bob" type="sphere" size="0.1" pos="0 0 -0.8" friction="0.1"/>
        <body name="shin" pos="0 0 -0.8">
          <joint name="knee" axis="0 1 0" damping="0.2" frictionloss="{knee}"/>
          <geom type="capsule" size="0.05" fromto="0 0 0 0.1 0 -0.5" friction="0.1"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="hinge" gear="{gear}" ctrllimited="true" ctrlrange="-1 1"/></actuator>
</mujoco>"""


def compiled(**changes):
    return mujoco.MjModel.from_xml_string(XML.format(**(ROBOT | changes)))


def written(values, **switches):
    model = compiled()
    parameters = ModelParameters(model, list(values), [None] * len(values), **{"recompute_constants": True} | switches)
    parameters.write(model, np.array([*values.values()]))
    return model


def path(model, steps=150):
    data = mujoco.MjData(model)
    seen = []
    for t in range(steps):
        data.ctrl[:] = 1.5 * math.sin(t / 7)  # at times beyond its range
        mujoco.mj_step(model, data)
        seen.append(np.concatenate([data.qpos, data.qvel]))
    return np.array(seen)


CHANGES = [
    ({"gravity": 4.0}, {"gravity": "0 0 -4"}),
    ({"gravity_pitch": 30.0}, {"gravity": f"{-9.81 / 2} 0 {-9.81 * math.sqrt(3) / 2}"}),
    ({"gravity": 5.0, "gravity_roll": 90.0}, {"gravity": "0 5 0"}),
    ({"body_mass.pole": 5.0}, {"mass": "5"}),
    ({"body_mass_scale.pole": 2.5}, {"mass": "5"}),
    ({"body_inertia_scale.pole": 3.0}, {"inertia": "0.75 0.6 0.3"}),
    ({"body_ipos_x.pole": 0.2, "body_ipos_z.pole": -0.5}, {"ipos": "0.2 0 -0.5"}),
    ({"jnt_stiffness.hinge": 30.0}, {"stiffness": "30"}),
    ({"jnt_stiffness_scale.@actuated": 10.0}, {"stiffness": "30"}),
    ({"dof_damping.hinge": 2.0}, {"damping": "2"}),
    ({"dof_armature.hinge": 0.5}, {"armature": "0.5"}),
    ({"dof_armature_scale.*": 50.0}, {"armature": "0.5"}),
    ({"dof_frictionloss.@actuated": 2.0}, {"frictionloss": "2"}),
    ({"dof_frictionloss.knee": 2.0}, {"knee": "2"}),
    ({"geom_friction.floor": 0.2}, {"friction": "0.2"}),
    ({"actuator_gear.0": 3.0}, {"gear": "3"}),
    ({"actuator_gain.0": 0.5}, {"gear": "3.5"}),
    ({"actuator_gain.hinge": 0.5}, {"gear": "3.5"}),
    ({"actuator_gain.*": 0.0}, {"gear": "0"}),
    ({"dead_actuator": 1.0}, {"gear": "0"}),
    ({"body_mass_scale.pole": 2.0, "body_inertia_scale.pole": 3.0}, {"mass": "4", "inertia": "0.75 0.6 0.3"}),
]


@pytest.mark.parametrize(("values", "text"), CHANGES, ids=[" ".join(values) for values, _ in CHANGES])
def test_a_parameter_is_the_number_in_the_model_file(values, text):
    ours, theirs, stock = path(written(values)), path(compiled(**text)), path(compiled())
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)
    assert np.abs(ours - stock).max() > 1e-3


def test_an_offset_adds_to_the_clipped_control_and_the_gain_multiplies_both():
    model = written({"actuator_offset.*": 0.25, "actuator_gain.0": 0.5})
    data = mujoco.MjData(model)
    data.ctrl[:] = 3.0
    mujoco.mj_forward(model, data)
    assert data.actuator_force[0] == 0.5 * (1.0 + 0.25)
    model = written({"actuator_offset.*": 0.25, "dead_actuator": 1.0})
    mujoco.mj_forward(model, data)
    assert data.actuator_force[0] == 0.0


def test_a_servo_keeps_its_law_with_gain_and_offset():
    """The force of a position servo is kp · (control − position) − kv · velocity."""
    xml = XML.format(**ROBOT).replace("<motor", '<position kp="20" kv="2"').replace(' gear="7"', "")
    model = mujoco.MjModel.from_xml_string(xml)
    parameters = ModelParameters(model, ["actuator_gain.*", "actuator_offset.*"], [None, None])
    parameters.write(model, np.array([0.5, 0.1]))
    data = mujoco.MjData(model)
    data.qpos[1], data.qvel[1], data.ctrl[0] = 0.3, 0.7, 0.4
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.actuator_force[0], 0.5 * (20 * (0.4 + 0.1 - 0.3) - 2 * 0.7), rtol=1e-12)


def test_inertia_follows_mass_before_its_own_factor():
    values = {"body_mass_scale.pole": 2.0, "body_inertia_scale.pole": 3.0}
    model = written(values, scale_inertia=True)
    np.testing.assert_allclose(model.body("pole").inertia, np.array([0.25, 0.2, 0.1]) * 6)


def test_nothing_is_left_of_the_values_before():
    model, names = compiled(), [name for values, _ in CHANGES for name in values]
    parameters = ModelParameters(model, names := list(dict.fromkeys(names)), [None] * len(names))
    for name, value in {name: value for values, _ in CHANGES for name, value in values.items()}.items():
        changed = parameters.neutral.copy()
        changed[names.index(name)] = value
        parameters.write(model, changed)
    parameters.write(model, parameters.neutral)
    stock = compiled()
    for name in dir(model):
        if isinstance(value := getattr(model, name), np.ndarray):
            np.testing.assert_array_equal(value, getattr(stock, name), err_msg=name)
    np.testing.assert_array_equal(model.opt.gravity, stock.opt.gravity)


def test_a_slope_rises_along_x_and_a_roll_falls_along_y():
    down = np.array([0.0, 0.0, -10.0])
    np.testing.assert_allclose(tilted(down, 30.0, 0.0), [-5, 0, -5 * math.sqrt(3)])
    np.testing.assert_allclose(tilted(down, 0.0, 30.0), [0, 5, -5 * math.sqrt(3)])
    np.testing.assert_allclose(np.linalg.norm(tilted(down, 20.0, 40.0)), 10.0)


# --- by hand in Gymnasium's own tasks ---------------------------------------------------------------------------------


def fixed(env_id, *parameters, **rest):
    return make_single(EnvConfig(env_id, Physics(parameters=parameters), **rest))


@pytest.mark.parametrize(
    ("parameters", "attribute", "edit"),
    [
        (("dead_actuator=2",), None, lambda action: action * [1, 0, 1, 1, 1, 1]),
        (("actuator_gain.bshin=0",), None, lambda action: action * [1, 0, 1, 1, 1, 1]),
        (("actuator_offset.ffoot=0.125",), None, lambda action: action + np.array([0, 0, 0, 0, 0, 0.125])),
        (("frame_skip=3",), ("frame_skip", 3), lambda action: action),
    ],
)
def test_half_cheetah_edited_by_hand(parameters, attribute, edit):
    ours, theirs = fixed("HalfCheetah-v5", *parameters), make_single(EnvConfig("HalfCheetah-v5"))
    if attribute:
        setattr(theirs.unwrapped, *attribute)
    np.testing.assert_array_equal(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
    for action in np.random.default_rng(0).uniform(-0.5, 0.5, (20, 6)).round(2):
        (seen, reward, *_), (expected, other, *_) = ours.step(action), theirs.step(edit(action))
        np.testing.assert_allclose(seen, expected, rtol=1e-6, atol=1e-7)
        assert (
            not attribute or reward == other
        )  # the others change the cost of the action, which is of the command here


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("body_mass.tail", "no 'tail' for body_mass; it has world, torso, bthigh"),
        ("jnt_stiffness.elbow", "no 'elbow' for jnt_stiffness; it has rootx"),
        ("actuator_gain.elbow", "no 'elbow' for actuator_gain; it has bthigh, bshin.*, of the joints bthigh"),
        ("body_inertia.torso", "body_inertia_scale"),
        ("body_ipos_x_scale.torso", "unknown parameter 'body_ipos_x_scale.torso'"),
        ("graviti", "unknown parameter 'graviti'.*gravity_pitch"),
        ("gravity.torso", "unknown parameter 'gravity.torso'"),
        ("sensor_noise.99", "no sensor '99'; it has .*@qpos, @qvel, 0 to 16"),
        ("sensor_bias.@imu", "no sensor '@imu'"),
        ("push.tail", "no 'tail' for push; it has world, torso"),
        ("control_delay.torso", "unknown parameter 'control_delay.torso'"),
    ],
)
def test_an_unknown_parameter_is_one_line_with_the_names_there_are(name, message):
    with pytest.raises(ValueError, match=message) as error:
        fixed("HalfCheetah-v5", f"{name}=1")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "low", "high", "message"),
    [
        ("body_mass.torso", -1.0, 2.0, "body_mass.torso cannot be -1 kg; it must be > 0"),
        ("body_mass_scale.*", 0.0, 2.0, "must be > 0"),
        ("geom_friction.floor", -0.1, 2.0, "must be >= 0"),
        ("control_delay", 0.0, 1e6, "cannot be 1e\\+06 steps; it must be between 0 and 1000"),
        ("sensor_drop", 0.0, 1.5, "between 0 and 1"),
        ("sensor_noise.*", -0.5, 0.5, "must be >= 0"),
        ("dead_actuator", 0.0, 7.0, "between 0 and 6"),
        ("frame_skip", 0.0, 5.0, "between 1 and 1000"),
        ("gravity_pitch", -200.0, 0.0, "between -180 and 180"),
        ("push_rate", 0.0, 2.0, "between 0 and 1"),
        ("onset", -5.0, 5.0, "onset cannot be -5 steps"),
    ],
)
def test_a_range_beyond_what_a_parameter_can_be_is_refused(name, low, high, message):
    own = UncertaintySet("own", "HalfCheetah-v5", (Parameter(name, low, high, nominal=high),))
    with pytest.raises(ValueError, match=message):
        WithParameters(make_single(EnvConfig("HalfCheetah-v5")), own)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_value_that_is_not_one_is_refused_at_the_reset(value):
    own = UncertaintySet("own", "Hopper-v5", (Parameter("body_mass.torso", 1.0, 2.0, nominal=1.5),))
    env = WithParameters(make_single(EnvConfig("Hopper-v5")), own)
    with pytest.raises(ValueError, match=r"finite|must be > 0"):
        env.reset(options={"params": [value]})


@pytest.mark.parametrize("env_id", ["Hopper-v5", "CartPole-v1"])
def test_bad_values_of_a_batch_are_refused_before_any_episode(env_id):
    one = UncertaintySet("one", env_id, (Parameter("sensor_noise.*", 0.0, 1.0),))
    for rows, message in (([[0.1], [-1.0]], "cannot be -1"), ([[math.nan]], "finite"), ([[1.0, 2.0]], "rows of 1")):
        with pytest.raises(ValueError, match=message):
            BatchedEpisodes(EnvConfig(env_id), one, np.array(rows), range(len(rows)))


@pytest.mark.parametrize("entry", ["control_delay", "=2", "control_delay=two", "control_delay=nan", "gravity=inf"])
def test_fixed_parameters_are_name_and_number(entry):
    with pytest.raises(ValueError, match="must be NAME=VALUE"):
        Physics(parameters=(entry,))
    with pytest.raises(ValueError, match="each name once"):
        Physics(parameters=("gravity=2", "gravity=3"))


def test_a_body_that_muJoCo_compiled_as_simple_keeps_its_centre():
    with pytest.raises(ValueError, match="body_ipos of 'object' cannot change"):
        fixed("Pusher-v5", "body_ipos_x.object=0.1")
