"""Names and units of observations and actions are those of the compiled model."""

from surefoot.envs import EnvConfig
from surefoot.envs.names import action_signals, observation_signals


def test_a_planar_robot_shows_its_joints_without_its_place():
    names, units = observation_signals(EnvConfig("Hopper-v5"))
    joints = ["thigh_joint", "leg_joint", "foot_joint"]
    assert names[:5] == [f"position of {joint}" for joint in ("rootz", "rooty", *joints)]
    assert names[5:] == [f"velocity of {joint}" for joint in ("rootx", "rootz", "rooty", *joints)]
    assert units == ["m", "rad", "rad", "rad", "rad", "m/s", "m/s", "rad/s", "rad/s", "rad/s", "rad/s"]
    assert action_signals(EnvConfig("Hopper-v5")) == (joints, ["control"] * 3)


def test_a_free_body_has_a_quaternion_and_further_sensors_go_by_their_place():
    names, units = observation_signals(EnvConfig("Ant-v5"))
    assert names[:3] == ["position of root z", "quaternion of root w", "quaternion of root x"]
    assert names[13:20] == [
        *(f"velocity of root {axis}" for axis in "xyz"),
        *(f"angular velocity of root {axis}" for axis in "xyz"),
        "velocity of hip_1",
    ]
    assert len(names) == len(units) == 105
    assert names[-1] == "observation 104"


def test_other_tasks_have_numbers_and_the_step():
    names, units = observation_signals(EnvConfig("CartPole-v1", time_aware=True))
    assert names == [*(f"observation {i}" for i in range(4)), "steps since the reset"]
    assert units[-1] == "steps"
    assert action_signals(EnvConfig("CartPole-v1")) == (["action"], ["number"])
