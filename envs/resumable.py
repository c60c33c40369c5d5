"""Put an episode away and take it out again, for any Gymnasium task: remember its beginning, replay its actions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


def generator_state(generator: np.random.Generator | np.random.RandomState) -> dict[str, Any]:
    """Return the state of a generator in plain values; dm_control's tasks still have the one of old."""
    if isinstance(generator, np.random.RandomState):
        state: Any = generator.get_state(legacy=False)
    else:
        state = generator.bit_generator.state
    plain: dict[str, Any] = _plain(state)
    return plain


def set_generator_state(generator: np.random.Generator | np.random.RandomState, state: dict[str, Any]) -> None:
    """Undo `generator_state`."""
    if isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.bit_generator.state = state


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


class NotReproducibleError(ValueError):
    """A task did not come back to its state when its episode was replayed."""


class Resumable(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Gives a task an `episode_state` that can be read, and assigned to a fresh copy of the same task.

    Gymnasium tasks cannot save themselves, and a MuJoCo state vector is not enough (warm starts, derived forces, clocks
    of wrappers). But a task is a function of how its episode began and the actions since, so these are recorded and
    replayed. The price is a replay of the current episode when a run is resumed. A property, not a pair of methods,
    because `set_attr` of Gymnasium's vector environments is the one call that sends every sub-environment its own
    value. A state with `fresh` true only puts the task's generator back: the next call is a reset.
    """

    def __init__(self, env: gym.Env):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._begin: dict[str, Any] | None = None
        self._uncertain = env.has_wrapper_attr("next_params")  # `WithParameters` is inside
        self._disturbed = self._uncertain and env.get_wrapper_attr("disturbance_state") is not None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        generator = generator_state(self.np_random) if seed is None else None
        self._begin = {"seed": seed, "generator": generator, "options": options}
        if self._disturbed:
            self._begin["disturbance"] = self.env.get_wrapper_attr("disturbance_state")
        self._actions: list[np.ndarray] = []
        self._obs, info = self.env.reset(seed=seed, options=options)
        self._params = [self.env.get_wrapper_attr("params").copy()] if self._uncertain else []
        return self._obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._actions.append(np.array(action))  # a copy: the caller may reuse its array
        if self._uncertain:
            self._params.append(self.env.get_wrapper_attr("params").copy())
        self._obs, reward, terminated, truncated, info = self.env.step(action)
        return self._obs, reward, terminated, truncated, info

    @property
    def episode_state(self) -> dict[str, Any] | None:
        """How the episode began, `actions` (T, …) since, and what to check a replay against: `obs`, `generator_now`.

        With parameters, `params` (T + 1, d): at the reset and in each step; with noise and the like `disturbance` and
        `disturbance_now`, states of their generator. None before the first reset.
        """
        if self._begin is None:
            return None
        return {
            **self._begin,
            "actions": np.array(self._actions),
            **({"params": np.array(self._params)} if self._uncertain else {}),
            "obs": np.array(self._obs),
            "generator_now": generator_state(self.np_random),
            **({"disturbance_now": self.env.get_wrapper_attr("disturbance_state")} if self._disturbed else {}),
        }

    @episode_state.setter
    def episode_state(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        if state.get("fresh"):  # no action is repeated: the task may be hardware
            set_generator_state(self.np_random, state["generator_now"])
            if self._disturbed:
                self.env.set_wrapper_attr("disturbance_state", state["disturbance_now"])
            return
        if state["generator"] is not None:
            set_generator_state(self.np_random, state["generator"])
        if self._disturbed:
            self.env.set_wrapper_attr("disturbance_state", state["disturbance"])
        params = state["params"] if self._uncertain else [None] * (len(state["actions"]) + 1)
        if self._uncertain:
            self.env.set_wrapper_attr("next_params", params[0])
        self.reset(seed=state["seed"], options=state["options"])
        for action, values in zip(state["actions"], params[1:], strict=True):
            if self._uncertain and not np.array_equal(values, self._params[-1]):
                self.env.set_wrapper_attr("params", values)
            self.step(action)
        same_obs = np.array(self._obs).tobytes() == state["obs"].tobytes()
        if not (same_obs and generator_state(self.np_random) == state["generator_now"]):
            raise NotReproducibleError(
                f"{self.spec.id if self.spec else self.env}: replaying the episode gave another state, so this task is "
                "not reproducible (it draws from a generator that is not its np_random, or its version or settings "
                "changed); --resume-episodes fresh begins new episodes instead"
            )
