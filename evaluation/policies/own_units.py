"""Policies that answer in the task's own units: functions, ONNX, TorchScript. What they give is checked."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.agents.interface import Spaces
from surefoot.envs import EnvConfig, own_action_space, spaces_of
from surefoot.envs.spaces import describe
from surefoot.evaluation.episodes import Act
from surefoot.evaluation.policies.opened import AnyPolicy

SLACK = 1e-4  # of the range of an action that rounding may take it beyond its bounds
Predict = Callable[[np.ndarray], Any]  # (N, obs) float32 -> (N, act), or (N,) Discrete ones


def own_policy(predict: Predict, label: str, agent_name: str, seen: int | None = None, **known: Any) -> AnyPolicy:
    """Return a policy that becomes one for a task by `fit`; before that its units are not known.

    Args:
        predict: from observations to actions in the task's own units.
        label: its name in tables and messages.
        agent_name: what kind of policy it is.
        seen: how many numbers it is shown; None: any.
        known: further fields of `AnyPolicy`.
    """

    def fit(policy: AnyPolicy, task: EnvConfig) -> AnyPolicy:
        observation, action = spaces_of(task)
        if seen is not None and observation.shape != (seen,):
            raise ValueError(
                f"{label}: sees Box({seen},), but {task.id} shows {describe(observation)}; choose a fitting task with "
                "--env.id"
            )
        own = own_action_space(task)
        act = act_of(predict, own, label)
        return policy._replace(act=act, spaces=Spaces(observation, action), own_action=own, needs_task=False)

    nothing = gym.spaces.Box(-np.inf, np.inf, (0,))
    known = {"step": 0, "env_config": None, "source": label, **known}
    return AnyPolicy(_unfitted, Spaces(nothing, nothing), nothing, agent_name, label, fit=fit, needs_task=True, **known)


def _unfitted(obs: Tensor) -> Tensor:
    raise ValueError("a policy in a task's own units acts once its task is known")


def act_of(predict: Predict, own_action: gym.Space[Any], label: str | None = None) -> Act:
    """Return a function from observations to actions in the task's own units as an `Act` in [-1, 1].

    A `predict` with a memory, that is with `reset` and `observe` as in `StatefulPolicy`, gives a stateful one.

    The `Act` raises `ValueError`, in one line, for actions that are no numbers, of a wrong shape, not finite or beyond
    the task's bounds.
    """
    name = str(label or getattr(predict, "__qualname__", type(predict).__name__))
    check = _check_box if isinstance(own_action, gym.spaces.Box) else _check_discrete

    def act(obs: Tensor) -> Tensor:
        given = _called(predict, obs.numpy(force=True), name)
        try:
            actions = check(np.asarray(given), len(obs), own_action)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {' '.join(str(error).split())}") from error
        return torch.from_numpy(actions).to(obs.device)

    return Stateful(act, predict) if hasattr(predict, "reset") and hasattr(predict, "observe") else act


class Stateful:
    """An `Act` whose memory is that of what it is made of."""

    def __init__(self, act: Callable[[Tensor], Tensor], memory: Any):
        self._act, self.reset, self.observe = act, memory.reset, memory.observe
        self.needs_rewards = bool(getattr(memory, "needs_rewards", False))

    def __call__(self, obs: Tensor) -> Tensor:
        """Return actions (N, act) of observations (N, obs)."""
        return self._act(obs)


def _called(predict: Predict, obs: np.ndarray, name: str) -> Any:
    """Return what a policy gives; an error of its own is one line, with the place in its code."""
    try:
        return predict(obs)
    except (ValueError, OSError) as error:
        raise ValueError(str(error) if str(error).startswith(name) else f"{name}: {_where(error)}") from error
    except Exception as error:  # whatever the code of others raises
        raise ValueError(f"{name}: {_where(error)}") from error


def _where(error: Exception) -> str:
    """Return an error and the line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"raised {type(error).__name__}: {' '.join(str(error).split())} ({last.filename}, line {last.lineno})"


def _check_box(actions: np.ndarray, count: int, space: Any) -> np.ndarray:
    """Return Box actions (N, act) scaled to [-1, 1]; of a space without bounds as they are."""
    if actions.dtype.kind not in "fiu" or actions.shape != (count, *space.shape):
        raise ValueError(
            f"gave {actions.dtype} of shape {actions.shape} for {count} observations; the task takes "
            f"({count}, {', '.join(map(str, space.shape))}) numbers"
        )
    actions = actions.astype(np.float32)
    if not np.isfinite(actions).all():
        raise ValueError(f"gave actions that are not finite, such as {actions[~np.isfinite(actions).all(1)][0]}")
    if not space.is_bounded():
        return actions
    width = space.high - space.low
    beyond = (actions < space.low - SLACK * width) | (actions > space.high + SLACK * width)
    if beyond.any():
        row, column = np.argwhere(beyond)[0]
        raise ValueError(
            f"gave {actions[row, column]:g} for action {column}, which is within [{space.low[column]:g}, "
            f"{space.high[column]:g}]; clip it, if that is meant"
        )
    scaled: np.ndarray = np.clip(2 * (actions - space.low) / width - 1, -1, 1).astype(np.float32)
    return scaled


def _check_discrete(actions: np.ndarray, count: int, space: Any) -> np.ndarray:
    """Return the numbers (N,) of Discrete actions."""
    if actions.shape == (count, 1):
        actions = actions[:, 0]
    if actions.dtype.kind not in "iu" or actions.shape != (count,):
        raise ValueError(
            f"gave {actions.dtype} of shape {actions.shape} for {count} observations; the task takes ({count},) whole "
            f"numbers, the actions of {describe(space)}"
        )
    if ((actions < space.start) | (actions >= space.start + space.n)).any():
        wrong = actions[(actions < space.start) | (actions >= space.start + space.n)][0]
        raise ValueError(f"gave action {wrong}, and there are {space.start} to {space.start + space.n - 1}")
    return actions.astype(np.int64)
