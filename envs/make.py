"""From an `EnvConfig` to an environment: look the id up, change the physics, normalise the spaces."""

from __future__ import annotations

import difflib
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import mujoco
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.wrappers import OrderEnforcing, RescaleAction, TimeLimit

from surefoot.configs.allowed_modules import require_allowed_kwargs
from surefoot.configs.memory import require_memory
from surefoot.envs.action_repeat import ActionRepeat
from surefoot.envs.atari import flattened_frames, is_atari
from surefoot.envs.config import EnvConfig
from surefoot.envs.divergence import EndsWhereDiverged
from surefoot.envs.minatar import NAMESPACE, FlattenedChannels, is_minatar, register_games
from surefoot.envs.packages import import_tasks, known_problem, package_hint
from surefoot.envs.parameters import UncertaintySet
from surefoot.envs.physics import UNMODIFIED, ActionNoise, with_physics
from surefoot.envs.quantities import is_signal
from surefoot.envs.resumable import Resumable
from surefoot.envs.spaces import (
    describe,
    float32_observations,
    require_bounds,
    require_vectors,
    vector_actions,
    vector_observations,
)
from surefoot.envs.task_parameters import has_model
from surefoot.envs.tensor_env import TensorEnv, TimeAwareObservation
from surefoot.envs.vector import AsyncEnvs, MakeEnv, SubEnvs, SyncEnvs, TensorVectorEnv
from surefoot.envs.warp import require_installed
from surefoot.envs.warp.tasks import require_served
from surefoot.envs.with_parameters import WithParameters

if TYPE_CHECKING:
    from surefoot.envs.warp.vector_env import WarpVectorEnv

LEAST_MEMORY = {
    "batch": 200,
    "warp": 10_000,
    "sync": 20_000,
    "async": 20_000_000,
}  # bytes of an environment: less than any takes


def make_vec(
    config: EnvConfig,
    *,
    device: str | torch.device = "cpu",
    render_mode: str | None = None,
    uncertainty: UncertaintySet | None = None,
) -> TensorVectorEnv | TensorEnv | WarpVectorEnv:
    """`config.num_envs` environments of a task with tensors in and out, an `agents.interface.VectorEnv`.

    `uncertainty` is for `UncertainVectorEnv`, which sets its parameters.

    Raises:
        ValueError: an unknown id, a space or a change of physics that is not supported.
        ImportError: a package the task needs is not installed.
    """
    spec = find_spec(config.id)
    if config.backend == "warp":
        require_memory(float(config.num_envs) * LEAST_MEMORY["warp"], f"--env.num-envs {config.num_envs:,}")
        return _worlds(spec, config, device, render_mode, uncertainty)
    for option, given in (("nconmax", config.nconmax), ("njmax", config.njmax)):
        if given is not None:
            raise ValueError(f"--env.{option} is for --env.backend warp; MuJoCo in C takes as many as there are")
    native = _native(spec)
    _require_repeatable(native is not None, config)
    batched = native and as_one_batch(config, uncertainty)
    least = LEAST_MEMORY["batch" if batched else config.vectorization]
    require_memory(float(config.num_envs) * least, f"--env.num-envs {config.num_envs:,}")
    if native and batched:
        kwargs = {**spec.kwargs, **_constructor_kwargs(spec, config, render_mode)}
        with _one_line_errors(spec, kwargs):
            limits = {"max_episode_steps": episode_limit(config), "time_aware": config.time_aware}
            env = native(num_envs=config.num_envs, device=device, **limits, **kwargs)
        require_vectors(env.single_observation_space, env.single_action_space, config)
        return env
    make_sub_envs: Callable[[MakeEnv, int], SubEnvs] = SyncEnvs if config.vectorization == "sync" else AsyncEnvs
    make_env = partial(make_single, config, render_mode, uncertainty)
    sub_envs = make_sub_envs(make_env, config.num_envs)
    limit = episode_limit(config)
    return TensorVectorEnv(sub_envs, config.num_envs, device, task=config.id, make_env=make_env, episode_limit=limit)


def _worlds(
    spec: EnvSpec,
    config: EnvConfig,
    device: str | torch.device,
    render_mode: str | None,
    uncertainty: UncertaintySet | None,
) -> WarpVectorEnv:
    require_served(config)
    if render_mode is not None:
        raise ValueError("--env.backend warp renders nothing; use --env.backend mujoco")
    require_installed()
    from surefoot.envs.warp.vector_env import WarpVectorEnv

    env = make_single(replace(config, physics=replace(config.physics, parameters=())))
    return WarpVectorEnv(env, config, uncertainty, limit=episode_limit(config), device=device)


def make_single(
    config: EnvConfig, render_mode: str | None = None, uncertainty: UncertaintySet | None = None
) -> gym.Env:
    """One environment of `make_vec`, with NumPy arrays: float32 observations, actions in [-1, 1], same physics.

    With an uncertainty set its parameters can be set (`WithParameters`), and a saved episode has them; those that
    `config.physics` fixes stay, unless the set varies them.

    Raises:
        As `make_vec`.
    """
    spec = find_spec(config.id)
    env = _in_own_units(spec, config, render_mode)
    physics = UNMODIFIED if _native(spec) else config.physics  # a native task has changed itself
    env = with_physics(env, physics)
    if not (_native(spec) and _is_unbounded(env.action_space)):  # a task of ours that takes any vector as it is
        env = _normalised_actions(env, config.id)
    if config.time_aware:
        whole_numbers = np.issubdtype(env.observation_space.dtype, np.integer)  # a byte does not hold every step
        env = TimeAwareObservation(float32_observations(env) if whole_numbers else env)
    if physics.action_noise > 0.0:
        env = ActionNoise(env, physics.action_noise)
    fixed = config.physics.fixed()
    if uncertainty is not None or fixed:
        env = WithParameters(env, uncertainty, fixed)
    elif has_model(env.unwrapped):
        env = EndsWhereDiverged(env)
    return float32_observations(Resumable(env))


def bare_task(config: EnvConfig) -> gym.Env:
    """The task as it is registered, without what `gymnasium.make` and `make_single` put around it.

    Raises:
        As `make_vec`.
    """
    spec = find_spec(config.id)
    env = _gym_make(spec, config, _constructor_kwargs(spec, config, None))
    while isinstance(env, OrderEnforcing | TimeLimit):
        env = env.env
    return env


def spaces_of(config: EnvConfig) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """Observation and action space of a task as agents see them."""
    env = make_single(config)
    env.close()
    return env.observation_space, env.action_space


def own_action_space(config: EnvConfig) -> gym.Space[Any]:
    """Action space of a task in its own units, which `make_single` scales to [-1, 1]."""
    env = _in_own_units(find_spec(config.id), config, None)
    env.close()
    return env.action_space


def space_notes(config: EnvConfig) -> list[str]:
    """Return what `flatten` and `action_bound` make of a task, a line each; none where neither is set."""
    if not config.flatten and config.action_bound is None:
        return []
    spec = find_spec(config.id)
    env, vectors = _gym_make(spec, config, _constructor_kwargs(spec, config, None)), _in_own_units(spec, config, None)
    env.close()
    vectors.close()
    pairs = {
        "observations": (describe(env.observation_space), describe(vectors.observation_space)),
        "actions": (describe(env.action_space), describe(vectors.action_space)),
    }
    lines = [f"{what} {before} become {after}" for what, (before, after) in pairs.items() if before != after]
    if config.flatten and not lines:
        lines = [f"--env.flatten changes nothing: {config.id} has vectors already"]
    return lines if config.action_bound is None else [*lines, f"actions are within ±{config.action_bound:g}"]


def make_own(config: EnvConfig, render_mode: str | None = None) -> gym.Env:
    """`make_single` with actions in the task's own units.

    Raises:
        As `make_vec`.
    """
    env, own = make_single(config, render_mode), own_action_space(config)
    if own == env.action_space or not isinstance(own, gym.spaces.Box):
        return env
    return RescaleAction(env, own.low, own.high)


def find_spec(env_id: str) -> EnvSpec:
    """Gymnasium's entry for an id; `module:EnvId` imports `module` first.

    Raises:
        ValueError: no such id, names the closest ones; a module that the user has not named.
        ImportError: no such module.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        import_tasks(module, env_id)
    if name.startswith(NAMESPACE):
        register_games()
    try:
        spec = gym.spec(name)
    except gym.error.Error as error:
        newest = {f"{s.namespace}/{s.name}" if s.namespace else s.name: s.id for s in gym.registry.values()}
        close = difflib.get_close_matches(name, newest.values(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else package_hint(name)
        raise ValueError(f"unknown environment {env_id!r}; {hint}") from error
    if "mujoco" in str(spec.entry_point) and spec.version in (2, 3):
        raise ValueError(f"{env_id}: Gymnasium no longer has the v2 and v3 MuJoCo tasks; use {spec.name}-v5")
    return spec


def episode_limit(config: EnvConfig) -> int | None:
    """Return after how many steps of an agent an episode is truncated; None: never.

    Raises:
        As `find_spec`.
    """
    limit = time_limit(config)
    return limit and -(-limit // config.action_repeat)


def time_limit(config: EnvConfig) -> int | None:
    """Return after how many of the task's own steps an episode is truncated; None: never.

    Raises:
        As `find_spec`.
    """
    return config.max_episode_steps or find_spec(config.id).max_episode_steps


def native_task(env_id: str) -> Callable[..., TensorEnv] | None:
    """Return the batched tensor task behind an id, None where it is another kind of task.

    Raises:
        As `find_spec`.
    """
    return _native(find_spec(env_id))


def as_one_batch(config: EnvConfig, uncertainty: UncertaintySet | None = None) -> bool:
    """Whether a task's environments are one batched tensor task, and not stepped one after the other.

    Delay, sensors and time are of single environments, so a set with those takes a tensor task one by one, and so do
    fixed parameters.

    Raises:
        As `find_spec`.
    """
    native = native_task(config.id)
    own = getattr(native, "param_names", ())
    names = uncertainty.param_names if uncertainty else ()
    alone = bool(config.physics.parameters)
    return native is not None and not alone and not any(is_signal(name) and name not in own for name in names)


def _native(spec: EnvSpec) -> Callable[..., TensorEnv] | None:
    """The batched tensor task behind an id, if it is one."""
    entry: Any = spec.vector_entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    return creator if isinstance(creator, type) and issubclass(creator, TensorEnv) else None


def _constructor_kwargs(spec: EnvSpec, config: EnvConfig, render_mode: str | None) -> dict[str, Any]:
    require_allowed_kwargs(config.kwargs, config.id)
    kwargs: dict[str, Any] = dict(config.kwargs)
    if _native(spec):
        kwargs["physics"] = replace(config.physics, parameters=())  # a native task changes itself
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    return kwargs


def _gym_make(spec: EnvSpec, config: EnvConfig, kwargs: dict[str, Any]) -> gym.Env:
    with _one_line_errors(spec, kwargs), _known_compiler_warnings_dropped():
        # Gymnasium's checker looks at every step; `examine_task` does its work once.
        return gym.make(spec, max_episode_steps=config.max_episode_steps, disable_env_checker=True, **kwargs)


def _in_own_units(spec: EnvSpec, config: EnvConfig, render_mode: str | None) -> gym.Env:
    """Return the task with vectors, or numbers of actions, for spaces; else as it is."""
    env = _gym_make(spec, config, _constructor_kwargs(spec, config, render_mode))
    if _native(spec):
        _require_repeatable(True, config)
        require_vectors(env.observation_space, env.action_space, config)
        return env
    if config.action_repeat > 1:
        env = ActionRepeat(env, config.action_repeat)
    if is_atari(env):
        env = flattened_frames(env)
    elif is_minatar(env):
        env = FlattenedChannels(env)
    env = vector_observations(env, config.flatten, config.id)
    return vector_actions(env, config.flatten, config.action_bound, config.id)


def _require_repeatable(native: bool, config: EnvConfig) -> None:
    """Raise `ValueError` where actions are to be held in a batched tensor task, which counts its steps itself."""
    if native and config.action_repeat > 1:
        raise ValueError(f"--env.action-repeat is for Gymnasium's own interface; {config.id} steps all copies at once")


@contextmanager
def _one_line_errors(spec: EnvSpec, kwargs: dict[str, Any]) -> Iterator[None]:
    """Say which task could not be made, with builtin exceptions."""
    try:
        yield
    except gym.error.DependencyNotInstalled as error:
        raise ImportError(f"{spec.id}: {error}") from error
    except (ImportError, OSError, ValueError):  # these say what is wrong
        raise
    except (TypeError, gym.error.Error) as error:
        raise ValueError(f"{spec.id} with {kwargs}: {error}") from error
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__} {' '.join(str(error).split())}".strip()
        raise ValueError(
            f"{spec.id} with {kwargs}: {what} ({Path(place.filename).name}, line {place.lineno}){known_problem(error)}"
        ) from error


@contextmanager
def _known_compiler_warnings_dropped() -> Iterator[None]:
    """Pass MuJoCo's warnings on to Python, but for the one that Gymnasium's own HalfCheetah model raises every time.

    MuJoCo's default handler prints to stderr and appends to MUJOCO_LOG.TXT in the user's working folder.
    """
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: None if "'settotalmass'" in text else warnings.warn(text, stacklevel=2))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _is_unbounded(space: gym.Space[Any]) -> bool:
    return isinstance(space, gym.spaces.Box) and not (space.bounded_below.any() or space.bounded_above.any())


def _normalised_actions(env: gym.Env, env_id: str) -> gym.Env:
    """Box actions scaled affinely to [-1, 1], not clipped; left alone where they are so already, or discrete."""
    space = env.action_space
    if not isinstance(space, gym.spaces.Box):
        return env
    require_bounds(space, env_id)
    if np.all(space.low == -1.0) and np.all(space.high == 1.0):
        return env
    one = space.dtype.type(1.0)  # of the same precision: Gymnasium compares with the least number of the space's
    return RescaleAction(env, -one, one)
