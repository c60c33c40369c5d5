"""Fixed parameters beside those of a set: first, by the rule that holds without a set, whatever the set switches on."""

import mujoco
import numpy as np
import pytest

from surefoot.envs import EnvConfig, Parameter, Physics, UncertaintySet, make_single, play
from surefoot.envs.fixed_parameters import FixedFirst
from surefoot.envs.model_parameters import ModelParameters
from surefoot.envs.task_parameters import TaskParameters
from surefoot.evaluation.episodes import evaluate

SWITCHES = [(inertia, constants) for inertia in (False, True) for constants in (False, True)]
ARRAYS = [name for name in dir(mujoco.MjModel) if name.startswith(("body_", "dof_", "geom_", "actuator_", "jnt_"))]


def of_hopper(fixed, *own, scale_inertia=False, recompute_constants=False, at=None):
    """The model of Hopper with fixed parameters and those of a set, `own`, at the values `at`, else nominal."""
    switches = {"scale_inertia": scale_inertia, "recompute_constants": recompute_constants}
    one = UncertaintySet("own", "Hopper-v5", tuple(own), **switches) if own else None
    config = EnvConfig("Hopper-v5", Physics(parameters=tuple(fixed)))
    env = make_single(config, uncertainty=one)
    env.reset(seed=0, options=None if at is None else {"params": np.array(at)})
    return env.unwrapped.model


def assert_same_model(one, other):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    np.testing.assert_array_equal(one.opt.gravity, other.opt.gravity)
    assert one.stat.meaninertia == other.stat.meaninertia


FIXED = {
    "absolute": ["body_mass.torso=8"],
    "factor": ["body_mass_scale.*=3", "body_inertia_scale.*=2"],
    "constants": ["dof_armature.leg_joint=2"],
    "gravity": ["gravity=5", "gravity_pitch=10"],
    "actuators": ["actuator_gain.*=0.5", "actuator_offset.*=0.1", "dead_actuator=2"],
    "centre": ["body_ipos_x.thigh=0.05"],
}
OWN = {
    "friction": Parameter("geom_friction.floor", 0.1, 3.0),
    "force": Parameter("force_x.torso", -3.0, 3.0),
    "mass": Parameter("body_mass.thigh", 0.1, 40.0),
    "sensor": Parameter("sensor_bias.0", 0.0, 1.0),
    "tilt": Parameter("gravity_pitch", -15.0, 15.0),
}


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("fixed", FIXED)
def test_at_the_nominal_values_of_any_set_the_model_is_that_without_it(fixed, switches):
    inertia, constants = switches
    plain = of_hopper(FIXED[fixed])
    for name, own in OWN.items():
        if fixed != "gravity" or name != "tilt":
            with_set = of_hopper(FIXED[fixed], own, scale_inertia=inertia, recompute_constants=constants)
            assert_same_model(with_set, plain)


def test_the_switches_of_a_set_are_for_its_own_parameters():
    plain, thigh = of_hopper(["body_mass.torso=8"]), Parameter("body_mass.thigh", 0.1, 40.0)
    only = of_hopper(["body_mass.torso=8"], thigh, at=[20.0])
    plain.body_mass[2] = 20.0
    assert_same_model(only, plain)  # nothing follows
    both = of_hopper(["body_mass.torso=8"], thigh, scale_inertia=True, recompute_constants=True, at=[20.0])
    own = of_hopper([]).body_mass[2]
    np.testing.assert_allclose(both.body_inertia[2], plain.body_inertia[2] * 20.0 / own)
    np.testing.assert_array_equal(both.body_inertia[1], plain.body_inertia[1])  # the fixed mass has its own inertia
    assert both.body_subtreemass[0] == pytest.approx(plain.body_mass.sum())


def test_the_order_is_the_fixed_ones_and_then_the_sets_and_nothing_is_left_of_a_write():
    model = make_single(EnvConfig("Hopper-v5")).unwrapped.model
    names, values = ["body_mass.torso", "gravity_pitch"], [8.0, 4.0]
    both = FixedFirst(model, [*names, "body_mass_scale.*"], [None, None, 2.0], 2)
    twice = of_hopper(["body_mass_scale.*=2"])
    assert both.nominal.tolist() == [twice.body_mass[1], 0.0, 2.0]
    assert both.neutral.tolist() == [model.body_mass[1], 0.0, 1.0]
    both.write(model, np.array([*values, 2.0]))
    ModelParameters(twice, names, [None, None]).write(twice, np.array(values))
    assert_same_model(model, twice)
    for there, expected in ((both.nominal, ["body_mass_scale.*=2"]), (both.neutral, [])):
        both.write(model, there)
        assert_same_model(model, of_hopper(expected))


def test_before_a_fixed_onset_the_task_is_the_unmodified_one_also_where_a_set_reads_its_nominal_values():
    one = UncertaintySet("own", "Hopper-v5", (Parameter("body_mass.torso", 1.0, 20.0),))
    fixed = {"body_mass_scale.*": 2.0, "onset": 3.0}
    found = TaskParameters(make_single(EnvConfig("Hopper-v5")), one, fixed)
    own = make_single(EnvConfig("Hopper-v5")).unwrapped.model.body_mass[1]
    assert found.nominal.tolist() == [2 * own, 2.0, 3.0]
    assert found.untimed.tolist() == [own, 1.0, 0.0]


@pytest.mark.parametrize("fast", [True, False])
def test_an_evaluation_with_a_set_at_its_nominal_values_is_that_without(fast):
    parameters = ("body_mass.torso=8", "force_x.torso=2")
    config = EnvConfig("Hopper-v5", Physics(parameters=parameters), max_episode_steps=40, time_aware=not fast)

    def rest(obs):
        return obs.new_zeros(len(obs), 3)

    one = UncertaintySet("own", "Hopper-v5", (Parameter("geom_friction.floor", 0.1, 3.0),), scale_inertia=True)
    played = play(rest, config, one, [[1.0], [1.0]], [3, 4])
    np.testing.assert_allclose(played.returns, evaluate(rest, config, episodes=2, seed=3).returns, rtol=1e-6)


def test_a_fixed_parameter_that_a_set_varies_is_its_nominal_value_and_follows_its_rule():
    own = Parameter("body_mass.torso", 1.0, 20.0)
    model = of_hopper(["body_mass.torso=8"], own)
    unmodified = of_hopper([])
    unmodified.body_mass[1] = 8.0
    assert_same_model(model, unmodified)
