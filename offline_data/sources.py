"""From a source string to transitions that fit a task."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from surefoot.offline_data.d4rl import View, read_d4rl, require_limit
from surefoot.offline_data.download import cached_file
from surefoot.offline_data.minari_io import read_minari
from surefoot.offline_data.transitions import ROUNDING, Transitions

BEHAVIOUR = "behaviour:"  # before a number of episodes, which the task's own behaviour policy records for a run


@dataclass(frozen=True)
class DataConfig:
    """Which recorded transitions to learn from."""

    source: str | None = None
    """Data set: a D4RL .hdf5 file, a Minari folder, d4rl:NAME, minari:ID, sample:NAME or behaviour:EPISODES."""
    fraction: float = 1.0
    """Fraction of the transitions to use: a uniform sample, drawn with the run's seed."""
    view: View = "exact"
    """D4RL files: `exact` keeps only transitions with their true successor, `qlearning` is D4RL's own conversion
    (docs/guides/data.md)."""
    max_episode_steps: int | None = None
    """Time limit of the recorded task; needed for D4RL files without a timeouts array, or where it names none."""
    clip_actions: bool = False
    """Clip actions to [-1, 1]; otherwise actions out of bounds by more than 0.001 are an error."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"--data.fraction is {self.fraction}; it must be in (0, 1]")
        require_limit(self.max_episode_steps, "--data.max-episode-steps")


def load(source: str | Path, *, view: View = "exact", max_episode_steps: int | None = None) -> Transitions:
    """Return the transitions of a source: a D4RL .hdf5, a Minari folder, or "d4rl:NAME", "minari:ID", "sample:NAME".

    `view` and `max_episode_steps` are for D4RL files only (see `surefoot.offline_data.d4rl`): `ValueError` with others.
    """
    source = str(source)
    if is_minari(source):
        if view != "exact" or max_episode_steps is not None:
            raise ValueError(f"{source}: a view and a limit of steps are for D4RL files alone; leave them out")
        return read_minari(source.removeprefix("minari:"))
    return replace(read_d4rl(d4rl_path(source), view=view, max_episode_steps=max_episode_steps), source=source)


def is_minari(source: str | Path) -> bool:
    """Return whether a source names a Minari data set: "minari:ID" or a folder."""
    return str(source).startswith("minari:") or Path(source).is_dir()


def d4rl_path(source: str) -> Path:
    """Return the D4RL file behind a path, "d4rl:NAME" or "sample:NAME"."""
    kind, _, name = source.partition(":")
    finders: dict[str, Callable[[str], Path]] = {"d4rl": cached_file, "sample": sample_file}
    return finders[kind](name) if kind in finders else Path(source)


def sample_file(name: str) -> Path:
    """Return the path of a packaged sample; `ValueError` lists them."""
    if name not in sample_names():
        raise ValueError(f"unknown sample {name!r}; packaged are: {', '.join(sample_names()) or 'none'}")
    return _samples() / f"{name}.hdf5"


def sample_names() -> list[str]:
    """Return the names of the packaged samples."""
    return sorted(path.stem for path in _samples().glob("*.hdf5"))


def _samples() -> Path:
    return Path(str(importlib.resources.files("surefoot.offline_data.samples")))


def load_for(
    config: DataConfig, observation_space: gym.spaces.Space[Any], action_space: gym.spaces.Space[Any], *, seed: int
) -> Transitions:
    """Return the configured transitions, checked against the spaces an agent sees; bounded actions are in [-1, 1]."""
    if config.source is None:
        raise ValueError("no data given; set --data.source, for example --data.source sample:halfcheetah-demo")
    data = load(config.source, view=config.view, max_episode_steps=config.max_episode_steps)
    data = _with_times(data, observation_space)
    _check_dimensions(data, observation_space, action_space)
    if isinstance(action_space, gym.spaces.Discrete):
        _check_discrete(data, action_space)
    if isinstance(action_space, gym.spaces.Box) and action_space.is_bounded():
        data = _bounded_actions(data, clip=config.clip_actions)
    elif config.clip_actions:
        raise ValueError(f"{data.source}: --data.clip-actions has no effect on actions {action_space}; leave it out")
    return data.subsample(config.fraction, torch.Generator().manual_seed(seed))


def _with_times(data: Transitions, space: gym.spaces.Space[Any]) -> Transitions:
    """Return the data with the step since the reset as last coordinate, where only the task's observations have it.

    It is counted from the starts of the episodes; `ValueError` where rows are missing inside one.
    """
    if not isinstance(space, gym.spaces.Box) or space.shape != (data.obs.shape[1] + 1,):
        return data
    if not (space.low[-1] == 0 and space.high[-1] == float("inf")):  # as `time_aware_space` makes it
        return data
    if bool((broken := data.breaks()).any()):
        raise ValueError(
            f"{data.source}: the step cannot be counted for --env.time-aware: rows are missing after row "
            f"{int(broken.int().argmax())}, inside an episode; record the data with --env.time-aware"
        )
    row = torch.arange(len(data), device=data.obs.device)
    starts = torch.cat([row.new_zeros(1), data.episode_end[:-1].nonzero()[:, 0] + 1])
    step = (row - starts[data.episode_index()])[:, None].to(data.obs.dtype)
    obs, next_obs = torch.cat([data.obs, step], 1), torch.cat([data.next_obs, step + 1], 1)
    return replace(data, obs=obs, next_obs=next_obs)


def _check_dimensions(
    data: Transitions, observation_space: gym.spaces.Space[Any], action_space: gym.spaces.Space[Any]
) -> None:
    found = (tuple(data.obs.shape[1:]), tuple(data.action.shape[1:]))
    discrete = isinstance(action_space, gym.spaces.Discrete)
    wanted = (observation_space.shape, (1,) if discrete else action_space.shape)
    if found != wanted:
        raise ValueError(
            f"{data.source}: observations {found[0]} and actions {found[1]}, "
            f"but the environment has {wanted[0]} and {wanted[1]}; choose data recorded in this task"
        )


def _check_discrete(data: Transitions, space: gym.spaces.Discrete) -> None:
    """Refuse actions that are not numbers of the space."""
    last = int(space.start + space.n) - 1
    wrong = (data.action != data.action.round()) | (data.action < int(space.start)) | (data.action > last)
    if bool(wrong.any()):
        row = int(wrong.squeeze(1).nonzero()[0])
        raise ValueError(
            f"{data.source}: the action of row {row} is {data.action[row, 0]:g}, but the environment has actions "
            f"{space.start} to {last}; choose data recorded in this task"
        )


def _bounded_actions(data: Transitions, *, clip: bool) -> Transitions:
    """Return the data with actions in [-1, 1] (H2O clips at loading); refuse what rounding does not explain."""
    lowest, highest = data.action.aminmax()
    if lowest >= -1 and highest <= 1:
        return data
    excess = data.action.abs().amax(1) - 1
    outside, worst = int((excess > ROUNDING).sum()), int(excess.argmax())
    if outside and not clip:
        row = data.action[worst].tolist()
        raise ValueError(
            f"{data.source}: {outside} of {len(data)} actions leave [-1, 1], the worst by {excess[worst]:.3g} "
            f"(row {worst}: {[round(value, 3) for value in row]}); "
            "rescale them if they are in the task's own units, or set --data.clip-actions"
        )
    data.action.clamp_(-1, 1)  # in place: it was read for this
    return data
