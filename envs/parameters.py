"""Physical parameters by name: boxes of them, and how one gets into a task."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import mujoco
import numpy as np

from surefoot.envs.divergence import has_diverged, quiet_mujoco

LARGEST_GRID = 100_000  # points; 10 per dimension fit for 5 dimensions


@runtime_checkable
class Uncertain(Protocol):
    """What a task of one's own offers to be put into an uncertainty set.

    A NumPy task gets (d,) values, before each reset. A `TensorEnv` gets a tensor (N, d), one row per environment, and
    keeps it.
    """

    param_names: tuple[str, ...]
    low: np.ndarray  # (d,)
    high: np.ndarray  # (d,)
    nominal: np.ndarray  # (d,)

    def set_params(self, values: Any) -> None: ...


class Parameter(NamedTuple):
    """One axis of the box; without a `nominal` it is what the task has of itself, be it inside the range or not."""

    name: str
    low: float
    high: float
    nominal: float | None = None


@dataclass(frozen=True)
class UncertaintySet:
    """A box of parameters of one task.

    Raises:
        ValueError: an empty set, a name twice, a range that is inverted or not finite, a nominal value outside of it.
    """

    name: str
    env: str
    """Gymnasium id of the task; other versions of the same task are accepted too."""
    parameters: tuple[Parameter, ...]
    recompute_constants: bool = False
    """Derive sub-tree masses and inverse weights anew from changed masses; RRLS and M2TD3 leave them as compiled."""
    scale_inertia: bool = False
    """Let the inertia of a body follow its mass; RRLS and M2TD3 leave it as compiled."""

    def __post_init__(self) -> None:
        if not self.parameters:
            raise ValueError(f"{self.name}: an uncertainty set needs at least one parameter")
        if len(set(self.param_names)) < len(self.parameters):
            raise ValueError(f"{self.name}: a parameter is named twice in {', '.join(self.param_names)}")
        for name, low, high, nominal in self.parameters:
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"{self.name}: {name} has the range [{low}, {high}]; give finite numbers, low < high")
            if nominal is not None and not low <= nominal <= high:
                raise ValueError(f"{self.name}: the nominal {name}, {nominal}, lies outside of [{low}, {high}]")

    @property
    def param_names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def low(self) -> np.ndarray:
        return np.array([parameter.low for parameter in self.parameters])

    @property
    def high(self) -> np.ndarray:
        return np.array([parameter.high for parameter in self.parameters])

    def axes(self, n: int = 10, *, closed: bool = False) -> list[np.ndarray]:
        """Return the `n` grid values of every parameter.

        Half-open, as RRLS and IWOCS evaluate: low + k·(high − low)/n, so `high` itself is never tested. Closed, as
        M2TD3 does: both ends are in. docs/derivations/iwocs.md eq. (5.2), eq. (5.3).
        """
        if n < 2:
            raise ValueError(f"a grid needs at least 2 values per parameter, not {n}")
        if n ** len(self.parameters) > LARGEST_GRID:
            raise ValueError(
                f"{self.name}: {n} values of {len(self.parameters)} parameters are {n ** len(self.parameters)} points, "
                f"more than {LARGEST_GRID}; take a smaller --n"
            )
        return [np.linspace(p.low, p.high, n, endpoint=closed) for p in self.parameters]

    def grid(self, n: int = 10, *, closed: bool = False) -> np.ndarray:
        """Return all points (n^d, d), the last parameter changing fastest."""
        return np.stack(np.meshgrid(*self.axes(n, closed=closed), indexing="ij"), -1).reshape(-1, len(self.parameters))


class Slot(NamedTuple):
    """Where a parameter lives: `field[rows]` of the compiled model, or of its data."""

    field: str
    rows: tuple[Any, ...]
    in_data: bool = False


# field name in a set -> array, kind of object, further index; sliding friction is the first of a geom's three numbers.
_OBJECTS = mujoco.mjtObj


FIELDS: dict[str, tuple[str, Any, tuple[Any, ...]]] = {
    "body_mass": ("body_mass", _OBJECTS.mjOBJ_BODY, ()),
    "geom_friction": ("geom_friction", _OBJECTS.mjOBJ_GEOM, (0,)),
    "dof_damping": ("dof_damping", _OBJECTS.mjOBJ_JOINT, ()),
    "actuator_gear": ("actuator_gear", _OBJECTS.mjOBJ_ACTUATOR, (0,)),
    "force_x": ("xfrc_applied", _OBJECTS.mjOBJ_BODY, (0,)),
    "force_y": ("xfrc_applied", _OBJECTS.mjOBJ_BODY, (1,)),
    "force_z": ("xfrc_applied", _OBJECTS.mjOBJ_BODY, (2,)),
}


COUNTS = {
    _OBJECTS.mjOBJ_BODY: "nbody",
    _OBJECTS.mjOBJ_GEOM: "ngeom",
    _OBJECTS.mjOBJ_JOINT: "njnt",
    _OBJECTS.mjOBJ_ACTUATOR: "nu",
}


def slot_of(model: mujoco.MjModel, name: str) -> Slot:
    """Return where the parameter `FIELD.OBJECT` lives; `ValueError` lists the fields or the objects there are."""
    field, _, thing = name.partition(".")
    if field not in FIELDS:
        raise ValueError(f"unknown parameter {name!r}; it is FIELD.OBJECT with a field of {', '.join(FIELDS)}")
    array, kind, further = FIELDS[field]
    number = mujoco.mj_name2id(model, kind, thing)
    count = getattr(model, COUNTS[kind])
    if number < 0 and thing.isdigit() and int(thing) < count:
        number = int(thing)
    if number < 0 and thing != "*":
        names = (mujoco.mj_id2name(model, kind, i) or str(i) for i in range(count))
        raise ValueError(
            f"unknown parameter {name!r}: the task has no {thing!r} for {field}; it has {', '.join(names)}"
        )
    rows: Any = slice(None) if thing == "*" else number
    if field == "dof_damping" and thing != "*":  # a joint owns one to six degrees of freedom, in a row
        rows = np.flatnonzero(model.dof_jntid == number)
    return Slot(array, (rows, *further), in_data=array == "xfrc_applied")


class ModelParameters:
    """The parameters of a set in one compiled model. Always the whole vector is written: nothing leaks from before.

    Raises:
        ValueError: a parameter that the model does not have, or a `*` over values that differ and no nominal.
    """

    def __init__(self, model: mujoco.MjModel, uncertainty: UncertaintySet):
        self.uncertainty = uncertainty
        self.slots = tuple(slot_of(model, name) for name in uncertainty.param_names)
        self.nominal = np.array([_stock(model, s, p) for s, p in zip(self.slots, uncertainty.parameters, strict=True)])
        self._mass, self._inertia = model.body_mass.copy(), model.body_inertia.copy()

    def write(self, model: mujoco.MjModel, values: np.ndarray) -> None:
        """Write the model's parameters, before a reset."""
        for slot, value in zip(self.slots, values, strict=True):
            if not slot.in_data:
                getattr(model, slot.field)[slot.rows] = value
        if self.uncertainty.scale_inertia:
            ratio = np.divide(model.body_mass, self._mass, out=np.ones_like(self._mass), where=self._mass > 0)
            model.body_inertia[:] = self._inertia * ratio[:, None]
        if self.uncertainty.recompute_constants:
            mujoco.mj_setConst(model, mujoco.MjData(model))
            model.stat.meaninertia = model.dof_M0.mean()  # not among what mj_setConst renews

    def push(self, data: mujoco.MjData, values: np.ndarray) -> None:
        """Write the external forces, after a reset, which clears them."""
        for slot, value in zip(self.slots, values, strict=True):
            if slot.in_data:
                getattr(data, slot.field)[slot.rows] = value


def _stock(model: mujoco.MjModel, slot: Slot, parameter: Parameter) -> float:
    if parameter.nominal is not None:
        return parameter.nominal
    if slot.in_data:
        return 0.0
    values = np.unique(getattr(model, slot.field)[slot.rows])
    if len(values) > 1:
        raise ValueError(f"{parameter.name}: values from {values[0]} to {values[-1]} in the task; give it a nominal")
    return float(values[0])


class WithParameters(gym.Wrapper):
    """A task, MuJoCo's or one that is `Uncertain`, with the parameters of a set; it is `Uncertain` itself.

    They are written at every reset: `options={"params": values}` for this episode, else the last values of
    `set_params`, else the nominal ones. At the nominal ones the task is the unmodified one, bit for bit. An episode
    whose physics diverges ends as `terminated` with the last good observation, no reward and `info["broken"]`.

    Raises:
        ValueError: the set is for another task, or names parameters that this one does not have.
    """

    def __init__(self, env: gym.Env, uncertainty: UncertaintySet):
        super().__init__(env)
        check_task(uncertainty, env.spec.id if env.spec else str(env))
        self.param_names, self.low, self.high = uncertainty.param_names, uncertainty.low, uncertainty.high
        task: Any = env.unwrapped
        self._model = ModelParameters(task.model, uncertainty) if has_model(task) else None
        self._full = None if self._model else full_vector(task, uncertainty)
        self.nominal = self._model.nominal if self._model else nominal_of(task, uncertainty)
        self._values = self._params = self.nominal.copy()

    def set_params(self, values: Any) -> None:
        """Let the episodes to come have these parameters (d,)."""
        self._values = self._checked(values)

    # Two properties besides `set_params`: `set_attr` of a vector environment sends every sub-environment a value of its
    # own.

    @property
    def next_params(self) -> np.ndarray:
        """The parameters (d,) of the episodes to come."""
        return self._values

    @next_params.setter
    def next_params(self, values: Any) -> None:
        self.set_params(values)

    @property
    def params(self) -> np.ndarray:
        """The parameters (d,) in force; they can be changed in the middle of an episode."""
        return self._params

    @params.setter
    def params(self, values: Any) -> None:
        self._write(self._checked(values))
        if self._model is not None:
            self._model.push(self.env.unwrapped.data, self._params)  # type: ignore[attr-defined]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        rest = dict(options or {})
        self._write(self._checked(rest.pop("params", self._values)))
        self._obs, info = self.env.reset(seed=seed, options=rest or None)
        if self._model is not None:
            self._model.push(self.env.unwrapped.data, self._params)  # type: ignore[attr-defined]
        return self._obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        with quiet_mujoco():
            obs, reward, terminated, truncated, info = self.env.step(action)
        broken = has_diverged(getattr(self.env.unwrapped, "data", None) if self._model else None, obs, reward)
        if broken:
            return self._obs, 0.0, True, truncated, {**info, "broken": True}
        self._obs = obs
        return obs, reward, terminated, truncated, {**info, "broken": False}

    def _write(self, values: np.ndarray) -> None:
        self._params = values
        task: Any = self.env.unwrapped
        if self._model is not None:
            self._model.write(task.model, values)
        else:
            assert self._full is not None
            task.set_params(self._full(values))

    def _checked(self, values: Any) -> np.ndarray:
        array = np.array(values, np.float64)
        if array.shape != self.nominal.shape or not np.isfinite(array).all():
            raise ValueError(f"parameters must be {len(self.nominal)} finite numbers, one each for {self.param_names}")
        return array


def has_model(task: Any) -> bool:
    """Whether a task (unwrapped) is MuJoCo's."""
    return isinstance(getattr(task, "model", None), mujoco.MjModel)


def check_task(uncertainty: UncertaintySet, env_id: str) -> None:
    """Raise ValueError where a set is for another task; its version does not matter."""
    theirs, ours = (one.rpartition(":")[2].rpartition("-v")[0] or one for one in (uncertainty.env, env_id))
    if theirs != ours:
        raise ValueError(f"the uncertainty set {uncertainty.name} is for {uncertainty.env}, not for {env_id}")


def full_vector(task: Any, uncertainty: UncertaintySet) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map from values (…, d) of a set to all parameters (…, D) of an `Uncertain` task, others nominal.

    Raises:
        ValueError: the task names no parameters, or not these.
    """
    if not isinstance(task, Uncertain):
        raise ValueError(
            f"{uncertainty.env} has no parameters to set: it is no MuJoCo task and has no param_names, low, high, "
            "nominal and set_params"
        )
    if unknown := [name for name in uncertainty.param_names if name not in task.param_names]:
        raise ValueError(f"unknown parameter {unknown[0]!r}; {uncertainty.env} has {', '.join(task.param_names)}")
    columns = [task.param_names.index(name) for name in uncertainty.param_names]

    def fill(values: np.ndarray) -> np.ndarray:
        full = np.broadcast_to(task.nominal, (*values.shape[:-1], len(task.param_names))).astype(np.float64)
        full[..., columns] = values
        return full

    return fill


def nominal_of(task: Uncertain, uncertainty: UncertaintySet) -> np.ndarray:
    """Return the nominal values (d,) of a set: its own where it has them, else those of an `Uncertain` task."""
    own = dict(zip(task.param_names, np.asarray(task.nominal, np.float64), strict=True))
    return np.array([own[p.name] if p.nominal is None else p.nominal for p in uncertainty.parameters])
