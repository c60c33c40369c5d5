"""The guard between a task and all that learns, evaluates or records: no number that is NaN, infinite or too large."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

LOOK_EVERY = 1_000  # steps between two looks at a task on an accelerator, which would have to be waited for


class TaskError(ValueError):
    """A task did what none may do: it gave a number that is not finite, or an episode without an end."""


def as_float32(values: Any) -> np.ndarray:
    """Return values as float32 without a warning: one beyond float32 becomes infinite, which `FiniteGuard` refuses."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32)


class FiniteGuard:
    """Looks at all that a vector environment returns: `TaskError` names task, step, environment and field.

    On the CPU after every step, in a microsecond. On an accelerator 0·x is added up, which stays 0 until a number is
    not finite, and the sums are looked at every 1,000 steps.
    """

    def __init__(self, task: str):
        self.task = task
        self.steps = 0  # of each environment since the run began
        self._sums: dict[str, Tensor] = {}

    def check_reset(self, obs: np.ndarray | Tensor) -> None:
        """Raise unless first observations (N, obs) are finite; the count starts anew."""
        self.steps = 0
        self._sums = {}
        values = obs.numpy(force=True) if isinstance(obs, Tensor) else obs
        if not is_finite(values):
            raise TaskError(self._line("reset", "observation", values))

    def check_step(self, actions: Any, reward: np.ndarray, final_obs: np.ndarray, obs: np.ndarray) -> None:
        """Raise unless rewards (N,), true successors (N, obs) and the observations after autoreset are finite."""
        self.steps += 1
        if not is_finite(reward):
            self._refuse(actions, "reward", reward)
        if not is_finite(final_obs):
            self._refuse(actions, "observation", final_obs)
        if obs is not final_obs and not is_finite(obs):
            self._refuse(actions, "observation after reset", obs)

    def check_tensors(self, actions: Tensor, reward: Tensor, final_obs: Tensor, obs: Tensor) -> None:
        """As `check_step`, for tensors on any device."""
        if reward.device.type == "cpu":
            self.check_step(actions, reward.numpy(), final_obs.numpy(), obs.numpy())
            return
        self.steps += 1
        for name, value in {"reward": reward, "observation": final_obs}.items():
            if name not in self._sums:
                self._sums[name] = value.new_zeros(value.shape)
            self._sums[name].add_(value, alpha=0)
        if self.steps % LOOK_EVERY == 0:
            for name, total in self._sums.items():
                if not is_finite(values := total.numpy(force=True)):
                    raise TaskError(self._line(f"steps {self.steps - LOOK_EVERY + 1} to {self.steps}", name, values))

    def _refuse(self, actions: Any, field: str, values: np.ndarray) -> None:
        given = np.asarray(actions.numpy(force=True) if isinstance(actions, Tensor) else actions)
        if not is_finite(given):
            raise TaskError(
                f"{self.task}: at step {self.steps} {_first(given, 'action')}, given to the task: the policy is no "
                "longer finite, its training has diverged"
            )
        raise TaskError(self._line(f"step {self.steps}", field, values))

    def _line(self, when: str, field: str, values: np.ndarray) -> str:
        return (
            f"{self.task}: at {when} {_first(values, field)}; a task must return finite numbers within float32 "
            "(below 3.4e38 in magnitude)"
        )


def is_finite(values: np.ndarray) -> bool:
    """Whether all numbers are finite: half the time of `isfinite`, which decides where squares are beyond float32."""
    return math.isfinite(np.vdot(values, values)) or bool(np.isfinite(values).all())


def _first(values: np.ndarray, field: str) -> str:
    """Return where (N, …) values are not finite first."""
    env, *place = np.argwhere(~np.isfinite(values))[0].tolist()
    where = f" (coordinate {', '.join(map(str, place))})" if place else ""
    return f"the {field} of environment {env} is {values[(env, *place)]}{where}"
