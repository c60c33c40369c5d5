"""What lies between a policy and its task, of one environment: delay, pushes, sensors, and when parameters change.

The order in a step: the parameters in force, the command (delay), the push, the task, the sensors (bias, noise, drop).
Random numbers come from a generator of their own, one stream a purpose, so that no disturbance shifts the draws of
another, or of the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import gymnasium as gym
import mujoco
import numpy as np

from surefoot.envs.model_parameters import find_object, round_half_up
from surefoot.envs.quantities import EVERYTHING, SENSOR_FIELDS, WHOLE_EPISODE, is_signal
from surefoot.envs.resumable import generator_state, set_generator_state

TAG = 0x5F007  # sets these generators apart from a task's, which has the same seed
NOISE, DROP, PUSHES, WALK = range(4)
TIMING = ("onset", "duration", "walk")  # they say when the others change, and do not change themselves
NEUTRAL = {"push_rate": 0.01, "duration": float(WHOLE_EPISODE)}  # the others: 0; frame_skip: the task's own


_HELD = ("given", "untimed", "active", "step", "walked", "commands", "shown", "in_force")  # of a running episode


class Sensors(NamedTuple):
    """Noise or bias on some coordinates of the observation."""

    column: int  # of the vector of parameters
    rows: np.ndarray  # coordinates


class Layout:
    """Where the signals of a task are in the vector of parameters, and what they act on; shared by its environments.

    Raises:
        ValueError: a sensor or a body that the task does not have, or a kind of space that a signal cannot act on.
    """

    def __init__(self, env: gym.Env, names: Sequence[str], low: np.ndarray, high: np.ndarray, clock: bool):
        self.at = {name: k for k, name in enumerate(names) if is_signal(name)}
        self.low, self.high = low, high
        self.space = env.action_space
        sensors = {name: k for name, k in self.at.items() if name.partition(".")[0] in SENSOR_FIELDS}
        rows = {name: _coordinates(env, name, clock) for name in sensors}
        self.noise, self.bias = (
            [Sensors(k, rows[name]) for name, k in sensors.items() if name.startswith(f"{field}.")]
            for field in ("sensor_noise", "sensor_bias")
        )
        self.clock, self.sensing = clock, bool(self.noise or self.bias or "sensor_drop" in self.at)
        self.pushes = [(k, _body(env, name)) for name, k in self.at.items() if name.startswith("push.")]
        self.neutral = np.array([_neutral(env, name) if name in self.at else np.nan for name in names])
        self.timed = np.array([name not in TIMING for name in names])  # what changes within an episode

    def active(self, values: np.ndarray) -> bool:
        """Whether a vector of parameters does anything here; where it does not, nothing is called in a step."""
        return any(values[k] != self.neutral[k] for name, k in self.at.items() if name != "push_rate")


class Signals:
    """The signals of one environment: `begin` an episode, then `advance`, `command`, `push`, `sense` in every step."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.generator = np.random.default_rng()

    def seed(self, seed: int) -> None:
        self.generator = np.random.default_rng([TAG, seed])

    def begin(self, values: np.ndarray, untimed: np.ndarray) -> None:
        """Begin an episode with the parameters (D,) that it is given, and those of before its onset."""
        episode = int(self.generator.integers(2**63))
        self.streams = [np.random.default_rng([episode, purpose]) for purpose in range(4)]
        self.given, self.untimed, self.active = values, untimed, self.layout.active(values)
        self.step, self.walked = -1, np.zeros(len(values))
        self.commands: list[Any] = []
        self.shown: np.ndarray | None = None
        self.in_force = self._at_step(0)

    def advance(self) -> bool:
        """Begin a step; return whether the parameters in force are others than before."""
        self.step += 1
        before, walk = self.in_force, self._value("walk", self.given)
        if walk and self._first() < self.step < self._last():
            span = self.layout.high - self.layout.low
            self.walked += walk * span * self.streams[WALK].standard_normal(len(span))
        self.in_force = self._at_step(self.step)
        return not np.array_equal(before, self.in_force)

    def change(self, values: np.ndarray) -> None:
        """Take other parameters (D,) in the middle of an episode."""
        self.given = values
        self.active |= self.layout.active(values)
        self.in_force = self._at_step(max(self.step, 0))

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of an episode, and those after it, depend on."""
        streams = [generator_state(stream) for stream in getattr(self, "streams", [])]
        held = {name: deepcopy(getattr(self, name, None)) for name in _HELD}
        return {"generator": generator_state(self.generator), "streams": streams, **held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        set_generator_state(self.generator, state["generator"])
        self.streams = [np.random.default_rng() for _ in state["streams"]]
        for stream, saved in zip(self.streams, state["streams"], strict=True):
            set_generator_state(stream, saved)
        for name in _HELD:
            setattr(self, name, state[name])

    def _value(self, name: str, values: np.ndarray) -> float:
        k = self.layout.at.get(name)
        return NEUTRAL.get(name, 0.0) if k is None else float(values[k])

    def _first(self) -> int:
        return round_half_up(self._value("onset", self.given))

    def _last(self) -> int:
        """Return the first step after the duration."""
        return self._first() + round_half_up(self._value("duration", self.given))

    def _at_step(self, step: int) -> np.ndarray:
        """Return the parameters of a step: nominal before the onset and after the duration, else as given, walking."""
        layout = self.layout
        if not self._first() <= step < self._last():
            return np.where(layout.timed, self.untimed, self.given)
        walking = layout.timed & (self.walked != 0.0)
        if not walking.any():
            return self.given
        return np.where(walking, folded(self.given + self.walked, layout.low, layout.high), self.given)

    def command(self, action: Any) -> Any:
        """Return the action that is executed in this step: the one of `control_delay` steps before.

        Until the first arrives: the middle of the bounds, or where actions are numbers the first one.
        """
        if "control_delay" not in self.layout.at:
            return action
        self.commands.append(np.array(action))
        delay = round_half_up(self._value("control_delay", self.in_force))
        if delay == 0:
            return action
        if delay < len(self.commands):
            return self.commands[-1 - delay]
        space = self.layout.space
        return middle(space) if isinstance(space, gym.spaces.Box) else self.commands[0]

    def frame_skip(self, own: int) -> int:
        """Return the physics steps of this control step."""
        at = self.layout.at.get("frame_skip")
        return own if at is None else round_half_up(self.in_force[at])

    def push(self, data: mujoco.MjData, seconds: float) -> list[tuple[int, np.ndarray]]:
        """Push bodies in this step of so many seconds; return each with its forces (6,) of before, to be put back.

        A push comes with probability `push_rate`, horizontal, from a direction drawn anew; impulse = force · time.
        """
        layout, before = self.layout, list[tuple[int, np.ndarray]]()
        if not (layout.pushes and self.active):
            return before
        chance, *turns = self.streams[PUSHES].random(1 + len(layout.pushes))
        if chance >= self._value("push_rate", self.in_force):
            return before
        for (k, body), turn in zip(layout.pushes, turns, strict=True):
            if impulse := self.in_force[k]:
                before.append((body, data.xfrc_applied[body].copy()))
                angle, force = 2 * np.pi * turn, impulse / seconds
                data.xfrc_applied[body, :2] += force * np.cos(angle), force * np.sin(angle)
        return before

    def sense(self, obs: np.ndarray) -> np.ndarray:
        """Return what the sensors show of an observation (obs,): bias, then noise; the one before where it is lost.

        The first observation of an episode is never lost, and a step count that belongs to it is exact.
        """
        layout = self.layout
        if not (self.active and layout.sensing):
            return obs
        # Of float32, which is what any agent sees, so that it does not matter where in a chain of wrappers this is.
        seen = obs.astype(np.float32).astype(np.float64) if layout.noise or layout.bias else np.array(obs)
        for bias in layout.bias:
            if value := self.in_force[bias.column]:
                seen[bias.rows] += value
        if layout.noise:
            drawn = self.streams[NOISE].standard_normal(len(obs))
            spread = np.zeros(len(obs))
            for noise in layout.noise:  # independent noises: their variances add
                spread[noise.rows] = np.hypot(spread[noise.rows], self.in_force[noise.column])
            noisy = spread > 0
            seen[noisy] += spread[noisy] * drawn[noisy]
        lost = "sensor_drop" in layout.at and self.streams[DROP].random() < self._value("sensor_drop", self.in_force)
        if lost and self.shown is not None:
            seen = self.shown.copy()
            if layout.clock:
                seen[-1] = obs[-1]
        self.shown = seen
        return (seen.astype(np.float32) if layout.noise or layout.bias else seen).astype(np.asarray(obs).dtype)


def folded(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return values reflected at the ends of their ranges."""
    span = np.where(high > low, high - low, 1.0)
    place = np.mod(values - low, 2 * span)
    reflected: np.ndarray = low + np.minimum(place, 2 * span - place)
    return reflected


def middle(space: gym.spaces.Box) -> np.ndarray:
    """Return the middle of the bounds, 0 where there are none."""
    low, high = (np.where(np.isfinite(bound), bound, 0.0) for bound in (space.low, space.high))
    return ((low + high) / 2).astype(space.dtype)


def sensor_groups(env: gym.Env, count: int) -> dict[str, np.ndarray]:
    """Return the parts of a Gymnasium MuJoCo task's observation, such as `@qpos`, with their coordinates."""
    structure = getattr(env.unwrapped, "observation_structure", None) or {}
    sizes = {name: int(size) for name, size in structure.items() if not name.startswith("skipped") and size}
    ends = np.cumsum([*sizes.values()])
    if not len(ends) or ends[-1] != count:
        return {}
    return {f"@{name}": np.arange(end - sizes[name], end) for name, end in zip(sizes, ends, strict=True)}


def sensor_count(env: gym.Env, clock: bool) -> int:
    """Return how many numbers a task observes, its step count aside; 0 where it has no sensors that can be noisy."""
    space = env.observation_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
        return 0
    return space.shape[0] - clock


def _coordinates(env: gym.Env, name: str, clock: bool) -> np.ndarray:
    thing, count = name.partition(".")[2], sensor_count(env, clock)
    groups = {EVERYTHING: np.arange(count), **sensor_groups(env, count)}
    if not count:
        raise ValueError(f"{name} needs observations that are one vector of floats, not {env.observation_space}")
    if thing in groups:
        return groups[thing]
    if not (thing.isdigit() and int(thing) < count):
        there = f"{', '.join(groups)}, 0 to {count - 1}"
        raise ValueError(f"unknown parameter {name!r}: the task has no sensor {thing!r}; it has {there}")
    return np.array([int(thing)])


def _body(env: gym.Env, name: str) -> int:
    model = getattr(env.unwrapped, "model", None)
    if not isinstance(model, mujoco.MjModel):
        raise ValueError(f"{name} needs a MuJoCo task, whose bodies can be pushed")
    if not hasattr(env.unwrapped, "dt"):
        raise ValueError(f"{name} needs the length of a step, which the task does not have as `dt`")
    return find_object(model, mujoco.mjtObj.mjOBJ_BODY, name, name.partition(".")[2])


def put_back(data: mujoco.MjData, before: list[tuple[int, np.ndarray]]) -> None:
    """End the pushes of a step."""
    for body, forces in reversed(before):
        data.xfrc_applied[body] = forces


def _neutral(env: gym.Env, name: str) -> float:
    if name != "frame_skip":
        return NEUTRAL.get(name, 0.0)
    own = getattr(env.unwrapped, "frame_skip", None)
    if own is None:
        raise ValueError("frame_skip needs one of Gymnasium's MuJoCo tasks, which have one")
    return float(own)
