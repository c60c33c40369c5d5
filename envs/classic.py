"""Physical parameters of Gymnasium's classic control tasks, which keep them as attributes, and of our own singly."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv
from gymnasium.envs.classic_control.mountain_car import MountainCarEnv
from gymnasium.envs.classic_control.pendulum import PendulumEnv

from surefoot.envs.quantities import Quantity
from surefoot.envs.tensor_env import SingleEnv

_MASS, _LENGTH, _GRAVITY = (
    Quantity("kg", 0.0, above=True),
    Quantity("m", 0.0, above=True),
    Quantity("m/s²"),
)
_FORCE, _TIME, _PURE = Quantity("N"), Quantity("s", 0.0, above=True), Quantity("")


class Attribute(NamedTuple):
    """A parameter that is an attribute of the task."""

    attribute: str
    quantity: Quantity


CLASSIC: dict[type, dict[str, Attribute]] = {
    CartPoleEnv: {
        "gravity": Attribute("gravity", _GRAVITY),
        "cart_mass": Attribute("masscart", _MASS),
        "pole_mass": Attribute("masspole", _MASS),
        "pole_half_length": Attribute("length", _LENGTH),
        "force": Attribute("force_mag", _FORCE),
        "time_step": Attribute("tau", _TIME),
    },
    PendulumEnv: {
        "gravity": Attribute("g", _GRAVITY),
        "mass": Attribute("m", _MASS),
        "length": Attribute("l", _LENGTH),
        "max_torque": Attribute("max_torque", Quantity("N m", 0.0)),
        "time_step": Attribute("dt", _TIME),
    },
    MountainCarEnv: {"force": Attribute("force", _PURE), "gravity": Attribute("gravity", _PURE)},
    Continuous_MountainCarEnv: {"power": Attribute("power", _PURE)},
    AcrobotEnv: {
        "link_length": Attribute("LINK_LENGTH_1", _LENGTH),
        "link_mass_1": Attribute("LINK_MASS_1", _MASS),
        "link_mass_2": Attribute("LINK_MASS_2", _MASS),
        "link_com_1": Attribute("LINK_COM_POS_1", _LENGTH),
        "link_com_2": Attribute("LINK_COM_POS_2", _LENGTH),
        "link_inertia": Attribute("LINK_MOI", Quantity("kg m²", 0.0, above=True)),
        "time_step": Attribute("dt", _TIME),
    },
}


class ClassicParameters:
    """`Uncertain` for a task of `CLASSIC`; ranges are half and twice the task's own values."""

    def __init__(self, task: Any, attributes: dict[str, Attribute]):
        self.task, self.attributes = task, attributes
        self.param_names = tuple(attributes)
        self.nominal = np.array([float(getattr(task, one.attribute)) for one in attributes.values()])
        self.low, self.high = self.nominal / 2, self.nominal * 2

    def set_params(self, values: np.ndarray) -> None:
        for one, value in zip(self.attributes.values(), values, strict=True):
            setattr(self.task, one.attribute, float(value))
        if isinstance(self.task, CartPoleEnv):  # what its constructor derives
            self.task.total_mass = self.task.masspole + self.task.masscart
            self.task.polemass_length = self.task.masspole * self.task.length


class SingleParameters:
    """`Uncertain` for a batch of one of our tensor tasks, with arrays (d,)."""

    def __init__(self, batch: Any):
        self.batch = batch
        self.param_names, self.low, self.high, self.nominal = batch.param_names, batch.low, batch.high, batch.nominal

    def set_params(self, values: np.ndarray) -> None:
        self.batch.set_params(torch.from_numpy(values[None].copy()).to(self.batch.device))


def known_parameters(task: Any) -> ClassicParameters | SingleParameters | None:
    """Return the parameters of a task (unwrapped) that has some although it is not `Uncertain` itself."""
    if isinstance(task, SingleEnv):
        return SingleParameters(task.batch) if hasattr(task.batch, "param_names") else None
    for kind, attributes in CLASSIC.items():
        if isinstance(task, kind):
            return ClassicParameters(task, attributes)
    return None


def classic_quantity(task: Any, name: str) -> Quantity:
    """Return what a parameter of `CLASSIC` is; of other tasks' own nothing is known."""
    found = next((attributes for kind, attributes in CLASSIC.items() if isinstance(task, kind)), {})
    return found[name].quantity if name in found else Quantity("")
