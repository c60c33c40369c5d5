"""The parameters of a set in a compiled MuJoCo model: where each lives, and how all of them are written.

Order: gravity, absolute values, factors, `scale_inertia`, factors on inertia, actuators, derived constants. Every write
starts from the unmodified model, so that nothing is left of the values before, and at the stock values it ends there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from surefoot.envs.quantities import ACTUATED, ACTUATOR_FIELDS, EVERYTHING, FIELDS, WHOLE_MODEL, Field, split

COUNTS = {
    mujoco.mjtObj.mjOBJ_BODY: "nbody",
    mujoco.mjtObj.mjOBJ_GEOM: "ngeom",
    mujoco.mjtObj.mjOBJ_JOINT: "njnt",
    mujoco.mjtObj.mjOBJ_ACTUATOR: "nu",
}
OF_JOINTS = (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT)
# What follows from masses, inertias, armature and gears; `stat.meaninertia` is not among what mj_setConst renews.
CONSTANTS = (
    "body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0", "tendon_invweight0", "actuator_acc0",
    "tendon_length0", "actuator_length0", "cam_poscom0", "cam_pos0", "cam_mat0", "light_poscom0", "light_pos0",
    "light_dir0", "qpos_spring", "tendon_lengthspring", "bvh_aabb", "dof_length",
)  # fmt: skip
_ACTUATOR_ARRAYS = ("actuator_gainprm", "actuator_biasprm", "actuator_biastype")
_FRAME_ARRAYS = ("body_sameframe", "geom_sameframe", "site_sameframe")  # what the compiler concluded from centres


class Slot(NamedTuple):
    """Where a parameter lives: `array[rows]` of the compiled model, or of its data."""

    array: str
    rows: tuple[Any, ...]
    factor: bool = False  # on what the model has

    @property
    def in_data(self) -> bool:
        return self.array == "xfrc_applied"


def names_of(model: mujoco.MjModel, kind: Any) -> list[str]:
    """Return the names of all objects of a kind, numbers for those without."""
    return [mujoco.mj_id2name(model, kind, i) or str(i) for i in range(getattr(model, COUNTS[kind]))]


def find_object(model: mujoco.MjModel, kind: Any, name: str, thing: str) -> int:
    """Return the number of an object; `ValueError` lists those there are."""
    number = mujoco.mj_name2id(model, kind, thing)
    if number < 0 and thing.isdigit() and int(thing) < getattr(model, COUNTS[kind]):
        number = int(thing)
    if number < 0:
        field = name.partition(".")[0]
        there = ", ".join(names_of(model, kind))
        raise ValueError(f"unknown parameter {name!r}: the task has no {thing!r} for {field}; it has {there or 'none'}")
    return int(number)


def actuated_joints(model: mujoco.MjModel) -> np.ndarray:
    """Return the numbers of the joints that an actuator drives, each once."""
    of_joints = np.isin(model.actuator_trntype, OF_JOINTS)
    return np.unique(model.actuator_trnid[of_joints, 0])


def slot_of(model: mujoco.MjModel, name: str) -> Slot:
    """Return where a parameter `FIELD.OBJECT` lives; `ValueError` lists the fields or the objects there are."""
    key, factor, thing = split(name)
    field = FIELDS.get(key)
    if field is None or not thing or not (field.scaled if factor else field.absolute):
        raise ValueError(f"unknown parameter {name!r}; it is {_known_names()}")
    return Slot(field.array, (_rows(model, field, name, thing), *field.column), factor)


def _known_names() -> str:
    fields = ", ".join(key if f.absolute else f"{key}_scale" for key, f in FIELDS.items())
    scaled = ", ".join(f"{key}_scale" for key, f in FIELDS.items() if f.scaled and f.absolute)
    return f"FIELD.OBJECT with a field of {fields}, {scaled}, {', '.join(ACTUATOR_FIELDS)}, or {', '.join(WHOLE_MODEL)}"


def _rows(model: mujoco.MjModel, field: Field, name: str, thing: str) -> Any:
    joint = field.kind == mujoco.mjtObj.mjOBJ_JOINT
    if thing == EVERYTHING:
        return slice(None)
    if joint and thing == ACTUATED:
        numbers = actuated_joints(model)
        if not len(numbers):
            raise ValueError(f"unknown parameter {name!r}: no actuator of the task drives a joint")
    else:
        numbers = np.array([find_object(model, field.kind, name, thing)])
    if field.array.startswith("dof_"):  # a joint owns one to six degrees of freedom, in a row
        return np.flatnonzero(np.isin(model.dof_jntid, numbers))
    return numbers if thing == ACTUATED else int(numbers[0])


class ModelParameters:
    """Parameters of one compiled model. Always the whole vector is written: nothing leaks from before.

    `held` are further arrays that every write puts back, and what MuJoCo derives with them: those that others change.

    Raises:
        ValueError: a parameter that the model does not have, or a `*` over values that differ and no nominal.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        names: Sequence[str],
        nominal: Sequence[float | None],
        *,
        scale_inertia: bool = False,
        recompute_constants: bool = False,
        held: Collection[str] = (),
    ):
        slots = [None if _is_composite(name) else slot_of(model, name) for name in names]
        self.scale_inertia, self.held = scale_inertia, held
        # A centre of mass that moves takes the boxes of MuJoCo's collision tree with it, which are constants too.
        self.recompute_constants = recompute_constants or any(slot and slot.array == "body_ipos" for slot in slots)
        self.values_of = [(k, slot) for k, slot in enumerate(slots) if slot and not slot.in_data and not slot.factor]
        self.factors = [(k, slot) for k, slot in enumerate(slots) if slot and slot.factor]
        self.forces = [(k, slot) for k, slot in enumerate(slots) if slot and slot.in_data]
        self.whole = {name: k for k, name in enumerate(names) if name in WHOLE_MODEL}
        self.actuators = _actuator_slots(model, names)
        self.neutral = np.array([_neutral(model, slot, name) for slot, name in zip(slots, names, strict=True)])
        self.nominal = np.array(
            [_nominal(model, *one) for one in zip(slots, names, nominal, self.neutral, strict=True)]
        )
        self._gravity = model.opt.gravity.copy()
        self._stock = {name: getattr(model, name).copy() for name in self._touched(model)}
        self._mean_inertia = model.stat.meaninertia
        self._moved = self._moved_bodies(model, names)

    @property
    def changes(self) -> tuple[str, ...]:
        """The arrays of the model that a write may change; `gravity` is of its options."""
        gravity = {"gravity"} if set(_GRAVITY) & set(self.whole) or "gravity" in self.held else set()
        return tuple(sorted(self._stock.keys() | gravity))

    @property
    def changes_masses(self) -> bool:
        """Whether a parameter is the mass of a body."""
        return any(slot.array == "body_mass" for _, slot in [*self.values_of, *self.factors])

    @property
    def derives_masses(self) -> bool:
        """Whether a write may leave other masses of sub-trees than were compiled."""
        return self.recompute_constants

    def _touched(self, model: mujoco.MjModel) -> set[str]:
        arrays = {slot.array for _, slot in [*self.values_of, *self.factors]} | (set(self.held) - {"gravity"})
        if self.scale_inertia:
            arrays |= {"body_mass", "body_inertia"}
        if self.actuators or "dead_actuator" in self.whole:
            arrays |= set(_ACTUATOR_ARRAYS)
        if "body_ipos" in arrays:
            arrays |= set(_FRAME_ARRAYS)
        if self.recompute_constants:
            arrays |= {name for name in CONSTANTS if hasattr(model, name)}
        return arrays

    def _moved_bodies(self, model: mujoco.MjModel, names: Sequence[str]) -> np.ndarray:
        rows = [np.arange(model.nbody)[slot.rows[0]] for _, slot in self.values_of if slot.array == "body_ipos"]
        bodies = np.unique(np.concatenate([np.atleast_1d(row) for row in rows])) if rows else np.empty(0, np.int64)
        if len(fixed := bodies[model.body_simple[bodies] > 0]):
            name = mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_BODY, int(fixed[0])) or str(fixed[0])
            raise ValueError(
                f"body_ipos of {name!r} cannot change: MuJoCo compiled it as a body without off-diagonal inertia"
            )
        return bodies

    def write(self, model: mujoco.MjModel, values: np.ndarray) -> None:
        """Write the values (d,) into the model, before a reset or in the middle of an episode."""
        for name, array in self._stock.items():
            getattr(model, name)[...] = array
        self._write_gravity(model, values)
        if self.recompute_constants or self.held:
            model.stat.meaninertia = self._mean_inertia
        if np.array_equal(values, self.neutral):
            return
        for k, slot in self.values_of:
            getattr(model, slot.array)[slot.rows] = values[k]
        inertia = [(k, slot) for k, slot in self.factors if slot.array == "body_inertia"]
        for k, slot in self.factors:
            if slot.array != "body_inertia":
                getattr(model, slot.array)[slot.rows] *= values[k]
        if self.scale_inertia:
            mass = self._stock["body_mass"]
            ratio = np.divide(model.body_mass, mass, out=np.ones_like(mass), where=mass > 0)
            model.body_inertia[:] = self._stock["body_inertia"] * ratio[:, None]
        for k, slot in inertia:
            model.body_inertia[slot.rows] *= values[k]
        self._write_actuators(model, values)
        self._release_frames(model)
        if self.recompute_constants:
            mujoco.mj_setConst(model, mujoco.MjData(model))
            model.stat.meaninertia = model.dof_M0.mean()

    @property
    def is_arithmetic(self) -> bool:
        """Whether a write only assigns and multiplies, so that `arrays` can do it for many models at once."""
        return not (self.whole or self.actuators or self.recompute_constants or "gravity" in self.held)

    def stock(self, device: torch.device) -> dict[str, Tensor]:
        """Return the arrays that a write changes as the model was compiled, float64."""
        return {name: torch.tensor(array, device=device) for name, array in self._stock.items()}

    def arrays(self, stock: dict[str, Tensor], values: Tensor) -> dict[str, Tensor]:
        """Return what `write` makes of the arrays of `stock`, (N, …) float64, for values (N, d) that are allowed.

        In the same order and precision, on the device of both; where `is_arithmetic`.
        """
        many = {name: array.expand(len(values), *array.shape).clone() for name, array in stock.items()}
        factors = [(slot.array == "body_inertia", k, slot) for k, slot in self.factors]
        for k, slot in self.values_of + [(k, slot) for inertia, k, slot in factors if not inertia]:
            assign(many[slot.array], slot, values[:, k])
        if self.scale_inertia:
            mass = stock["body_mass"]
            ratio = torch.where(mass > 0, many["body_mass"] / mass, 1.0)
            many["body_inertia"] = stock["body_inertia"] * ratio[..., None]
        for _, k, slot in (factor for factor in factors if factor[0]):
            assign(many[slot.array], slot, values[:, k])
        return many

    def push(self, data: mujoco.MjData, values: np.ndarray) -> None:
        """Write the external forces, after a reset, which clears them."""
        for k, slot in self.forces:
            getattr(data, slot.array)[slot.rows] = values[k]

    def _write_gravity(self, model: mujoco.MjModel, values: np.ndarray) -> None:
        places = {name: self.whole[name] for name in ("gravity", "gravity_pitch", "gravity_roll") if name in self.whole}
        if not (places or "gravity" in self.held):
            return
        model.opt.gravity[:] = self._gravity
        if all(values[k] == self.neutral[k] for k in places.values()):
            return
        strength, pitch, roll = (values[places[name]] if name in places else None for name in _GRAVITY)
        if strength is not None:
            size = float(np.linalg.norm(self._gravity))
            model.opt.gravity[:] = strength * (self._gravity / size if size else np.array([0.0, 0.0, -1.0]))
        model.opt.gravity[:] = tilted(model.opt.gravity, pitch or 0.0, roll or 0.0)

    def _write_actuators(self, model: mujoco.MjModel, values: np.ndarray) -> None:
        for k, field, rows in sorted(self.actuators, key=lambda slot: slot[1] == "actuator_gain"):  # offsets first
            value = values[k]
            if field == "actuator_gain":
                model.actuator_gainprm[rows, :3] *= value
                model.actuator_biasprm[rows, :3] *= value
            elif value != 0.0:
                model.actuator_biastype[rows] = mujoco.mjtBias.mjBIAS_AFFINE
                model.actuator_biasprm[rows, :3] += value * self._stock["actuator_gainprm"][rows, :3]
        dead = round_half_up(values[self.whole["dead_actuator"]]) if "dead_actuator" in self.whole else 0
        if dead:
            model.actuator_gainprm[dead - 1] = model.actuator_biasprm[dead - 1] = 0.0

    def _release_frames(self, model: mujoco.MjModel) -> None:
        """Let the centres of mass lie apart from the frames that the compiler found them to share."""
        moved = self._moved
        if not len(moved):
            return
        model.body_sameframe[moved] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE
        for body, sameframe in (
            (model.geom_bodyid, model.geom_sameframe),
            (model.site_bodyid, model.site_sameframe),
        ):
            sameframe[np.isin(body, moved) & np.isin(sameframe, _OF_INERTIA)] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE


def assign(many: Tensor, slot: Slot, values: Tensor) -> None:
    """Write a parameter of N models, values (N,), into their arrays (N, …), or multiply what is there by it."""
    at = (slice(None), *(torch.from_numpy(row) if isinstance(row, np.ndarray) else row for row in slot.rows))
    there = many[at]
    row = values.to(many).reshape(-1, *[1] * (there.ndim - 1))
    many[at] = there * row if slot.factor else row


_GRAVITY = ("gravity", "gravity_pitch", "gravity_roll")
_OF_INERTIA = (mujoco.mjtSameFrame.mjSAMEFRAME_INERTIA, mujoco.mjtSameFrame.mjSAMEFRAME_INERTIAROT)
_LINEAR_GAINS = (mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtGain.mjGAIN_AFFINE)
_LINEAR_BIASES = (mujoco.mjtBias.mjBIAS_NONE, mujoco.mjtBias.mjBIAS_AFFINE)


def round_half_up(value: float) -> int:
    """Return the nearest whole number; Python's own `round` takes 0.5 to 0 and 1.5 to 2."""
    return math.floor(value + 0.5)


def tilted(gravity: np.ndarray, pitch: float, roll: float) -> np.ndarray:
    """Return gravity (3,) turned about y by `pitch` and then about x by `roll`, in degrees.

    A positive pitch is a slope that rises along x, a positive roll one that falls along y. Zeros turn nothing.
    """
    x, y, z = gravity
    if pitch:
        c, s = math.cos(math.radians(pitch)), math.sin(math.radians(pitch))
        x, z = c * x + s * z, c * z - s * x
    if roll:
        c, s = math.cos(math.radians(roll)), math.sin(math.radians(roll))
        y, z = c * y - s * z, c * z + s * y
    return np.array([x, y, z])


def _is_composite(name: str) -> bool:
    return name in WHOLE_MODEL or split(name)[0] in ACTUATOR_FIELDS


def _actuator_slots(model: mujoco.MjModel, names: Sequence[str]) -> list[tuple[int, str, np.ndarray]]:
    """Return column, field and numbers of the actuators of every `actuator_gain` and `actuator_offset`."""
    slots = []
    for k, name in enumerate(names):
        field, _, thing = split(name)
        if field in ACTUATOR_FIELDS:
            slots.append((k, field, find_actuators(model, name, thing)))
        elif name == "dead_actuator":
            find_actuators(model, name, EVERYTHING)
    return slots


def find_actuators(model: mujoco.MjModel, name: str, thing: str) -> np.ndarray:
    """Return the numbers of the actuators that are called so, or that drive the joint of that name.

    Raises:
        ValueError: none such, or one whose force is not linear in the control.
    """
    rows = np.arange(model.nu)
    if thing != EVERYTHING:
        joint = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, thing)
        of_joint = np.isin(model.actuator_trntype, OF_JOINTS) & (model.actuator_trnid[:, 0] == joint)
        known = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_ACTUATOR, thing) >= 0
        if joint >= 0 and not known and of_joint.any():
            rows = np.flatnonzero(of_joint)
        else:
            rows = np.array([_actuator(model, name, thing)])
    if not len(rows) or not linear_actuators(model)[rows].all():
        raise ValueError(f"{name}: the task has no actuators, or one whose force is not linear in its control")
    return rows


def linear_actuators(model: mujoco.MjModel) -> np.ndarray:
    """Return which actuators (nu,) have a force that is linear in the control."""
    linear = np.isin(model.actuator_gaintype, _LINEAR_GAINS) & np.isin(model.actuator_biastype, _LINEAR_BIASES)
    return np.asarray(linear)


def _actuator(model: mujoco.MjModel, name: str, thing: str) -> int:
    try:
        return find_object(model, mujoco.mjtObj.mjOBJ_ACTUATOR, name, thing)
    except ValueError as error:
        joints = [mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_JOINT, int(j)) or j for j in actuated_joints(model)]
        raise ValueError(f"{error}, of the joints {', '.join(map(str, joints))}") from None


def _neutral(model: mujoco.MjModel, slot: Slot | None, name: str) -> float:
    """Return the value at which the model is as compiled; NaN where a `*` is over values that differ."""
    if slot is None:
        return (
            float(np.linalg.norm(model.opt.gravity)) if name == "gravity" else float(name.startswith("actuator_gain"))
        )
    if slot.in_data or slot.factor:
        return float(slot.factor)
    values = np.unique(getattr(model, slot.array)[slot.rows])
    return float(values[0]) if len(values) == 1 else math.nan


def _nominal(model: mujoco.MjModel, slot: Slot | None, name: str, own: float | None, neutral: float) -> float:
    if own is None and math.isnan(neutral):
        assert slot is not None
        values = getattr(model, slot.array)[slot.rows]
        raise ValueError(f"{name}: values from {values.min()} to {values.max()} in the task; give it a nominal")
    return neutral if own is None else own
