"""What can differ from a task on a real machine, as one uncertainty set: every parameter with a generic range.

The ranges are ours, wide enough to break a policy, and depend on the compiled model alone; docs/guides/disturbances.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

from surefoot.envs.config import EnvConfig
from surefoot.envs.make import make_single
from surefoot.envs.model_parameters import actuated_joints, linear_actuators, names_of
from surefoot.envs.parameters import Parameter, UncertaintySet
from surefoot.envs.quantities import ACTUATED
from surefoot.envs.signals import sensor_count, sensor_groups
from surefoot.envs.task_parameters import TaskParameters, has_model, is_time_aware, uncertain_of

SENSOR_RANGES = {"qpos": 0.1, "qvel": 1.0}  # noise and bias of positions (m, rad) and velocities; others as positions
PUSH_SPEED = 1.0  # m/s that the largest push gives to the whole robot


def disturbances(config: EnvConfig, *, per_part: bool = False) -> UncertaintySet:
    """Return all that can be disturbed in a task, with ranges around the nominal values; no nominal value is missing.

    `per_part` has gain and offset of every actuator besides those of all. Derived constants are computed anew and
    inertias follow masses, unlike in the published sets. Worlds of MuJoCo Warp all make the same physics steps: with
    that backend there is no `frame_skip`.

    Raises:
        ValueError: a task with nothing to disturb; as `make_single`.
    """
    env = make_single(replace(config, physics=replace(config.physics, parameters=())))
    try:
        found = tuple(one for one in _all(env, per_part) if one.name != "frame_skip" or config.backend == "mujoco")
        named = UncertaintySet("disturbances", config.id, found, recompute_constants=True, scale_inertia=True)
        nominal = TaskParameters(env, named, config.physics.fixed()).nominal[: len(found)]
    finally:
        env.close()
    around = zip(found, nominal.tolist(), strict=True)
    return replace(named, parameters=tuple(Parameter(p.name, min(p.low, o), max(p.high, o), o) for p, o in around))


def subset(uncertainty: UncertaintySet, *names: str) -> UncertaintySet:
    """Return the set of some of the parameters, in this order; `ValueError` lists those there are."""
    known = {parameter.name: parameter for parameter in uncertainty.parameters}
    for name in names:
        _require(name, known, uncertainty)
    return replace(uncertainty, name=", ".join(names), parameters=tuple(known[name] for name in names))


def point(uncertainty: UncertaintySet, nominal: np.ndarray, values: Mapping[str, float]) -> np.ndarray:
    """Return the nominal vector (d,) with some values changed; `ValueError` lists the parameters there are."""
    changed = np.array(nominal, np.float64)
    for name, value in values.items():
        _require(name, uncertainty.param_names, uncertainty)
        changed[uncertainty.param_names.index(name)] = value
    return changed


def _require(name: str, known: Any, uncertainty: UncertaintySet) -> None:
    if name not in known:
        raise ValueError(f"{uncertainty.name} has no parameter {name!r}; it has {', '.join(known)}")


def _all(env: gym.Env, per_part: bool) -> Iterator[Parameter]:
    task: Any = env.unwrapped
    if has_model(task):
        yield from _of_bodies(task.model)
        yield from _of_joints(task.model)
        yield from _of_actuators(task.model, per_part)
    elif (theirs := uncertain_of(task)) is not None:
        ranges = zip(theirs.param_names, theirs.low, theirs.high, strict=True)
        yield from (Parameter(name, float(low), float(high)) for name, low, high in ranges if low < high)
    yield Parameter("control_delay", 0.0, 5.0)
    yield from _of_sensors(env)
    yield Parameter("sensor_drop", 0.0, 0.9)
    if own := getattr(task, "frame_skip", None):
        yield Parameter("frame_skip", max(1.0, float(own // 2)), 2.0 * own)
    if has_model(task) and hasattr(task, "dt") and (body := root_body(task.model)):
        moving = float(task.model.body_subtreemass[body])
        name = mujoco.mj_id2name(task.model, mujoco.mjtObj.mjOBJ_BODY, body) or str(body)
        yield Parameter(f"push.{name}", 0.0, PUSH_SPEED * moving)


def root_body(model: mujoco.MjModel) -> int:
    """Return the first body that can move, with all that hangs on it the robot; 0: none can."""
    return int(np.argmax(model.body_dofnum > 0)) if model.nv else 0


def _of_bodies(model: mujoco.MjModel) -> Iterator[Parameter]:
    strength = float(np.linalg.norm(model.opt.gravity))
    if strength:
        yield Parameter("gravity", 0.5 * strength, 1.5 * strength)
        yield Parameter("gravity_pitch", -15.0, 15.0)
        if np.isin(model.jnt_type, (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_BALL)).any():
            yield Parameter("gravity_roll", -15.0, 15.0)  # planar robots cannot fall sideways
    yield Parameter("body_mass_scale.*", 0.5, 2.0)
    yield Parameter("body_inertia_scale.*", 0.5, 2.0)
    body = root_body(model)
    if body and not model.body_simple[body]:
        name = mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_BODY, body) or str(body)
        at, reach = float(model.body_ipos[body, 0]), 0.2 * _radius(model, body)
        yield Parameter(f"body_ipos_x.{name}", at - reach, at + reach)
    if model.ngeom:
        yield Parameter("geom_friction_scale.*", 0.3, 2.0)


def _radius(model: mujoco.MjModel, body: int) -> float:
    """Return the bounding radius in m of a body's largest geom; a tenth of the model's extent where it has none."""
    sizes = model.geom_rbound[model.geom_bodyid == body]
    return float(sizes.max()) if len(sizes) and sizes.max() > 0 else 0.1 * float(model.stat.extent)


def _of_joints(model: mujoco.MjModel) -> Iterator[Parameter]:
    """Factors where the actuated joints have such a thing, else absolute values in proportion to the actuators."""
    joints = actuated_joints(model)
    if not len(joints):
        return
    dofs = np.flatnonzero(np.isin(model.dof_jntid, joints))
    torque = _largest_force(model)
    for field, own, most in (
        ("jnt_stiffness", model.jnt_stiffness[joints], 0.5 * torque),
        ("dof_armature", model.dof_armature[dofs], float(np.median(model.dof_M0[dofs]))),
        ("dof_frictionloss", model.dof_frictionloss[dofs], 0.2 * torque),
        ("dof_damping", model.dof_damping[dofs], 0.05 * torque),
    ):
        if own.any():
            yield Parameter(f"{field}_scale.{ACTUATED}", 0.0, 3.0)
        elif most > 0:
            yield Parameter(f"{field}.{ACTUATED}", 0.0, most)


def _largest_force(model: mujoco.MjModel) -> float:
    """Return the median over actuators of |gear · gain · largest control| in N or N m; controls without a range: 1."""
    ranges = np.where(model.actuator_ctrllimited == 1, np.abs(model.actuator_ctrlrange).max(1), 1.0)
    return float(np.median(np.abs(model.actuator_gear[:, 0] * model.actuator_gainprm[:, 0]) * ranges))


def _of_actuators(model: mujoco.MjModel, per_part: bool) -> Iterator[Parameter]:
    if not (model.nu and linear_actuators(model).all()):
        return
    widest = np.where(model.actuator_ctrllimited == 1, np.abs(model.actuator_ctrlrange).max(1), 1.0)
    yield Parameter("actuator_gain.*", 0.5, 1.5)
    yield Parameter("actuator_offset.*", -0.2 * float(widest.min()), 0.2 * float(widest.min()))
    yield Parameter("dead_actuator", 0.0, float(model.nu))
    for name, most in zip(names_of(model, mujoco.mjtObj.mjOBJ_ACTUATOR), widest, strict=True) if per_part else ():
        yield Parameter(f"actuator_gain.{name}", 0.0, 1.5)
        yield Parameter(f"actuator_offset.{name}", -0.2 * float(most), 0.2 * float(most))


def _of_sensors(env: gym.Env) -> Iterator[Parameter]:
    count = sensor_count(env, is_time_aware(env))
    groups = [name for name in sensor_groups(env, count) if name[1:] in SENSOR_RANGES]
    for name in groups or (["*"] if count else []):
        most = SENSOR_RANGES.get(name[1:], 0.1)
        yield Parameter(f"sensor_noise.{name}", 0.0, most)
        yield Parameter(f"sensor_bias.{name}", -most, most)
