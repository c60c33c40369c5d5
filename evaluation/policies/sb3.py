"""An archive of Stable-Baselines3 as a policy: network, wrappers and task put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.agents.interface import Spaces
from surefoot.envs import EnvConfig, episode_limit, own_action_space, spaces_of
from surefoot.envs.make import bare_task
from surefoot.envs.spaces import describe
from surefoot.evaluation.episodes import Act
from surefoot.evaluation.policies import task_versions
from surefoot.evaluation.policies.opened import AnyPolicy, Permissions, sha256_of
from surefoot.evaluation.policies.sb3_archives import Archive, Unreadable, algorithm_of, read, read_data
from surefoot.evaluation.policies.sb3_networks import build
from surefoot.evaluation.policies.sb3_settings import NORMALIZERS, Settings, beside, read_settings
from surefoot.evaluation.policies.sb3_wrappers import Wrappers, wrapped
from surefoot.evaluation.policies.vecnormalize import Normalizer, read_normalizer

Network = Callable[[Tensor], Tensor]


def load_archive(
    path: Path,
    allowed: Permissions,
    normalizer: Path | None = None,
    device: torch.device | str = "cpu",
    hint: str = "",
) -> AnyPolicy:
    """Return the policy of an archive, without running code unless `allowed.pickle` and nothing else helps.

    `hint` is a further name that may contain the id of its task.

    Raises:
        ValueError: no archive, a damaged one, or one that cannot be read without running code; statistics or wrappers
            that are missing or not known.
    """
    settings = read_settings(path)
    try:
        archive = read(path)
        network = build(archive, device)
    except Unreadable as error:
        if not allowed.pickle:
            reason = str(error) if str(error).startswith(str(path)) else f"{path}: {error}"
            raise ValueError(
                f"{reason}; the library itself runs code stored in the file: add --allow-pickle if you trust it"
            ) from error
        archive, network = _by_library(path, device)
    statistics = _statistics(path, settings, normalizer)
    wrappers = Wrappers(_width(archive), settings.time_feature, statistics, settings.stack)
    return _policy(path, archive, network, settings, wrappers, hint)


def _policy(
    path: Path, archive: Archive, network: Network, settings: Settings, wrappers: Wrappers, hint: str
) -> AnyPolicy:
    """Return everything put together; a task that names or files name is known, but must still fit."""
    try:
        wrappers.check()
        if wrappers.stack > 1 and len(archive.observation.shape or ()) == 3:
            raise ValueError("a stack of images, which is not supported")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    task = _task(settings, (path.stem, path.parent.name, hint))
    shown = gym.spaces.Box(-np.inf, np.inf, (wrappers.seen,))
    action = archive.action
    plain = action if isinstance(action, gym.spaces.Discrete) else gym.spaces.Box(-1, 1, action.shape)
    return AnyPolicy(
        act=wrapped(network, wrappers, None),
        spaces=Spaces(shown, plain),
        own_action=action,
        agent_name=f"sb3-{archive.algorithm.lower()}",
        label=str(path),
        step=_whole(archive.data.get("num_timesteps")) or 0,
        env_config=task.config if task else None,
        training_seed=_whole(archive.data.get("seed")),
        fit=lambda policy, env: _fitted(policy, env, archive, network, wrappers),
        trained_on=task.trained_on if task else None,
        sha256=sha256_of(path),
        source=str(path),
        wrappers=wrappers.in_words(),
        notes=task.notes if task else (),
    )


def _task(settings: Settings, names: tuple[str, ...]) -> task_versions.Task | None:
    """Return the task that the files beside an archive name, or the first of its names that contains an id."""
    named = [settings.task] if settings.task in gym.registry else []
    within = map(task_versions.id_within, names)
    known = next((env_id for env_id in (*named, *within) if env_id), None)
    if known is None:
        return None
    task = task_versions.task_named(known)
    kwargs = {**task.config.kwargs, **settings.kwargs}
    return task._replace(config=replace(task.config, kwargs=kwargs))


def _width(archive: Archive) -> int:
    space = archive.observation
    return int(space.n) if isinstance(space, gym.spaces.Discrete) else int(np.prod(space.shape or ()))


def _whole(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


# --- statistics -------------------------------------------------------------------------------------------------------


def _statistics(path: Path, settings: Settings, given: Path | None) -> Normalizer | None:
    """Return the statistics that were given or lie beside the archive, where they are to be applied."""
    if given is not None:
        return None if str(given) == "none" else read_normalizer(given)
    found = beside(path, NORMALIZERS)
    if settings.normalize and found is None:
        raise ValueError(
            f"{path}: trained behind VecNormalize, and neither {' nor '.join(NORMALIZERS)} lies beside it; add "
            "--normalizer FILE"
        )
    if settings.normalize is False and found is not None:
        raise ValueError(
            f"{path}: {found} lies beside it, but config.yml names no normalisation; add --normalizer {found}, or "
            "--normalizer none"
        )
    return None if found is None else read_normalizer(found)


# --- the task ---------------------------------------------------------------------------------------------------------


def _fitted(policy: AnyPolicy, task: EnvConfig, archive: Archive, network: Network, wrappers: Wrappers) -> AnyPolicy:
    """Return the policy for a task; `ValueError` where it sees or does something else."""
    observation, action = spaces_of(task)
    own = own_action_space(task)
    _require_bounds(policy, archive.action, own, task)
    act, notes = wrapped(network, wrappers, episode_limit(task)), policy.notes
    if task.time_aware:
        raise ValueError(f"{policy.label}: --env.time-aware is for runs of Surefoot; leave it out")
    width = (observation.shape or (0,))[0]
    if width != wrappers.seen:
        pieces = task_versions.layout(policy.trained_on or "", wrappers.seen, width)
        if pieces is None:
            raise ValueError(_misfit(policy, wrappers.seen, task, observation))
        padded = task_versions.in_words(policy.trained_on or "", pieces)
        act, notes = Seeing(act, pieces), tuple(dict.fromkeys((*notes, padded)))
    elif len(archive.observation.shape or ()) == 3:
        act = _with_channels_first(policy, act, archive.observation.shape or (), task)
    return policy._replace(act=_plain(act), spaces=Spaces(observation, action), own_action=own, notes=notes)


def _with_channels_first(policy: AnyPolicy, act: Act, shape: tuple[int, ...], task: EnvConfig) -> Act:
    """Return a policy of pictures (C, H, W), of which the task shows a vector: its own may have the channels last."""
    env = bare_task(task)
    env.close()
    own = env.observation_space.shape
    if own == shape:
        return act
    channels, *size = shape
    if own != (*size, channels):
        raise ValueError(
            f"{policy.label}: sees pictures {shape}, but {task.id} shows {describe(env.observation_space)}"
        )
    return lambda obs: act(obs.reshape(-1, *size, channels).permute(0, 3, 1, 2).flatten(1))


class Seeing:
    """A policy that is shown the older observation, made of pieces of the newer one."""

    def __init__(self, act: Any, pieces: tuple[task_versions.Piece, ...]) -> None:
        self.act, self.pieces = act, pieces
        self.needs_rewards = False

    def __call__(self, obs: Tensor) -> Tensor:
        parts = [obs.new_zeros(len(obs), p) if isinstance(p, int) else obs[:, p[0] : p[1]] for p in self.pieces]
        seen: Tensor = self.act(torch.cat(parts, 1))
        return seen

    def reset(self) -> None:
        self.act.reset()

    def observe(self, reward: Tensor, ended: Tensor) -> None:
        self.act.observe(reward, ended)


def _plain(act: Any) -> Any:
    """Return a policy without a memory as a function: `reset` is what tells those with one."""
    return act.__call__ if isinstance(act, Seeing) and not hasattr(act.act, "reset") else act


def _require_bounds(policy: AnyPolicy, trained: gym.Space[Any], own: gym.Space[Any], task: EnvConfig) -> None:
    """Raise where the task takes other actions than the policy was trained to give."""
    same = describe(trained) == describe(own)
    if same and isinstance(trained, gym.spaces.Box) and isinstance(own, gym.spaces.Box):
        same = np.allclose(trained.low, own.low, rtol=1e-6) and np.allclose(trained.high, own.high, rtol=1e-6)
    if not same:
        raise ValueError(
            f"{policy.label}: gives actions {_bounded(trained)}, but {task.id} takes {_bounded(own)}; choose a fitting "
            "task with --env.id"
        )


def _bounded(space: gym.Space[Any]) -> str:
    if not isinstance(space, gym.spaces.Box):
        return describe(space)
    return f"{describe(space)} in [{space.low.min():g}, {space.high.max():g}]"


def _misfit(policy: AnyPolicy, seen: int, task: EnvConfig, observation: gym.Space[Any]) -> str:
    name, _ = task_versions.split(task.id)
    hint = "choose a fitting task with --env.id"
    if policy.trained_on is None and name in task_versions.SEEN:
        hint = f"if it was trained on an older version, name that: --env.id {name}-v3"
    elif (observation.shape or (0,))[0] + 1 == seen:
        hint = "one more may be a time feature, which a config.yml beside it would name"
    return f"{policy.label}: sees Box({seen},), but {task.id} shows {describe(observation)}; {hint}"


# --- the library itself -----------------------------------------------------------------------------------------------


def _by_library(path: Path, device: torch.device | str) -> tuple[Archive, Network]:
    """Return the policy as Stable-Baselines3 loads it, which runs what is stored in the archive."""
    data = read_data(path)
    name = algorithm_of(path, data)
    model = _library_class(name).load(path, device=device)
    discrete = isinstance(model.action_space, gym.spaces.Discrete)

    def act(obs: Tensor) -> Tensor:
        """The library answers in the bounds its task had; ours are [-1, 1], reached by the same affine map."""
        shown = obs.numpy(force=True).reshape(-1, *(model.observation_space.shape or ()))
        actions, _ = model.predict(shown, deterministic=True)
        if discrete:
            return torch.as_tensor(actions, device=obs.device)
        return torch.as_tensor(model.policy.scale_action(actions), dtype=torch.float32, device=obs.device)

    return Archive(name, data, {}, model.observation_space, model.action_space), act


def _library_class(name: str) -> Any:
    try:
        import sb3_contrib
        import stable_baselines3
    except ModuleNotFoundError as error:
        raise ImportError('Stable-Baselines3 is not installed: pip install "surefoot[sb3]"') from error
    return getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
