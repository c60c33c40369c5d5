"""The parameters of an uncertainty set in one task: who writes each of them, their nominal and their allowed values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

from surefoot.envs.classic import classic_quantity, known_parameters
from surefoot.envs.fixed_parameters import FixedFirst
from surefoot.envs.model_parameters import ModelParameters
from surefoot.envs.parameters import Uncertain, UncertaintySet, check_task
from surefoot.envs.quantities import SENSOR_FIELDS, SIGNALS, Quantity, is_signal, quantity_of
from surefoot.envs.signals import Layout
from surefoot.envs.tensor_env import TimeAwareObservation


class TaskParameters:
    """The parameters (d,) of a set, then those of `fixed` that the set does not vary: one vector (D,).

    A task's own names come first, then what lies between policy and task, then the fields of a MuJoCo model.

    Raises:
        ValueError: the set is for another task, or names parameters or values that this one does not have.
    """

    def __init__(self, env: gym.Env, uncertainty: UncertaintySet | None, fixed: Mapping[str, float] | None = None):
        task, fixed = env.unwrapped, dict(fixed or {})
        self.label = env.spec.id if env.spec else str(env)
        if uncertainty is not None:
            check_task(uncertainty, self.label)
        elif "walk" in fixed:
            raise ValueError("walk needs ranges to walk in: give it in an uncertainty set")
        varied = {p.name: p.nominal for p in uncertainty.parameters} if uncertainty else {}
        rest = np.array([value for name, value in fixed.items() if name not in varied], np.float64)
        self.names = (*varied, *(name for name in fixed if name not in varied))
        own = [fixed.get(name) if varied.get(name) is None else varied[name] for name in self.names]
        none = np.empty(0)
        self.low = np.append(none if uncertainty is None else uncertainty.low, rest)
        self.high = np.append(none if uncertainty is None else uncertainty.high, rest)
        theirs = None if has_model(task) else uncertain_of(task)
        outside = np.array([is_signal(name) and name not in names_of(theirs) for name in self.names], bool)
        self.physical, self._theirs = np.flatnonzero(~outside), theirs
        physical_names = [self.names[k] for k in self.physical]
        own_physical, count = [own[k] for k in self.physical], int((self.physical < len(varied)).sum())
        self.model = _model_parameters(task, physical_names, own_physical, count, uncertainty)
        self._fill = filler(theirs, physical_names, self.label) if self.model is None and physical_names else None
        self._limit(task)
        self.layout = self._layout(env, outside) if outside.any() else None
        usual = self._stock(self.model.nominal if self.model else None)
        self.nominal = np.array([there if value is None else value for value, there in zip(own, usual, strict=True)])
        self.count = len(varied)
        self._rest = self.nominal[self.count :]
        self.untimed = self._untimed(fixed, np.array([value is None for value in own], bool))
        self.check(self.low)
        self.check(self.high)
        self.check(self.nominal)

    def _layout(self, env: gym.Env, outside: np.ndarray) -> Layout:
        names = [name if there else "" for name, there in zip(self.names, outside, strict=True)]
        return Layout(env, names, self.low, self.high, is_time_aware(env))

    def _stock(self, of_model: np.ndarray | None) -> np.ndarray:
        """Return the values (D,) of the task, some those of its model; NaN where a `*` is over values that differ."""
        theirs = self._theirs
        task = dict(zip(names_of(theirs), [] if theirs is None else np.asarray(theirs.nominal, float), strict=True))
        found = np.full(len(self.names), np.nan) if self.layout is None else self.layout.neutral.copy()
        for place, k in enumerate(self.physical):
            found[k] = task[self.names[k]] if of_model is None else of_model[place]
        return found

    def _untimed(self, fixed: Mapping[str, float], unnamed: np.ndarray) -> np.ndarray:
        """Return what holds before an onset: nominal values; with a fixed onset those of the unmodified task.

        A set's own ones stay where it names them; `unnamed` (D,) are those without a value of their own.
        """
        before, stock = self.nominal.copy(), self._stock(self.model.neutral if self.model else None)
        if {"onset", "duration"} & set(self.names[self.count :]):
            theirs = unnamed | (np.arange(len(before)) >= self.count)
            before[theirs] = stock[theirs]
        if np.isnan(before).any():
            name = self.names[int(np.argmax(np.isnan(before)))]
            raise ValueError(f"{name} has no single value before the onset; {name.replace('.', '_scale.')} has, 1")
        return before

    def _limit(self, task: Any) -> None:
        """Note which values each parameter may have."""
        known = [quantity_of(name) for name in self.names]
        if self.model is None:
            physical = set(self.physical.tolist())
            known = [classic_quantity(task, self.names[k]) if k in physical else one for k, one in enumerate(known)]
        self.quantities: list[Quantity] = [one or Quantity("") for one in known]
        if self.model is not None and "dead_actuator" in self.names:
            k = self.names.index("dead_actuator")
            self.quantities[k] = self.quantities[k]._replace(most=task.model.nu)
        self._least, self._most = (
            np.array([getattr(one, end) for one in self.quantities]) for end in ("least", "most")
        )
        self._above = np.array([one.above for one in self.quantities], bool)

    def check(self, full: np.ndarray) -> None:
        """Raise ValueError where a value (D,) or (…, D) is not finite or not allowed."""
        good = np.isfinite(full) & (full <= self._most) & np.where(self._above, full > self._least, full >= self._least)
        if good.all():
            return
        k = int(np.argmin(good.reshape(-1, len(self.names)).all(0)))
        column = full.reshape(-1, len(self.names))[:, k]
        bad = column[~good.reshape(-1, len(self.names))[:, k]][0]
        quantity = self.quantities[k]
        unit = f" {quantity.unit}" if quantity.unit else ""
        rule = quantity.allowed() if np.isfinite(bad) else "finite"
        raise ValueError(f"{self.label}: {self.names[k]} cannot be {bad:g}{unit}; it must be {rule}")

    def check_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return all parameters (J, D) for values (J, d) of the set, a row per episode.

        Raises:
            ValueError: not as many, or not allowed.
        """
        if rows.ndim != 2 or rows.shape[1] != self.count:
            names = ", ".join(self.names[: self.count])
            raise ValueError(f"parameters have the shape {rows.shape}; they must be rows of {self.count}: {names}")
        full = np.hstack([rows, np.broadcast_to(self._rest, (len(rows), len(self._rest)))])
        self.check(full)
        return full

    def full(self, values: Any) -> np.ndarray:
        """Return all parameters (D,) for the values (d,) of the set."""
        array = np.array(values, np.float64)
        if array.shape != (self.count,) or not np.isfinite(array).all():
            raise ValueError(f"parameters must be {self.count} finite numbers, one each for {self.names[: self.count]}")
        full = np.append(array, self._rest)
        self.check(full)
        return full

    def write(self, task: Any, full: np.ndarray) -> None:
        """Write the physical ones into a task, before a reset or in the middle of an episode."""
        if self.model is not None:
            self.model.write(task.model, full[self.physical])
        elif self._fill is not None:
            assert self._theirs is not None
            self._theirs.set_params(self._fill(full[self.physical]))

    def push(self, data: mujoco.MjData, full: np.ndarray) -> None:
        """Write the external forces, after a reset, which clears them."""
        if self.model is not None:
            self.model.push(data, full[self.physical])


def _model_parameters(
    task: Any, names: list[str], own: list[float | None], count: int, uncertainty: UncertaintySet | None
) -> ModelParameters | FixedFirst | None:
    """Return who writes these parameters, of which `count` are the set's; None where MuJoCo has none of them."""
    if not (names and has_model(task)):
        return None
    if uncertainty is None or not count:
        return ModelParameters(task.model, names, own, recompute_constants=True)
    inertia, constants = uncertainty.scale_inertia, uncertainty.recompute_constants
    switches: dict[str, Any] = {"scale_inertia": inertia, "recompute_constants": constants}
    if count == len(names):
        return ModelParameters(task.model, names, own, **switches)
    return FixedFirst(task.model, names, own, count, **switches)


def has_model(task: Any) -> bool:
    """Whether a task (unwrapped) is MuJoCo's."""
    return isinstance(getattr(task, "model", None), mujoco.MjModel)


def is_time_aware(env: gym.Env) -> bool:
    """Whether the last number of the observation counts the steps."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeAwareObservation):
            return True
        env = env.env
    return False


def uncertain_of(task: Any) -> Uncertain | None:
    """Return what sets the parameters of a task (unwrapped) that is not MuJoCo's; None: it has none."""
    return task if isinstance(task, Uncertain) else known_parameters(task)


def names_of(theirs: Uncertain | None) -> tuple[str, ...]:
    return () if theirs is None else tuple(theirs.param_names)


def filler(theirs: Uncertain | None, names: Iterable[str], label: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map from values (…, d) of these names to all parameters (…, D) of a task, the others nominal.

    Raises:
        ValueError: the task has no parameters, or not these.
    """
    names = list(names)
    here = [name for name in SIGNALS if name not in ("frame_skip", "push_rate")]  # those are of MuJoCo tasks
    every = ", ".join([*here, *(f"{field}.SENSOR" for field in SENSOR_FIELDS)])
    if theirs is None:
        raise ValueError(
            f"{label} has no parameters to set: it is no MuJoCo task and has no param_names, low, high, "
            f"nominal and set_params; every task has {every}"
        )
    if unknown := [name for name in names if name not in theirs.param_names]:
        raise ValueError(f"unknown parameter {unknown[0]!r}; {label} has {', '.join(theirs.param_names)}, {every}")
    columns = [theirs.param_names.index(name) for name in names]

    def fill(values: np.ndarray) -> np.ndarray:
        nominal = np.asarray(theirs.nominal, np.float64)
        full = np.broadcast_to(nominal, (*values.shape[:-1], len(theirs.param_names))).copy()
        full[..., columns] = values
        return full

    return fill


def full_vector(task: Any, uncertainty: UncertaintySet) -> Callable[[np.ndarray], np.ndarray]:
    """Return `filler` for an `Uncertain` task, such as a batch of one of our tensor tasks.

    Raises:
        ValueError: as `filler`.
    """
    return filler(task if isinstance(task, Uncertain) else None, uncertainty.param_names, uncertainty.env)


def nominal_of(task: Uncertain, uncertainty: UncertaintySet) -> np.ndarray:
    """Return the nominal values (d,) of a set: its own where it has them, else those of an `Uncertain` task."""
    own = dict(zip(task.param_names, np.asarray(task.nominal, np.float64), strict=True))
    return np.array([own[p.name] if p.nominal is None else p.nominal for p in uncertainty.parameters])
