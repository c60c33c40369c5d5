"""One look at a task before a run: that `reset` and `step` return what they must, and what else a run relies on.

Gymnasium's own checker looks at every step of a run, which costs more than a step of HalfCheetah, and warns. This one
plays a few steps in environments of its own, and every breach is one line.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from surefoot.envs.config import EnvConfig
from surefoot.envs.finite import TaskError
from surefoot.envs.make import bare_task, episode_limit, find_spec, make_single, make_vec, native_task

STEPS = 10  # of each of the two episodes that must be the same
PATIENCE = 2_000  # steps of random actions in which a task without a declared time limit must come to one of its own


def examine_task(config: EnvConfig) -> bool:
    """Play one short episode each in two fresh copies; return whether they are the same, bit for bit.

    They are not where a task draws from other generators than its `np_random` or is registered as `nondeterministic`,
    as hardware should be. The global generators stay as they were.

    Raises:
        TaskError: names the method and what it must return.
        ValueError: as `make_single`.
    """
    if native_task(config.id):  # a `TensorEnv` saves its whole state
        return True
    with global_generators_restored():
        first, second = _short_episode(config), _short_episode(config)
    return first == second and not find_spec(config.id).nondeterministic


def require_time_limit(config: EnvConfig) -> None:
    """Raise `TaskError` where no time limit is declared and random actions meet none: an evaluation could last forever.

    An end by termination does not count, since a better policy may never come to it.
    """
    if episode_limit(config):
        return
    with global_generators_restored():
        limited = _has_horizon(config) if native_task(config.id) else _truncates_itself(config)
    if not limited:
        raise TaskError(
            f"{config.id}: no time limit, so an episode of an evaluation might never end; add --env.max-episode-steps N"
        )


@contextmanager
def global_generators_restored() -> Iterator[None]:
    """Leave the global generators of Python, NumPy and PyTorch as they were: a check must not change a run."""
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(pytorch)


def _has_horizon(config: EnvConfig) -> bool:
    env: Any = make_vec(replace(config, num_envs=1))
    return bool(env.episode_limit or getattr(env, "horizon", None))


def _truncates_itself(config: EnvConfig) -> bool:
    env = make_single(config)
    try:
        env.action_space.seed(0)
        env.reset(seed=0)
        for _ in range(PATIENCE):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if truncated:
                return True
            if terminated:
                env.reset()
    finally:
        env.close()
    return False


# --- one short episode ------------------------------------------------------------------------------------------------


def _short_episode(config: EnvConfig) -> list[bytes]:
    """Return all that a few random steps gave, and whether they drew global random numbers."""
    env = bare_task(config)
    try:
        env.action_space.seed(0)
        before = _global_generators()
        seen = [_reset(env, config.id, seed=0)]
        for _ in range(STEPS):
            given, ended = _step(env, config.id)
            seen.append(given)
            if ended:
                seen.append(_reset(env, config.id, seed=None))
        return [*seen, *(before if before != _global_generators() else [])]
    finally:
        env.close()


def _global_generators() -> list[bytes]:
    _, key, *rest = np.random.get_state()  # noqa: NPY002
    return [
        repr(random.getstate()).encode(),
        np.asarray(key).tobytes() + repr(rest).encode(),
        torch.get_rng_state().numpy().tobytes(),
    ]


def _reset(env: gym.Env, task: str, *, seed: int | None) -> bytes:
    must = "it must be reset(self, *, seed=None, options=None) and return (observation, info), info a dictionary"
    given: Any = _called(f"{task}: reset(seed={seed}, options=None)", must, env.reset, seed=seed, options=None)
    if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], dict):
        raise TaskError(f"{task}: reset returned {_shown(given)}; {must}")
    _check_observation(f"{task}: reset", given[0], env.observation_space)
    return _bytes(given[0])


def _step(env: gym.Env, task: str) -> tuple[bytes, bool]:
    must = "it must return (observation, reward, terminated, truncated, info), info a dictionary"
    action = env.action_space.sample()
    given: Any = _called(f"{task}: step({action})", must, env.step, action)
    if not isinstance(given, tuple) or len(given) != 5 or not isinstance(given[4], dict):
        raise TaskError(f"{task}: step returned {_shown(given)}; {must}")
    obs, reward, terminated, truncated, _ = given
    _check_observation(f"{task}: step", obs, env.observation_space)
    if np.ndim(reward) or np.asarray(reward).dtype.kind not in "biuf":
        raise TaskError(f"{task}: step returned {_shown(reward)} as the reward; it must be one number")
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if np.ndim(flag) or flag not in (False, True):
            raise TaskError(f"{task}: step returned {_shown(flag)} as `{name}`; it must be a bool")
    return _bytes(obs) + _bytes(reward) + _bytes([terminated, truncated]), bool(terminated or truncated)


def _called(call: str, must: str, method: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    try:
        return method(*arguments, **keywords)
    except Exception as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise TaskError(f"{call} raised {problem}; {must}") from error


def _check_observation(method: str, obs: Any, space: gym.Space[Any]) -> None:
    if isinstance(space, gym.spaces.Dict) and isinstance(obs, dict) and obs.keys() == space.keys():
        for name, part in space.items():
            _check_observation(f"{method} of {name!r}", obs[name], part)
        return
    if not isinstance(space, gym.spaces.Box):
        if not space.contains(obs):
            raise TaskError(f"{method} returned an observation outside of its observation_space, {space}")
        return
    if not isinstance(obs, np.ndarray | np.generic) or obs.shape != space.shape:
        raise TaskError(f"{method} returned {_shown(obs)} as the observation; it must be an array of {space.shape}")
    values = np.asarray(obs, space.dtype)
    if (outside := (values < space.low) | (values > space.high)).any():
        place = tuple(np.argwhere(outside)[0].tolist())
        raise TaskError(
            f"{method} returned {values[place]} at {list(place)} of the observation, outside of its observation_space, "
            f"which is {space.low[place]} to {space.high[place]} there"
        )


def _shown(value: Any) -> str:
    """Return what a value is, in few words."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    name = type(value).__name__
    return f"{value!r} ({name})" if isinstance(value, bool | int | float | str | None) else name


def _bytes(value: Any) -> bytes:
    """Return a value, arrays in dictionaries and tuples included, as bytes that are equal only for the same bits."""
    if isinstance(value, dict):
        return b"".join(_bytes(value[key]) for key in value)
    if isinstance(value, tuple | list):
        return b"".join(map(_bytes, value))
    return np.asarray(value).tobytes()
