"""Physics that diverged: MuJoCo counts a bad state, warns on stderr, and silently restarts from the initial state."""

from __future__ import annotations

import math
import warnings
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

# A bad position, velocity, acceleration or control.
_BAD = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
DIVERGED = [int(kind) for kind in (*_BAD, mujoco.mjtWarning.mjWARN_BADCTRL)]


def has_diverged(data: mujoco.MjData | None, obs: Any, reward: Any) -> bool:
    """Whether an episode broke in this step: by MuJoCo's counters, or by a number that is not finite."""
    counted = data is not None and bool(data.warning.number[DIVERGED].any())
    return counted or not (np.isfinite(obs).all() and math.isfinite(reward))


class quiet_mujoco:
    """Keep MuJoCo from reporting diverged physics to stderr and the working folder, which is counted and reported.

    A class, for it is entered in every step: a generator would take more than twice as long.
    """

    def __enter__(self) -> None:
        self._before = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(_warn_unless_diverged)

    def __exit__(self, *error: object) -> None:
        mujoco.set_mju_user_warning(self._before)


def _warn_unless_diverged(text: str) -> None:
    if "unstable" not in text and "Nan, Inf or huge" not in text:
        warnings.warn(text, stacklevel=2)


class EndsWhereDiverged(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """A MuJoCo task whose episode ends in the step in which its physics diverges; everything else is the task's.

    Such a step ends it as `WithParameters` does: `terminated`, with the last good observation, no reward and
    `info["broken"]`. Only MuJoCo's counters are looked at, for a microsecond; a number that is not finite is for
    `FiniteGuard` to refuse.
    """

    def __init__(self, env: gym.Env):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._task: Any = env.unwrapped

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._obs, info = self.env.reset(seed=seed, options=options)
        self._number = self._task.data.warning.number  # a view: to ask for it in every step would take as long again
        self._number[:] = 0  # of a task that starts without mj_resetData
        self._none = self._number.tobytes()
        return self._obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        with quiet_mujoco():
            obs, reward, terminated, truncated, info = self.env.step(action)
        if self._number.tobytes() != self._none and self._number[DIVERGED].any():
            return self._obs, 0.0, True, truncated, {**info, "broken": True}
        self._obs = obs
        return obs, reward, terminated, truncated, info
