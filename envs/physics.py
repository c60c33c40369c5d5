"""Dynamics gaps: multipliers on a compiled MuJoCo model, and noise between the policy and the actuators.

Those of H2O's study, and what MuJoCo makes of them: docs/derivations/h2o.md §8.1, §8.2.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.classic_control.pendulum import PendulumEnv

LARGEST = 1e6  # of a factor: what lies beyond overflows in the first steps


@dataclass(frozen=True)
class Physics:
    """How a simulator differs from the unmodified task, which all defaults together give bit for bit.

    Raises:
        ValueError: a number out of its range, named.
    """

    gravity: float = 1.0
    """Factor on all components of gravity; a negative one reverses it."""
    friction: float = 1.0
    """Factor (>= 0) on all three friction coefficients of every geom of the compiled model, the floor included."""
    mass: float = 1.0
    """Factor (> 0) on mass and inertia of every body."""
    damping: float = 1.0
    """Factor (>= 0) on the damping of every degree of freedom."""
    action_noise: float = 0.0
    """Standard deviation (>= 0) of the Gaussian noise on every executed action, in normalised action units."""

    parameters: tuple[str, ...] = ()
    """Anything that an uncertainty set can hold, fixed: `NAME=VALUE`, such as `control_delay=2`, `body_mass.torso=5`
    (docs/guides/disturbances.md)."""

    def __post_init__(self) -> None:
        self.fixed()
        for name, value in self._factors().items():
            if not abs(value) <= LARGEST:
                raise ValueError(f"physics.{name} must be finite and within ±{LARGEST:g}, got {value}")
            if name != "gravity" and (value < 0 or (name == "mass" and value == 0)):
                raise ValueError(f"physics.{name} must be {'> 0' if name == 'mass' else '>= 0'}, got {value}")

    def changes(self) -> dict[str, float]:
        """The fields that differ from the unmodified task."""
        return {name: value for name, value in self._factors().items() if value != getattr(UNMODIFIED, name)}

    def fixed(self) -> dict[str, float]:
        """Return `parameters` by name."""
        values: dict[str, float] = {}
        for entry in self.parameters:
            name, equals, text = entry.partition("=")
            if not (name and equals) or name in values:
                raise ValueError(f"physics.parameters: {entry!r} must be NAME=VALUE, each name once")
            values[name] = _number(entry, text)
        return values

    def _factors(self) -> dict[str, float]:
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "parameters"}


def _number(entry: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"physics.parameters: {entry!r} must be NAME=VALUE with a finite number")
    return value


UNMODIFIED = Physics()


def check_supported(physics: Physics, supported: Collection[str], task: str) -> None:
    """Raise ValueError where `physics` changes something that `task` has no way to change."""
    if extra := sorted(set(physics.changes()) - set(supported)):
        raise ValueError(f"{task} cannot change physics.{extra[0]}; it supports {', '.join(supported) or 'none'}")


def apply_physics(model: mujoco.MjModel, physics: Physics) -> None:
    """Edit a compiled model in place (no file is touched: H2O's code overwrites the installed XML).

    Factors of 1 are skipped, so that neutral physics leaves every bit of the model alone.
    """
    if physics.gravity != 1.0:
        model.opt.gravity[:] *= physics.gravity
    if physics.friction != 1.0:
        model.geom_friction[:] *= physics.friction
    if physics.damping != 1.0:
        model.dof_damping[:] *= physics.damping
    if physics.mass != 1.0:
        model.body_mass[:] *= physics.mass
        model.body_inertia[:] *= physics.mass
        # Sub-tree masses and inverse weights follow from the masses; contacts and the solver read them. The mean
        # inertia, which scales the solver's tolerance, is not among what mj_setConst renews.
        mujoco.mj_setConst(model, mujoco.MjData(model))
        model.stat.meaninertia = model.dof_M0.mean()


def with_physics(env: gym.Env, physics: Physics) -> gym.Env:
    """`env` with its dynamics changed; action noise is a wrapper of its own (`ActionNoise`).

    Raises:
        ValueError: the task has no such quantity.
    """
    task = env.unwrapped
    factors = dataclasses.replace(physics, action_noise=0.0)
    model: Any = getattr(task, "model", None)
    if isinstance(model, mujoco.MjModel):
        apply_physics(model, factors)
    elif isinstance(task, PendulumEnv):
        check_supported(factors, ["gravity", "action_noise"], "Pendulum")
        task.g *= factors.gravity
    else:
        check_supported(factors, ["action_noise"], f"{task.spec.id if task.spec else task}: not a MuJoCo task, it")
    return env


class ActionNoise(gym.ActionWrapper, gym.utils.RecordConstructorArgs):
    """Executes action + ε, ε ~ N(0, std² I), drawn every step from the task's own generator and not clipped.

    The caller keeps the clean action (eq. (8.1)). MuJoCo's actuators clip the torque, but the control cost is computed
    from the noisy action (eq. (8.2)), so the reward changes too.
    """

    def __init__(self, env: gym.Env, std: float):
        if not isinstance(env.action_space, gym.spaces.Box):
            raise ValueError(f"{env}: physics.action_noise needs Box actions, these are {env.action_space}")
        gym.utils.RecordConstructorArgs.__init__(self, std=std)
        super().__init__(env)
        self.std = std

    def action(self, action: np.ndarray) -> np.ndarray:
        noise = self.std * self.np_random.standard_normal(action.shape)
        return (action + noise).astype(action.dtype)
