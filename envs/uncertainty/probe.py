"""What an uncertainty set means for a task, found by trying: its nominal values, and values that change nothing.

Friction is the usual case of the latter (docs/derivations/iwocs.md §7.9).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from surefoot.envs.config import EnvConfig
from surefoot.envs.divergence import quiet_mujoco
from surefoot.envs.make import as_one_batch, make_single, make_vec
from surefoot.envs.parameters import UncertaintySet, check_task
from surefoot.envs.signals import TIMING
from surefoot.envs.task_parameters import full_vector, nominal_of

Span = tuple[float, float]
Path = Callable[[np.ndarray, list[Any], int], np.ndarray]  # parameters, actions, seed -> what came of it, (T + 1, …)
FEW = 3  # steps, in which most parameters show


def nominal_params(config: EnvConfig, uncertainty: UncertaintySet) -> np.ndarray:
    """Return the nominal values (d,) of a set in a task: its own where it gives them, else what the task has.

    Raises:
        ValueError: a set for another task, or with parameters that the task does not have.
    """
    return _open(config, uncertainty)[0]


@torch.inference_mode()
def indistinct(
    config: EnvConfig, uncertainty: UncertaintySet, axes: Sequence[np.ndarray], *, steps: int = 100, seed: int = 0
) -> dict[str, list[Span]]:
    """Return the ranges (first, last) of neighbouring values of each parameter within which nothing is different.

    Compared are observations, rewards and whether the task ended, over one start, `steps` random actions or to the
    episode's end, the other parameters nominal; a push comes in every step, and where the set has no `push_rate` so few
    come that pushes are passed over. A parameter is absent where each value makes a difference; one without any effect
    has its whole axis. A task that hides the difference for longer, as a floor that is not slipped on, is reported as
    it was seen.

    Raises:
        ValueError: as `nominal_params`.
    """
    nominal, space, path = _open(config, uncertainty)
    space.seed(seed)
    actions = [space.sample() for _ in range(steps)]
    found = {}
    for k, (name, axis) in enumerate(zip(uncertainty.param_names, axes, strict=True)):
        if name in (*TIMING, "push_rate"):  # with the others nominal there is nothing that they could change
            continue
        rows = np.repeat(nominal[None], len(axis), axis=0)
        rows[:, k] = axis
        if name.startswith("push."):
            if "push_rate" not in uncertainty.param_names:
                continue
            rows[:, uncertainty.param_names.index("push_rate")] = 1.0
        with quiet_mujoco():
            same = _neighbours_alike(path, rows, actions, seed)
        if spans := _spans(axis, same):
            found[name] = spans
    return found


def _neighbours_alike(path: Path, rows: np.ndarray, actions: list[Any], seed: int) -> list[bool]:
    """Return which neighbours among parameters (n, d) are alike: tried to the end only where a few steps show none."""
    for some in (actions[:FEW], actions):
        paths = [path(row, some, seed) for row in rows]
        alike = [np.array_equal(one, other) for one, other in pairwise(paths)]
        if not any(alike):
            break
    return alike


def inert(uncertainty: UncertaintySet, axes: Sequence[np.ndarray], spans: dict[str, list[Span]]) -> list[str]:
    """Return the parameters that change nothing over all of their values, of what `indistinct` found."""
    ends = {name: (axis[0], axis[-1]) for name, axis in zip(uncertainty.param_names, axes, strict=True)}
    return [name for name, found in spans.items() if found == [ends[name]]]


def without_effect(config: EnvConfig, uncertainty: UncertaintySet, n: int = 5) -> list[str]:
    """Return the parameters that change nothing over `n` values from end to end, as far as `indistinct` sees.

    Raises:
        ValueError: as `nominal_params`.
    """
    axes = [np.linspace(p.low, p.high, n) for p in uncertainty.parameters]  # one after the other, so any number of them
    return inert(uncertainty, axes, indistinct(config, uncertainty, axes))


def _open(config: EnvConfig, uncertainty: UncertaintySet) -> tuple[np.ndarray, gym.Space[Any], Path]:
    """Return a task's nominal values, its actions, and how it moves with given parameters."""
    check_task(uncertainty, config.id)
    if not as_one_batch(config, uncertainty):
        env = make_single(config, uncertainty=uncertainty)
        return env.get_wrapper_attr("nominal"), env.action_space, lambda *job: _gym_path(env, *job)
    batch: Any = make_vec(config)
    full = full_vector(batch, uncertainty)
    num_envs = batch.num_envs

    def path(values: np.ndarray, actions: list[Any], seed: int) -> np.ndarray:
        batch.set_params(torch.from_numpy(full(np.repeat(values[None], num_envs, axis=0))))
        none = torch.zeros(num_envs)
        seen = [_seen(batch.reset(seed=seed)[0], none, none)]
        for action in actions:
            obs, reward, terminated, *_ = batch.step(torch.from_numpy(np.repeat(action[None], num_envs, axis=0)))
            seen.append(_seen(obs, reward, terminated))
        return np.stack(seen)

    return nominal_of(batch, uncertainty), batch.single_action_space, path


def _gym_path(env: gym.Env, values: np.ndarray, actions: list[Any], seed: int) -> np.ndarray:
    seen = [_seen(env.reset(seed=seed, options={"params": values})[0], 0.0, 0.0)]
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append(_seen(obs, reward, terminated))
        if terminated or truncated:
            break
    return np.stack(seen)


def _seen(obs: Any, reward: Any, terminated: Any) -> np.ndarray:
    """Return what a step showed, (obs + 2,) or of many environments (N, obs + 2), exact in float64."""
    columns = (obs, np.expand_dims(reward, -1), np.expand_dims(terminated, -1))
    return np.concatenate([np.asarray(column, np.float64) for column in columns], -1)


def _spans(axis: np.ndarray, same: list[bool]) -> list[Span]:
    """Return the first and last value of every run of neighbours that are the same; `same` is one shorter."""
    spans: list[Span] = []
    for (low, high), equal in zip(pairwise(axis), same, strict=True):
        if equal and spans and spans[-1][1] == low:
            spans[-1] = (spans[-1][0], float(high))
        elif equal:
            spans.append((float(low), float(high)))
    return spans
