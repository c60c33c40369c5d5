"""Termination functions of tasks, on tensors: what a model-based agent needs in addition to its learned model.

A rule maps (obs, action, next_obs), (N, …) each, to (N,) bool, `terminated` of the task. Those of Gymnasium's MuJoCo
tasks are written as the tasks' own code has them (docs/derivations/lipschitz_mbrl.md §11.2, eq. (11.1)), also where
observations are truncated, and hold for v4 and v5. `termination_of` checks a rule against the task before anybody
relies on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.configs.allowed_modules import require_allowed
from surefoot.envs.config import EnvConfig
from surefoot.envs.health import balanced, standing, upright, within
from surefoot.envs.make import find_spec, make_vec
from surefoot.envs.packages import import_module

TerminationFn = Callable[[Tensor, Tensor, Tensor], Tensor]
RANDOM_STEPS = 3_000  # of a check: the tasks below that end do so 13 to 471 times in as many


def never(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Nothing ends the task but its time limit."""
    return torch.zeros(len(next_obs), dtype=torch.bool, device=next_obs.device)


def hopper(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Unless finite, all but the height within ±100, z > 0.7 and |angle| < 0.2."""
    height, rest = next_obs[:, 0], next_obs[:, 1:11]
    steady = next_obs.isfinite().all(-1) & within(rest, -100.0, 100.0).all(-1)
    return ~(steady & upright(height, rest[:, 0], (0.7, math.inf), (-0.2, 0.2)))


def walker2d(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Unless 0.8 < z < 2 and |angle| < 1."""
    return ~upright(next_obs[:, 0], next_obs[:, 1], (0.8, 2.0), (-1.0, 1.0))


def ant(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Unless finite and 0.2 ≤ z ≤ 1."""
    return ~standing(next_obs, next_obs[:, 0], (0.2, 1.0))


def humanoid(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Unless 1 < z < 2 (the task's own comparison: neither bound is healthy)."""
    return ~within(next_obs[:, 0], 1.0, 2.0)


def inverted_pendulum(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Unless finite and |angle| ≤ 0.2."""
    return ~balanced(next_obs, next_obs[:, 1])


def inverted_double_pendulum(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The tip at a height of 1 or less; the observation has (x, sin θ₁, sin θ₂, cos θ₁, cos θ₂, …)."""
    sin, cos = next_obs[:, 1:3], next_obs[:, 3:5]
    first, second = torch.atan2(sin, cos).unbind(-1)
    return 0.6 * (first.cos() + (first + second).cos()) <= 1.0


KNOWN: dict[str, TerminationFn] = {
    "Ant": ant,
    "HalfCheetah": never,
    "Hopper": hopper,
    "Humanoid": humanoid,
    "HumanoidStandup": never,
    "InvertedDoublePendulum": inverted_double_pendulum,
    "InvertedPendulum": inverted_pendulum,
    "Pendulum": never,
    "Reacher": never,
    "Swimmer": never,
    "Walker2d": walker2d,
}  # by the name of an id without namespace and version


def termination_of(config: EnvConfig, *, steps: int = RANDOM_STEPS) -> TerminationFn:
    """Return `config.termination`, or the rule known for the task, after a check against it on random steps.

    Raises:
        ValueError: no rule is known, the one given is not there or returns something else than (N,) bool, or it
            disagrees with the task.
        ImportError: the module of the one given cannot be imported.
    """
    rule, name = _find(config)
    check = compare(rule, config, steps=steps)
    if check.mismatches:
        raise ValueError(
            f"{config.id}: the termination rule {name} is wrong on {check.mismatches} of {steps} random steps (it ends "
            f"{check.predicted}, the task {check.ended}); {_way_out(config)}"
        )
    return rule


def _find(config: EnvConfig) -> tuple[TerminationFn, str]:
    if config.termination is not None:
        return _load(config.termination), config.termination
    name = find_spec(config.id).name
    if name not in KNOWN:
        raise ValueError(f"{config.id}: no termination rule is known for it; {_way_out(config)}")
    return KNOWN[name], f"surefoot.envs.termination:{KNOWN[name].__name__}"


def _way_out(config: EnvConfig) -> str:
    return (
        "pass --env.termination MODULE:FUNCTION, a function of (obs, action, next_obs), tensors (N, ...), to (N,) bool "
        "(surefoot.envs.termination:never for a task that only its time limit ends)"
    )


def _load(name: str) -> TerminationFn:
    module, _, function = name.partition(":")
    require_allowed(module, f"--env.termination {name!r}")  # one that is imported already can do harm too
    try:
        rule: TerminationFn | None = getattr(import_module(module), function, None)
    except (ModuleNotFoundError, ValueError) as error:
        raise ImportError(
            f"--env.termination {name!r}: cannot import {module!r} ({error}); put its folder on PYTHONPATH, or start "
            "in that folder"
        ) from error
    if not callable(rule):
        raise ValueError(f"--env.termination {name!r}: {module!r} has no function {function!r}; pass MODULE:FUNCTION")
    return rule


class TerminationCheck(NamedTuple):
    """A rule compared with the task over some random steps."""

    mismatches: int
    predicted: int  # steps that the rule calls terminal
    ended: int  # steps that were


def compare(rule: TerminationFn, config: EnvConfig, *, steps: int = RANDOM_STEPS, seed: int = 0) -> TerminationCheck:
    """Play random actions in the task and compare; `ValueError` for a rule that gives no (N,) bool."""
    env = make_vec(replace(config.in_c(), num_envs=1, vectorization="sync"))
    env.single_action_space.seed(seed)
    obs, _ = env.reset(seed=seed)
    rows = []
    try:
        for _ in range(steps):
            action = torch.as_tensor(env.single_action_space.sample())[None]
            after, _, terminated, _, info = env.step(action)
            rows.append((obs, action, info["final_obs"], terminated))
            obs = after
    finally:
        env.close()
    *seen, ended = map(torch.cat, zip(*rows, strict=True))
    try:
        predicted = rule(*seen)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{config.id}: the termination rule fails on {steps} rows: {problem}") from error
    if not isinstance(predicted, Tensor) or predicted.dtype != torch.bool or predicted.shape != ended.shape:
        shown = (
            f"{predicted.dtype} {tuple(predicted.shape)}" if isinstance(predicted, Tensor) else type(predicted).__name__
        )
        raise ValueError(f"{config.id}: the termination rule gives {shown} for {steps} rows, not ({steps},) bool")
    return TerminationCheck(int((predicted != ended).sum()), int(predicted.sum()), int(ended.sum()))
