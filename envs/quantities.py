"""What a parameter's name means: which number of a task it is, its unit, and what values it may have.

A parameter is called `FIELD.OBJECT`, such as `body_mass.torso`; `FIELD_scale.OBJECT` is a factor on what the task has.
What concerns the whole task has no object: `gravity`, `control_delay`. docs/guides/disturbances.md is the full list.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import mujoco

SCALE = "_scale"
EVERYTHING, ACTUATED = "*", "@actuated"  # all objects; the joints that an actuator drives
LONGEST_DELAY = 1000  # steps
WHOLE_EPISODE = 100_000  # steps; no episode is longer

_OBJECTS = mujoco.mjtObj


class Quantity(NamedTuple):
    """The unit and the values that a parameter may have, whatever the range of a set."""

    unit: str
    least: float = -math.inf
    most: float = math.inf
    above: bool = False  # more than `least`, not equal to it
    whole: bool = False  # a whole number: other values count as the nearest one

    def allowed(self) -> str:
        """Return the values in words: `> 0`, `between 0 and 1`."""
        if math.isfinite(self.most):
            return f"between {self.least:g} and {self.most:g}"
        return f"{'>' if self.above else '>='} {self.least:g}"

    def admits(self, value: float) -> bool:
        return (self.least < value if self.above else self.least <= value) and value <= self.most


class Field(NamedTuple):
    """Numbers of the compiled model (or of its data), one for each object of a kind."""

    array: str
    kind: Any
    column: tuple[Any, ...]  # which number of a row
    quantity: Quantity
    scaled: bool = True  # has a form `_scale`
    absolute: bool = True  # has a form without it


_POSITIVE, _FACTOR = Quantity("kg", 0.0, above=True), Quantity("×", 0.0)
POSITIVE_FACTOR = Quantity("×", 0.0, above=True)
_BODY, _JOINT, _ACTUATOR = _OBJECTS.mjOBJ_BODY, _OBJECTS.mjOBJ_JOINT, _OBJECTS.mjOBJ_ACTUATOR

_OF_AXES = tuple(enumerate("xyz"))

FIELDS: dict[str, Field] = {
    "body_mass": Field("body_mass", _BODY, (), _POSITIVE),
    "geom_friction": Field("geom_friction", _OBJECTS.mjOBJ_GEOM, (0,), Quantity("", 0.0)),  # sliding
    "dof_damping": Field("dof_damping", _JOINT, (), Quantity("N s/m or N m s/rad", 0.0)),
    "actuator_gear": Field("actuator_gear", _ACTUATOR, (0,), Quantity("")),
    **{f"force_{axis}": Field("xfrc_applied", _BODY, (k,), Quantity("N"), scaled=False) for k, axis in _OF_AXES},
    "body_inertia": Field("body_inertia", _BODY, (), _POSITIVE, absolute=False),
    **{f"body_ipos_{axis}": Field("body_ipos", _BODY, (k,), Quantity("m"), scaled=False) for k, axis in _OF_AXES},
    "jnt_stiffness": Field("jnt_stiffness", _JOINT, (), Quantity("N/m or N m/rad", 0.0)),
    "dof_armature": Field("dof_armature", _JOINT, (), Quantity("kg or kg m²", 0.0)),
    "dof_frictionloss": Field("dof_frictionloss", _JOINT, (), Quantity("N or N m", 0.0)),
}

# Of actuators: force = gain · (task's own gain · (control + offset) + task's own bias).
ACTUATOR_FIELDS = {"actuator_gain": _FACTOR, "actuator_offset": Quantity("control units")}
ANGLE = Quantity("°", -180.0, 180.0)
WHOLE_MODEL = {
    "gravity": Quantity("m/s²", 0.0),
    "gravity_pitch": ANGLE,  # uphill along x
    "gravity_roll": ANGLE,  # downhill along y
    "dead_actuator": Quantity("number, 0: none", 0.0, math.inf, whole=True),
}
# What lies between policy and task, and when parameters change: of every task, MuJoCo's or not.
SENSOR_FIELDS = {
    "sensor_noise": Quantity("units of the observation", 0.0),
    "sensor_bias": Quantity("units of the observation"),
}
SIGNALS = {
    "control_delay": Quantity("steps", 0.0, LONGEST_DELAY, whole=True),
    "sensor_drop": Quantity("probability", 0.0, 1.0),
    "frame_skip": Quantity("physics steps", 1.0, 1000.0, whole=True),
    "push_rate": Quantity("probability per step", 0.0, 1.0),
    "onset": Quantity("steps", 0.0, WHOLE_EPISODE, whole=True),
    "duration": Quantity("steps", 0.0, WHOLE_EPISODE, whole=True),
    "walk": Quantity("of the range, per √step", 0.0),
}
PUSH = Quantity("N s", 0.0)


def split(name: str) -> tuple[str, bool, str]:
    """Return field, whether it is a factor, and object of a parameter's name."""
    field, _, thing = name.partition(".")
    scaled = field.endswith(SCALE) and field.removesuffix(SCALE) in FIELDS
    return field.removesuffix(SCALE) if scaled else field, scaled, thing


def is_signal(name: str) -> bool:
    """Whether a parameter is of what lies between policy and task, or of the time, so that every task has it."""
    field, _, thing = name.partition(".")
    return name in SIGNALS or (bool(thing) and (field in SENSOR_FIELDS or field == "push"))


def quantity_of(name: str) -> Quantity | None:
    """Return what a parameter is of a MuJoCo task or between policy and task; None: a task's own name."""
    field, scaled, thing = split(name)
    if field in FIELDS and thing:
        return (POSITIVE_FACTOR if FIELDS[field].quantity.above else _FACTOR) if scaled else FIELDS[field].quantity
    whole_task = WHOLE_MODEL | SIGNALS
    if not thing:
        return whole_task.get(name)
    return (ACTUATOR_FIELDS | SENSOR_FIELDS | {"push": PUSH}).get(field)
