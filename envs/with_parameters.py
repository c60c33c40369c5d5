"""A task with the parameters of an uncertainty set, as an environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from surefoot.envs.action_repeat import repeats_of
from surefoot.envs.divergence import has_diverged, quiet_mujoco
from surefoot.envs.parameters import UncertaintySet
from surefoot.envs.resumable import generator_state, set_generator_state
from surefoot.envs.signals import Signals, put_back
from surefoot.envs.task_parameters import TaskParameters, has_model


class WithParameters(gym.Wrapper):
    """A task with the parameters of a set, and with others that are `fixed`; it is `Uncertain` itself.

    They are written at every reset: `options={"params": values}` for this episode, else the last values of
    `set_params`, else the nominal ones. At the nominal ones the task is the unmodified one, bit for bit. An episode
    whose physics diverges ends as `terminated` with the last good observation, no reward and `info["broken"]`.

    Raises:
        ValueError: the set is for another task, or names parameters or values that this one does not have.
    """

    def __init__(self, env: gym.Env, uncertainty: UncertaintySet | None, fixed: Mapping[str, float] | None = None):
        super().__init__(env)
        self.parameters = TaskParameters(env, uncertainty, fixed)
        count = self.parameters.count
        self.param_names = self.parameters.names[:count]
        self.low, self.high = self.parameters.low[:count], self.parameters.high[:count]
        self.nominal = self.parameters.nominal[:count]
        self._signals = Signals(self.parameters.layout) if self.parameters.layout else None
        self._task: Any = env.unwrapped
        self._mujoco = has_model(self._task)
        self._repeats = repeats_of(env)
        self._own_frame_skip = getattr(self._task, "frame_skip", None)
        self._values = self._params = self.nominal.copy()

    def set_params(self, values: Any) -> None:
        """Let the episodes to come have these parameters (d,)."""
        self._values = self._checked(values)

    # Two properties besides `set_params`: `set_attr` of a vector environment sends every sub-environment a value of its
    # own.

    @property
    def next_params(self) -> np.ndarray:
        """The parameters (d,) of the episodes to come."""
        return self._values

    @next_params.setter
    def next_params(self, values: Any) -> None:
        self.set_params(values)

    @property
    def params(self) -> np.ndarray:
        """The parameters (d,) that the episode was given; they can be changed in the middle of it."""
        return self._params

    @params.setter
    def params(self, values: Any) -> None:
        self._params = self._checked(values)
        full = self.parameters.full(self._params)
        if self._signals is not None:
            self._signals.change(full)
            full = self._signals.in_force
        self._write(full)
        self._push(full)

    @property
    def disturbance_state(self) -> dict[str, Any] | None:
        """State of the generator of noise, lost observations, pushes and walks; None: the set has none."""
        return None if self._signals is None else generator_state(self._signals.generator)

    @disturbance_state.setter
    def disturbance_state(self, state: dict[str, Any] | None) -> None:
        if self._signals is not None and state is not None:
            set_generator_state(self._signals.generator, state)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        rest = dict(options or {})
        self._params = self._checked(rest.pop("params", self._values))
        full = self.parameters.full(self._params)
        if self._signals is not None:
            if seed is not None:
                self._signals.seed(seed)
            self._signals.begin(full, self.parameters.untimed)
            full = self._signals.in_force
        self._write(full)
        obs, info = self.env.reset(seed=seed, options=rest or None)
        self._push(full)
        self._obs = obs if self._signals is None else self._signals.sense(obs)
        return self._obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        signals, pushed = self._signals, []
        if signals is not None:
            if signals.advance():
                self._write(signals.in_force)
                self._push(signals.in_force)
            action = signals.command(action)
            if signals.layout.pushes:
                pushed = signals.push(self._task.data, self._task.dt * self._repeats)
        with quiet_mujoco():
            obs, reward, terminated, truncated, info = self.env.step(action)
        if pushed:
            put_back(self._task.data, pushed)
        if has_diverged(self._task.data if self._mujoco else None, obs, reward):
            return self._obs, 0.0, True, truncated, {**info, "broken": True}
        self._obs = obs if self._signals is None else self._signals.sense(obs)
        return self._obs, reward, terminated, truncated, {**info, "broken": False}

    def _write(self, full: np.ndarray) -> None:
        self.parameters.write(self._task, full)
        if self._signals is not None and self._own_frame_skip is not None:
            self._task.frame_skip = self._signals.frame_skip(self._own_frame_skip)

    def _push(self, full: np.ndarray) -> None:
        if self.parameters.model is not None:
            self.parameters.push(self._task.data, full)

    def _checked(self, values: Any) -> np.ndarray:
        return self.parameters.full(values)[: len(self.nominal)]
