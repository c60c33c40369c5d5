"""What the numbers of a task's observations and actions are called, and their units, as far as the task says."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import mujoco

from surefoot.envs.config import EnvConfig
from surefoot.envs.make import make_single
from surefoot.envs.task_parameters import has_model


class Signals(NamedTuple):
    """Names and units, one each per number; a unit is empty where the task does not say."""

    names: list[str]
    units: list[str]


def observation_signals(config: EnvConfig) -> Signals:
    """Return what an observation shows: joints of MuJoCo's v5 tasks by name, other numbers by their place."""
    env: Any = make_single(config)
    env.close()
    width = int((env.observation_space.shape or (1,))[0])
    found = _joints(env.unwrapped) if has_model(env.unwrapped) else []
    found = found[:width]
    rest = [(f"observation {i}", "") for i in range(len(found), width)]
    if config.time_aware:
        rest[-1] = ("steps since the reset", "steps")
    return _columns([*found, *rest])


def action_signals(config: EnvConfig) -> Signals:
    """Return what an action moves: actuators by name, other numbers by their place."""
    env: Any = make_single(config)
    env.close()
    if not isinstance(env.action_space, gym.spaces.Box):
        return Signals(["action"], ["number"])
    width = int(env.action_space.shape[0])
    if not has_model(env.unwrapped):
        return _columns([(f"action {i}", "") for i in range(width)])
    model = env.unwrapped.model
    return _columns([(_actuator(model, i), "control") for i in range(model.nu)])


def _actuator(model: mujoco.MjModel, number: int) -> str:
    """Return an actuator's name; that of the joint it drives where it has none of its own."""
    own = mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_ACTUATOR, number)
    driven = mujoco.mjtTrn(int(model.actuator_trntype[number])) == mujoco.mjtTrn.mjTRN_JOINT
    joint = int(model.actuator_trnid[number, 0])
    return str(own or (_name(model, mujoco.mjtObj.mjOBJ_JOINT, joint) if driven else number))


def _columns(pairs: list[tuple[str, str]]) -> Signals:
    return Signals([name for name, _ in pairs], [unit for _, unit in pairs])


def _joints(task: Any) -> list[tuple[str, str]]:
    """Return the positions and velocities that a v5 task of Gymnasium shows, in its order; none for other tasks."""
    structure = getattr(task, "observation_structure", None)
    if not isinstance(structure, dict) or not {"qpos", "qvel"} <= set(structure):
        return []
    positions = _numbers(task.model, position=True)
    shown = positions[len(positions) - int(structure["qpos"]) :]
    return [*shown, *_numbers(task.model, position=False)[: int(structure["qvel"])]]


def _numbers(model: mujoco.MjModel, *, position: bool) -> list[tuple[str, str]]:
    """Return name and unit of every entry of qpos or qvel."""
    kinds = mujoco.mjtJoint
    linear, angular = ("m", "rad") if position else ("m/s", "rad/s")
    found: list[tuple[str, str]] = []
    for joint in range(model.njnt):
        name, kind = _name(model, mujoco.mjtObj.mjOBJ_JOINT, joint), kinds(int(model.jnt_type[joint]))
        what = "position of" if position else "velocity of"
        if kind == kinds.mjJNT_FREE:
            found += [(f"{what} {name} {axis}", linear) for axis in "xyz"]
        if kind in (kinds.mjJNT_FREE, kinds.mjJNT_BALL):
            turning = [(f"quaternion of {name} {axis}", "") for axis in "wxyz"]
            found += turning if position else [(f"angular velocity of {name} {axis}", angular) for axis in "xyz"]
        if kind in (kinds.mjJNT_SLIDE, kinds.mjJNT_HINGE):
            found.append((f"{what} {name}", linear if kind == kinds.mjJNT_SLIDE else angular))
    return found


def _name(model: mujoco.MjModel, kind: Any, number: int) -> str:
    return str(mujoco.mj_id2name(model, kind, number) or number)
