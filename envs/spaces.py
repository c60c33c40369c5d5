"""Spaces as agents take them: one vector of numbers in, one vector or one number out, by Gymnasium's own wrappers.

Nothing is changed unasked. A task that shows or takes something else is refused with a line that names what helps: a
flag (`env.flatten`, `env.action_bound`), or a wrapper of the user's.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.wrappers import FlattenObservation, TransformAction, TransformObservation

from surefoot.envs.config import EnvConfig
from surefoot.envs.finite import as_float32

BOUNDLESS = 1e9  # what some libraries write for a bound that there is not; dm_control has 1e10
MOST_COMBINATIONS = 1_000  # of actions that are numbered: a network has an output for each


def is_vector(space: gym.Space[Any]) -> bool:
    """Whether a space is a one-dimensional Box."""
    return isinstance(space, Box) and len(space.shape) == 1


def describe(space: gym.Space[Any]) -> str:
    """Return a space in few words and one line; Gymnasium's own text holds every bound.

    Only spaces of the same words can fit one another: where numbers begin is among them, where not at 0.
    """
    match space:
        case Dict():
            return f"Dict({', '.join(f'{name}: {describe(part)}' for name, part in space.items())})"
        case Tuple():
            return f"Tuple({', '.join(map(describe, space))})"
        case Box():
            return f"Box{space.shape}"
        case Discrete():
            return f"Discrete({space.n}{_beginning(space.start)})"
        case MultiDiscrete():
            return f"MultiDiscrete({space.nvec.tolist()}{_beginning(space.start)})"
        case MultiBinary():
            return f"MultiBinary({space.n})"
    return type(space).__name__


def _beginning(start: Any) -> str:
    return f", start={np.asarray(start).tolist()}" if np.any(start) else ""


def require_vectors(observation: gym.Space[Any], action: gym.Space[Any], config: EnvConfig) -> None:
    """Raise `ValueError` where a batched tensor task does not have the spaces it must write itself."""
    if not is_vector(observation):
        raise ValueError(f"{config.id}: a batched tensor task shows a one-dimensional Box, not {describe(observation)}")
    if not (is_vector(action) or isinstance(action, Discrete)):
        raise ValueError(f"{config.id}: a batched tensor task takes vectors or Discrete, not {describe(action)}")
    if config.action_bound is not None:
        raise ValueError(f"{config.id}: takes actions as they are; leave --env.action-bound out")


# --- observations -----------------------------------------------------------------------------------------------------


def vector_observations(env: gym.Env, flatten: bool, task: str) -> gym.Env:
    """Return the task with observations that are one vector; those that are not are flattened if asked.

    Raises:
        ValueError: observations that are no vector, and what makes one of them.
    """
    space = env.observation_space
    if is_vector(space):
        return env
    if not _of_numbers(space):
        raise ValueError(
            f"{task}: observations are {describe(space)}, and agents see numbers; register the task behind a "
            "gymnasium.ObservationWrapper that makes a Box of them"
        )
    if not flatten:
        raise ValueError(f"{task}: observations are {describe(space)}; add --env.flatten for {_vector_of(space)}")
    return FlattenObservation(env)


def float32_observations(env: gym.Env) -> gym.Env:
    """Return the task with its vectors in float32."""
    space = env.observation_space
    assert isinstance(space, Box)
    if space.dtype == np.float32:
        return env
    # Not Gymnasium's DtypeObservation: it warns about the very conversion that it is for.
    bounds = as_float32(space.low), as_float32(space.high)
    return TransformObservation(env, as_float32, Box(*bounds))


def _vector_of(space: gym.Space[Any]) -> str:
    one_hot = "one-hot " if isinstance(space, Discrete | MultiDiscrete) else ""
    return f"one {one_hot}vector of {gym.spaces.flatdim(space)} numbers"


def _of_numbers(space: gym.Space[Any]) -> bool:
    """Whether a space holds a fixed number of numbers, whatever is around them."""
    if isinstance(space, Dict):
        return all(map(_of_numbers, space.values()))
    if isinstance(space, Tuple):
        return all(map(_of_numbers, space))
    return isinstance(space, Box | Discrete | MultiDiscrete | MultiBinary)


# --- actions ----------------------------------------------------------------------------------------------------------


def vector_actions(env: gym.Env, flatten: bool, bound: float | None, task: str) -> gym.Env:
    """Return the task with actions that are one vector within bounds, or one number; in its own units.

    Raises:
        ValueError: actions that are neither, and what makes one of them.
    """
    space = env.action_space
    if not (is_vector(space) or isinstance(space, Discrete)):
        env = _flat_actions(env, flatten, task)
    return env if bound is None else _within(env, bound, task)


def require_bounds(space: Box, task: str) -> None:
    """Raise `ValueError` where [-1, 1], scaled to the bounds of the actions, would not give what the task takes."""
    if not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            f"{task}: actions are {describe(space)} of whole numbers; register the task behind a "
            "gymnasium.ActionWrapper that takes floats and rounds them, or a Discrete"
        )
    if (same := np.argwhere(space.low == space.high)).size:
        place = tuple(same[0].tolist())
        raise ValueError(
            f"{task}: actions are {describe(space)}, whose coordinate {place[0]} can only be {space.low[place]:g}; "
            "register the task behind a gymnasium.ActionWrapper that fills it in"
        )
    if not bool((np.abs([space.low, space.high]) < BOUNDLESS).all()):
        raise ValueError(
            f"{task}: actions are {describe(space)} without finite bounds; add --env.action-bound B, for ±B"
        )


def _flat_actions(env: gym.Env, flatten: bool, task: str) -> gym.Env:
    space = env.action_space
    number = _combinations(space)
    if not (_of_boxes(space) or 0 < number <= MOST_COMBINATIONS):
        raise ValueError(f"{task}: actions are {describe(space)}; {_wrapper_for(number)}")
    if not flatten:
        wanted = f"one number for each of the {number} combinations" if number else _vector_of(space)
        raise ValueError(f"{task}: actions are {describe(space)}; add --env.flatten for {wanted}")
    if isinstance(space, MultiDiscrete | MultiBinary):
        return TransformAction(env, partial(_combination, space), Discrete(number))
    return TransformAction(env, partial(gym.spaces.unflatten, space), gym.spaces.flatten_space(space))


def _wrapper_for(number: int) -> str:
    if number:
        return (
            f"these are {number} combinations, and --env.flatten numbers up to {MOST_COMBINATIONS}; register the task "
            "behind a gymnasium.ActionWrapper with fewer"
        )
    return "register the task behind a gymnasium.ActionWrapper that takes a Box or a Discrete"


def _of_boxes(space: gym.Space[Any]) -> bool:
    if isinstance(space, Dict):
        return all(map(_of_boxes, space.values()))
    if isinstance(space, Tuple):
        return all(map(_of_boxes, space))
    return isinstance(space, Box)


def _combinations(space: gym.Space[Any]) -> int:
    """Return how many actions there are, 0 for a space without a finite number of them that are arrays."""
    return math.prod(_sizes(space).ravel().tolist()) if isinstance(space, MultiDiscrete | MultiBinary) else 0


def _sizes(space: MultiDiscrete | MultiBinary) -> np.ndarray:
    sizes: np.ndarray = np.full(space.shape, 2) if isinstance(space, MultiBinary) else space.nvec
    return sizes


def _combination(space: MultiDiscrete | MultiBinary, number: Any) -> np.ndarray:
    """Return the action of a number: the last choice changes fastest."""
    sizes, start = _sizes(space), 0 if isinstance(space, MultiBinary) else space.start
    chosen = np.reshape(np.unravel_index(int(number), sizes.ravel()), sizes.shape)
    return (chosen + start).astype(space.dtype)


def _within(env: gym.Env, bound: float, task: str) -> gym.Env:
    """Return the task with bounds of at most `bound`; actions are handed on as they are."""
    space = env.action_space
    if not isinstance(space, Box):
        raise ValueError(f"{task}: actions are {describe(space)}; leave --env.action-bound out, it is for Box actions")
    low, high = np.maximum(space.low, -bound), np.minimum(space.high, bound)
    if bool((low >= high).any()):
        raise ValueError(f"{task}: no action of {space} is within --env.action-bound {bound:g}; raise it")
    if np.array_equal(low, space.low) and np.array_equal(high, space.high):
        raise ValueError(f"{task}: its actions have smaller bounds than --env.action-bound {bound:g}; leave it out")
    return TransformAction(env, _unchanged, Box(low, high, dtype=space.dtype.type))


def _unchanged(action: np.ndarray) -> np.ndarray:
    return action
