"""What is in a data set and what is wrong with it: every check runs, also on a file that no reader would accept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from surefoot.offline_data.d4rl import REQUIRED, read_arrays, read_metadata, require_limit, settled_timeouts
from surefoot.offline_data.minari_io import open_minari, read_minari_arrays, reference_scores, unit_actions
from surefoot.offline_data.scores import d4rl_references, scale_score
from surefoot.offline_data.sources import d4rl_path, is_minari
from surefoot.offline_data.transitions import ROUNDING, are_numbers, squeeze_column

AT_BOUND = 0.999  # an action coordinate beyond this in magnitude counts as saturated
NEARLY_ALL = 0.9  # of the episode ends


@dataclass(frozen=True)
class Health:
    """A report: plain values that go to JSON as they are."""

    source: str
    facts: dict[str, Any] = field(default_factory=dict)
    """Statistics by name; `None` where they cannot be computed."""
    problems: list[str] = field(default_factory=list)
    """Why the data cannot be used, or would teach something wrong."""
    notes: list[str] = field(default_factory=list)
    """Worth knowing, not wrong."""


def check_health(
    source: str | Path,
    *,
    observation_space: gym.spaces.Space[Any] | None = None,
    action_space: gym.spaces.Space[Any] | None = None,
    env_id: str | None = None,
    max_episode_steps: int | None = None,
) -> Health:
    """Return the report of a source as `load` takes it; spaces, if given, are those the data should fit.

    Scores use `env_id`, else the task named in the file or by "d4rl:NAME"; a Minari set is scored by its own
    references only. Raises only when there is nothing to look at: no such file, not HDF5; or for a time limit below 1.
    """
    require_limit(max_episode_steps, "max_episode_steps")
    report = Health(str(source))
    references: tuple[float, float] | None
    own_space: gym.spaces.Space[Any] | None = None
    if is_minari(source):
        dataset = open_minari(str(source).removeprefix("minari:"))
        arrays = read_minari_arrays(dataset)
        arrays["actions"] = unit_actions(arrays["actions"], dataset.action_space)
        own_space = dataset.action_space
        action_space = action_space or _discrete(own_space)
        references = reference_scores(dataset)
    else:
        path = d4rl_path(str(source))
        arrays, metadata = read_arrays(path), read_metadata(path)
        report.facts["metadata"] = metadata
        references = d4rl_references(env_id or metadata.get("env_id") or str(source).removeprefix("d4rl:"))
    examine(
        arrays, report, max_episode_steps, discrete=_is_discrete(own_space if action_space is None else action_space)
    )
    _spaces(arrays, report, observation_space, action_space)
    returns = report.facts.get("return")
    score = scale_score(returns["mean"], *references) if references and returns else None
    report.facts["normalized_score"] = None if score is None else float(score)
    return report


def _discrete(space: gym.spaces.Space[Any]) -> gym.spaces.Discrete | None:
    return space if isinstance(space, gym.spaces.Discrete) else None


def _is_discrete(space: gym.spaces.Space[Any] | None) -> bool | None:
    """Whether actions of a space are numbers of choices; None where it is not known, or neither Box nor Discrete."""
    return isinstance(space, gym.spaces.Discrete) if isinstance(space, gym.spaces.Discrete | gym.spaces.Box) else None


def examine(
    arrays: Mapping[str, np.ndarray],
    report: Health,
    max_episode_steps: int | None = None,
    *,
    discrete: bool | None = None,
) -> None:
    """Add to the report what the rows show; `arrays` are under D4RL's names, in any state.

    Actions are numbers of a Discrete space where `discrete` says so; None: where they are one column of whole numbers.
    """
    rows = _common_rows(arrays, report)
    if not rows:
        return
    _values(rows, report)
    if "actions" in rows and (are_numbers(rows["actions"]) if discrete is None else discrete):
        _numbers(squeeze_column(rows["actions"]), report)
    elif "actions" in rows:
        _actions(rows["actions"], report)
    ends = _flags(rows, report, max_episode_steps)
    if ends is not None and "rewards" in rows:
        _episodes(squeeze_column(rows["rewards"]), ends, report)
    if ends is not None and {"observations", "next_observations"} <= set(rows):
        _continuity(rows["observations"], rows["next_observations"], ends, report)
    if {"observations", "actions"} <= set(rows):
        _duplicates(rows["observations"], rows["actions"], report)


def _common_rows(arrays: Mapping[str, np.ndarray], report: Health) -> dict[str, np.ndarray]:
    """Return the arrays cut to their common length, having reported keys, shapes and lengths."""
    report.facts["arrays"] = {name: f"{values.shape} {values.dtype}" for name, values in arrays.items()}
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        report.problems.append(f"missing arrays: {', '.join(missing)}")
    if "next_observations" not in arrays:
        report.notes.append("no next_observations: successors come from the following row, episode ends are dropped")
    lengths = {name: len(np.atleast_1d(values)) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        report.problems.append(f"arrays differ in length: {', '.join(f'{k} {v}' for k, v in lengths.items())}")
    n = min(lengths.values(), default=0)
    report.facts["steps"] = n
    if n == 0:
        report.problems.append("no transitions in it")
        return {}
    for name in ("observations", "actions", "next_observations"):
        if name in arrays and arrays[name].ndim != 2 and not (name == "actions" and are_numbers(arrays[name])):
            report.problems.append(f"{name} must have shape (N, D), has {arrays[name].shape}")
    usable = {k: v for k, v in arrays.items() if v.ndim == 2 or squeeze_column(v).ndim == 1}
    return {name: values[:n] for name, values in usable.items()}


def _values(rows: Mapping[str, np.ndarray], report: Health) -> None:
    report.facts["nan"] = report.facts["infinite"] = 0
    for name, values in rows.items():
        nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        report.facts["nan"] += nan
        report.facts["infinite"] += infinite
        if nan or infinite:
            first = int(np.argwhere(~np.isfinite(values))[0][0])
            report.problems.append(f"{name}: {nan} NaN and {infinite} infinite values, the first in row {first}")


def _numbers(actions: np.ndarray, report: Health) -> None:
    """Report how often each action of a Discrete space was taken."""
    values, counts = np.unique(actions[np.isfinite(actions)], return_counts=True)
    report.facts["action_counts"] = {f"{value:g}": int(count) for value, count in zip(values, counts, strict=True)}
    if wrong := int((values != np.round(values)).sum()):
        report.problems.append(f"actions: {wrong} different values are not whole numbers, but the space is Discrete")


def _actions(actions: np.ndarray, report: Health) -> None:
    size = np.abs(actions[np.isfinite(actions).all(1)]) if actions.ndim == 2 else np.zeros((0, 1))
    if not size.size:
        return
    outside, worst = int((size.max(1) > 1).sum()), float(size.max())
    report.facts["action_at_bounds"] = float((size >= AT_BOUND).mean())
    report.facts["action_out_of_bounds"] = outside
    report.facts["action_largest"] = worst
    if worst > 1 + ROUNDING:
        report.problems.append(f"actions: {outside} rows leave [-1, 1], the largest magnitude is {worst:.4g}")
    elif outside:
        report.notes.append(
            f"actions: {outside} rows leave [-1, 1] by rounding (at most {worst - 1:.2g}); clipped at load"
        )


def _flags(rows: Mapping[str, np.ndarray], report: Health, max_episode_steps: int | None) -> np.ndarray | None:
    """Return (N,) bool last rows of episodes, or None where the flags do not show them; report on the flags."""
    flags = {name: squeeze_column(rows[name]) for name in ("terminals", "timeouts") if name in rows}
    for name, values in flags.items():
        wrong = int(((values != 0) & (values != 1)).sum())
        if wrong:
            report.problems.append(f"{name}: {wrong} values are neither 0 nor 1")
        flags[name] = values == 1
        report.facts[name] = int(flags[name].sum())
    if "timeouts" not in flags and max_episode_steps is None:
        report.problems.append("no timeouts: episode ends are unknown; give --max-episode-steps")
    if "terminals" not in flags or ("timeouts" not in flags and max_episode_steps is None):
        return None
    terminals = flags["terminals"]
    timeouts = _ends_by_time(terminals, flags.get("timeouts"), max_episode_steps, report)
    report.facts["both_flags"] = int((terminals & timeouts).sum())
    if report.facts["both_flags"]:
        report.notes.append(f"{report.facts['both_flags']} rows are terminal and time-out at once; read as terminal")
    ends = rows["episode_ends"].copy() if "episode_ends" in rows else terminals | timeouts
    report.facts["cut_last_episode"] = bool(not (terminals | timeouts)[-1])
    if report.facts["cut_last_episode"]:
        report.notes.append("the last episode is cut: its final row has neither flag")
    ends[-1] = True
    return ends


def _ends_by_time(
    terminals: np.ndarray, stored: np.ndarray | None, max_episode_steps: int | None, report: Health
) -> np.ndarray:
    try:
        return settled_timeouts(terminals, stored, max_episode_steps)
    except ValueError as error:
        if stored is None:
            raise
        report.problems.append(str(error))
        return stored


def _episodes(rewards: np.ndarray, ends: np.ndarray, report: Health) -> None:
    """Report returns and lengths; a cut last episode counts for lengths only if it is the only one."""
    last = np.flatnonzero(ends)
    first = np.append(0, last[:-1] + 1)
    returns, lengths = np.add.reduceat(rewards.astype(np.float64), first), last - first + 1
    report.facts["episodes"] = len(lengths)
    if report.facts["cut_last_episode"] and len(lengths) > 1:
        returns, lengths = returns[:-1], lengths[:-1]
    returns = returns[np.isfinite(returns)]
    report.facts["length"] = _summary(lengths)
    report.facts["return"] = _summary(returns)


def _summary(values: np.ndarray) -> dict[str, float] | None:
    if not values.size:
        return None
    mean, std, low, high = values.mean(), values.std(), values.min(), values.max()
    return {"mean": float(mean), "std": float(std), "min": float(low), "max": float(high)}


def _continuity(obs: np.ndarray, next_obs: np.ndarray, ends: np.ndarray, report: Health) -> None:
    if obs.shape != next_obs.shape:
        report.problems.append(f"observations {obs.shape} and next_observations {next_obs.shape} differ in shape")
        return
    same = (next_obs[:-1] == obs[1:]).reshape(len(obs) - 1, -1).all(1)
    inside = ~ends[:-1]
    report.facts["discontinuities"] = jumps = int((inside & ~same).sum())
    if jumps:
        first = int(np.flatnonzero(inside & ~same)[0])
        report.problems.append(
            f"{jumps} rows inside an episode whose next_observations is not the next row's observation "
            f"(first in row {first}): episode ends are missing, or rows are shuffled"
        )
    _crossings(same, np.flatnonzero(ends[:-1]), obs, report)


def _crossings(same: np.ndarray, last: np.ndarray, obs: np.ndarray, report: Health) -> None:
    """Report the last rows of episodes whose successor is the next episode's first observation.

    Where first observations vary, at nearly all ends, the successors were made by shifting the observations. Otherwise
    they may be right: an episode can end where the next begins.
    """
    report.facts["crossings"] = crossings = int(same[last].sum())
    if not crossings:
        return
    first = obs[np.append(0, last + 1)]
    said = f"{crossings} of {len(last)} last rows of episodes hold the next episode's first observation as successor"
    if crossings >= NEARLY_ALL * len(last) and bool((first != first[0]).any()):
        report.problems.append(f"{said}: next_observations was made by shifting observations")
    else:
        report.notes.append(f"{said}, which is right only where episodes can end there")


def _duplicates(obs: np.ndarray, actions: np.ndarray, report: Health) -> None:
    actions = actions[:, None] if actions.ndim == 1 else actions
    if obs.ndim != 2 or actions.ndim != 2:
        return
    rows = np.ascontiguousarray(np.concatenate([obs, actions], axis=1, dtype=np.float32))
    distinct = len(np.unique(rows.view(f"V{rows.strides[0]}")))
    report.facts["duplicates"] = len(rows) - distinct
    if report.facts["duplicates"]:
        report.notes.append(f"{report.facts['duplicates']} rows repeat an earlier (observation, action)")


def _spaces(
    arrays: Mapping[str, np.ndarray],
    report: Health,
    observation_space: gym.spaces.Space[Any] | None,
    action_space: gym.spaces.Space[Any] | None,
) -> None:
    for name, space in (("observations", observation_space), ("actions", action_space)):
        if space is None or name not in arrays:
            continue
        if isinstance(space, gym.spaces.Discrete) and name == "actions":
            _fit_numbers(squeeze_column(arrays[name]), space, report)
            continue
        found = arrays[name].shape[1:]
        report.facts[f"{name}_fit_environment"] = found == space.shape
        if found != space.shape:
            report.problems.append(f"{name} have shape {found}, the environment's have {space.shape}")
        elif isinstance(space, gym.spaces.Box) and name == "observations":
            outside = int(((arrays[name] < space.low) | (arrays[name] > space.high)).any(1).sum())
            if outside:
                report.problems.append(f"observations: {outside} rows leave the environment's bounds")


def _fit_numbers(actions: np.ndarray, space: gym.spaces.Discrete, report: Health) -> None:
    """Report whether actions are numbers of a Discrete space."""
    first, last = int(space.start), int(space.start + space.n) - 1
    outside = int(((actions < first) | (actions > last)).sum()) if actions.ndim == 1 else len(actions)
    report.facts["actions_fit_environment"] = outside == 0
    if outside:
        report.problems.append(f"actions: {outside} rows are not among the environment's numbers {first} to {last}")
