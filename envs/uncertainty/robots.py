"""Gymnasium's six robots, many environments at once, each with its own compiled model, bit for bit as stepped singly.

The physics is MuJoCo's own step in threads, which releases Python's lock; rewards, observations and ends are those of
the v5 tasks in NumPy, all environments at once, in the same order of operations. Resets are Gymnasium's own code.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium as gym
import mujoco
import numpy as np

from surefoot.envs.config import EnvConfig
from surefoot.envs.divergence import DIVERGED
from surefoot.envs.make import episode_limit, make_single
from surefoot.envs.parameters import UncertaintySet
from surefoot.envs.signals import Signals, put_back
from surefoot.envs.task_parameters import TaskParameters


class Moved(NamedTuple):
    """One step of some environments, one row each."""

    obs: np.ndarray  # (n, obs) float32
    reward: np.ndarray  # (n,) float64
    terminated: np.ndarray  # (n,) bool
    truncated: np.ndarray  # (n,) bool
    broken: np.ndarray  # (n,) bool: the physics diverged in this step


# --- what the six tasks make of MuJoCo's state ----------------------------------------------------------------------

Fields = dict[str, np.ndarray]  # arrays of MjData by name, one row per environment
Outcome = tuple[
    np.ndarray, np.ndarray, np.ndarray
]  # observation (n, obs), reward (n,), terminated (n,), all environments at once


class Robot(NamedTuple):
    """How one of Gymnasium's tasks reads MuJoCo's state: `outcome(task, before, after, action)`."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    outcome: Callable[[Any, Fields, Fields, np.ndarray], Outcome]


def half_cheetah(task: Any, before: Fields, after: Fields, action: np.ndarray) -> Outcome:
    forward, cost = _forward_and_cost(task, before["dt"], before["qpos"], after["qpos"], action)
    obs = np.concatenate([_positions(task, after["qpos"], 1), after["qvel"]], 1)
    return obs, forward - cost, np.zeros(len(obs), bool)


def hopper(task: Any, before: Fields, after: Fields, action: np.ndarray) -> Outcome:
    low, high = task._healthy_state_range
    state = np.concatenate([after["qpos"], after["qvel"]], 1)[:, 2:]
    steady = ((low < state) & (state < high)).all(1)
    return _upright(task, before, after, action, steady)


def walker2d(task: Any, before: Fields, after: Fields, action: np.ndarray) -> Outcome:
    return _upright(task, before, after, action, np.ones(len(action), bool))


def _upright(task: Any, before: Fields, after: Fields, action: np.ndarray, steady: np.ndarray) -> Outcome:
    """Hopper and Walker2d: healthy between two heights and two angles; velocities are shown clipped."""
    (low_z, high_z), (low_angle, high_angle) = task._healthy_z_range, task._healthy_angle_range
    z, angle = after["qpos"][:, 1], after["qpos"][:, 2]
    healthy = steady & (low_z < z) & (z < high_z) & (low_angle < angle) & (angle < high_angle)
    forward, cost = _forward_and_cost(task, before["dt"], before["qpos"], after["qpos"], action)
    obs = np.concatenate([_positions(task, after["qpos"], 1), np.clip(after["qvel"], -10, 10)], 1)
    return obs, forward + healthy * task._healthy_reward - cost, ~healthy & task._terminate_when_unhealthy


def inverted_pendulum(task: Any, before: Fields, after: Fields, action: np.ndarray) -> Outcome:
    obs = np.concatenate([after["qpos"], after["qvel"]], 1)
    fallen = ~np.isfinite(obs).all(1) | (np.abs(obs[:, 1]) > 0.2)
    return obs, 1.0 - fallen, fallen


def ant(task: Any, before: Fields, after: Fields, action: np.ndarray) -> Outcome:
    torso = task.model.body(task._main_body).id
    forward, cost = _forward_and_cost(task, before["dt"], before["xpos"][:, torso], after["xpos"][:, torso], action)
    low, high = task._healthy_z_range
    state = np.concatenate([after["qpos"], after["qvel"]], 1)
    healthy = np.isfinite(state).all(1) & (low <= state[:, 2]) & (state[:, 2] <= high)
    contacts = np.clip(after["cfrc_ext"], *task._contact_force_range)
    contact_cost = task._contact_cost_weight * np.square(contacts).reshape(len(action), -1).sum(1)
    seen = [contacts[:, 1:].reshape(len(action), -1)] if task._include_cfrc_ext_in_observation else []
    obs = np.concatenate([_positions(task, after["qpos"], 2), after["qvel"], *seen], 1)
    reward = forward + healthy * task._healthy_reward - (cost + contact_cost)
    return obs, reward, ~healthy & task._terminate_when_unhealthy


def humanoid_standup(task: Any, before: Fields, after: Fields, action: np.ndarray) -> Outcome:
    n = len(action)
    up = after["qpos"][:, 2] / task.model.opt.timestep
    effort = task._ctrl_cost_weight * np.square(after["ctrl"]).sum(1)
    impact = task._impact_cost_weight * np.square(after["cfrc_ext"]).reshape(n, -1).sum(1)
    parts = {
        "cinert": after["cinert"][:, 1:],
        "cvel": after["cvel"][:, 1:],
        "qfrc_actuator": after["qfrc_actuator"][:, 6:],
        "cfrc_ext": after["cfrc_ext"][:, 1:],
    }
    seen = [part.reshape(n, -1) for name, part in parts.items() if getattr(task, f"_include_{name}_in_observation")]
    obs = np.concatenate([_positions(task, after["qpos"], 2), after["qvel"], *seen], 1)
    return obs, up - effort - np.clip(impact, *task._impact_cost_range) + 1, np.zeros(n, bool)


def _positions(task: Any, qpos: np.ndarray, hidden: int) -> np.ndarray:
    return qpos[:, hidden:] if task._exclude_current_positions_from_observation else qpos


def _forward_and_cost(
    task: Any, dt: np.ndarray, before: np.ndarray, after: np.ndarray, action: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the reward of moving along x and the cost of the action, in the order of operations of Gymnasium."""
    velocity = (after[:, 0] - before[:, 0]) / dt
    return task._forward_reward_weight * velocity, task._ctrl_cost_weight * np.square(action).sum(1)


_STANDUP = ("qpos", "qvel", "ctrl", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")
ROBOTS: dict[str, Robot] = {
    "Ant-v5": Robot(("xpos",), ("qpos", "qvel", "xpos", "cfrc_ext"), ant),
    "HalfCheetah-v5": Robot(("qpos",), ("qpos", "qvel"), half_cheetah),
    "Hopper-v5": Robot(("qpos",), ("qpos", "qvel"), hopper),
    "HumanoidStandup-v5": Robot((), _STANDUP, humanoid_standup),
    "InvertedPendulum-v5": Robot((), ("qpos", "qvel"), inverted_pendulum),
    "Walker2d-v5": Robot(("qpos",), ("qpos", "qvel"), walker2d),
}


# --- the environments -------------------------------------------------------------------------------------------------


class MujocoRobots:
    """A model and its data for each, all copies of one unmodified environment, which also does the resets."""

    def __init__(self, config: EnvConfig, uncertainty: UncertaintySet, num_envs: int, threads: int | None = None):
        env: Any = make_single(replace(config, physics=replace(config.physics, parameters=())))
        self.spaces = (env.observation_space, env.action_space)
        self.limit = episode_limit(config) or np.iinfo(np.int64).max
        self.task: Any = env.unwrapped
        self.robot = ROBOTS[config.id]
        self._scale = _action_scale(env)
        self.parameters = TaskParameters(env, uncertainty, config.physics.fixed())
        layout = self.parameters.layout
        self._signals = [Signals(layout) for _ in range(num_envs)] if layout else []
        self._disturbed = np.zeros(num_envs, bool)  # whose episode has a signal that does something
        self._own_frame_skip, self._timestep = self.task.frame_skip, self.task.model.opt.timestep
        self._frame_skip = np.full(num_envs, self._own_frame_skip)  # physics steps of a control step
        self.models = [copy(self.task.model) for _ in range(num_envs)]
        self.data = [mujoco.MjData(model) for model in self.models]
        names = {*self.robot.before, *self.robot.after, "ctrl"}
        self._views = {name: [getattr(data, name) for data in self.data] for name in names}  # what MuJoCo writes into
        self._warnings = [data.warning.number for data in self.data]
        self._elapsed_steps = np.zeros(num_envs, np.int64)
        self.threads = threads or _cores()
        self._pool = ThreadPoolExecutor(self.threads)

    def begin(self, indices: np.ndarray, values: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
        jobs = zip(indices.tolist(), values, seeds, strict=True)
        return np.stack([self._begin(i, row, seed) for i, row, seed in jobs])

    def _begin(self, i: int, values: np.ndarray, seed: int) -> np.ndarray:
        full = self.parameters.full(values)
        if self._signals:
            self._signals[i].seed(seed)
            self._signals[i].begin(full, self.parameters.untimed)
            self._disturbed[i], full = self._signals[i].active, self._signals[i].in_force
            self._frame_skip[i] = self._signals[i].frame_skip(self._own_frame_skip)
        self.task.model, self.task.data = self.models[i], self.data[i]
        self.parameters.write(self.task, full)
        obs, _ = self.task.reset(seed=seed)
        self.parameters.push(self.task.data, full)
        self._elapsed_steps[i] = 0
        start: np.ndarray = (self._signals[i].sense(obs) if self._signals else obs).astype(np.float32)
        return start

    def advance(self, indices: np.ndarray, actions: np.ndarray) -> Moved:
        disturbed = np.flatnonzero(self._disturbed[indices])
        if len(disturbed):
            actions = self._commands(disturbed, indices, actions)
        actions = self._scale(actions)
        before = self._read(self.robot.before, indices) | {"dt": self._frame_skip[indices] * self._timestep}
        self._simulate(indices, actions)
        after = self._read(self.robot.after, indices)
        obs, reward, terminated = self.robot.outcome(self.task, before, after, actions)
        self._elapsed_steps[indices] += 1
        broken = np.array([self._warnings[i] for i in indices])[:, DIVERGED].any(1)
        broken |= ~(np.isfinite(obs).all(1) & np.isfinite(reward))
        for k in disturbed:
            if not broken[k]:
                obs[k] = self._signals[indices[k]].sense(obs[k])
        return Moved(obs.astype(np.float32), reward, terminated, self._elapsed_steps[indices] >= self.limit, broken)

    def _commands(self, disturbed: np.ndarray, indices: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Let the parameters of this step come into force; return the actions (n, act) to execute."""
        actions = actions.copy()
        for k in disturbed:
            i, signals = indices[k], self._signals[indices[k]]
            if signals.advance():
                self.task.model, self.task.data = self.models[i], self.data[i]
                self.parameters.write(self.task, signals.in_force)
                self.parameters.push(self.data[i], signals.in_force)
                self._frame_skip[i] = signals.frame_skip(self._own_frame_skip)
            actions[k] = signals.command(actions[k])
        return actions

    def _read(self, names: tuple[str, ...], indices: np.ndarray) -> Fields:
        return {name: np.array([self._views[name][i] for i in indices]) for name in names}

    def _simulate(self, indices: np.ndarray, actions: np.ndarray) -> None:
        parts = [slice(k, None, self.threads) for k in range(self.threads)]
        if self.threads == 1:
            self._simulate_some(indices, actions)
        else:
            list(self._pool.map(lambda part: self._simulate_some(indices[part], actions[part]), parts))

    def _simulate_some(self, indices: np.ndarray, actions: np.ndarray) -> None:
        forces = "cfrc_ext" in self.robot.after  # what mj_rnePostConstraint is for; nothing else depends on it
        for i, action in zip(indices.tolist(), actions, strict=True):
            model, data = self.models[i], self.data[i]
            self._views["ctrl"][i][:] = action
            skip = int(self._frame_skip[i])
            pushed = self._signals[i].push(data, model.opt.timestep * skip) if self._disturbed[i] else []
            mujoco.mj_step(model, data, nstep=skip)
            put_back(data, pushed)
            if forces:
                mujoco.mj_rnePostConstraint(model, data)

    def close(self) -> None:
        self._pool.shutdown()


def _action_scale(env: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map from actions in [-1, 1] to the task's bounds of the one wrapper that scales, if there is one."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.RescaleAction):
            return env.func
        env = env.env
    return lambda actions: actions


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
