"""The parameters and disturbances of N worlds: written on the host by the code that writes them in C, a row a world."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from types import SimpleNamespace
from typing import Any, cast

import gymnasium as gym
import mujoco
import numpy as np
import torch
from torch import Tensor

from surefoot.envs.fixed_parameters import FixedFirst
from surefoot.envs.model_parameters import ModelParameters, assign
from surefoot.envs.parameters import UncertaintySet
from surefoot.envs.signals import Signals, put_back
from surefoot.envs.task_parameters import TaskParameters
from surefoot.envs.warp.simulation import Simulation

Pushed = list[tuple[int, list[tuple[int, np.ndarray]]]]  # of each world that was pushed, what its bodies had before
_UNUSED = ("cam_", "light_")  # arrays that only pictures depend on


class ParameterRows:
    """Parameters of a set, and those of `fixed`, of N worlds of one task; neither: nothing differs between them.

    A set may change masses and leave alone what was compiled from them, as the published ones do. C then reckons about
    a point that is no centre of mass, but a multiple of it: with a torso of ten times its mass, metres away
    from the robot. The motion is the same about any point, its rounding is not: with `own_centres` every world has the
    centre of its own masses.

    Raises:
        ValueError: as `TaskParameters`; a disturbance that must be the same in all worlds.
    """

    def __init__(
        self,
        env: gym.Env,
        uncertainty: UncertaintySet | None,
        fixed: Mapping[str, float],
        num_worlds: int,
        *,
        own_centres: bool,
    ):
        self.task = cast(Any, env.unwrapped)  # its model is where parameters are written before they become a row
        given = uncertainty is not None or bool(fixed)
        self.parameters = TaskParameters(env, uncertainty, fixed) if given else None
        self.nominal = self.parameters.nominal[: self.parameters.count] if self.parameters else np.empty(0)
        layout = self.parameters.layout if self.parameters else None
        if layout is not None and "frame_skip" in layout.at:
            raise ValueError(
                "frame_skip: all worlds of --env.backend warp make the same steps; use --env.backend mujoco"
            )
        model = self.task.model
        own = self.parameters.model if self.parameters else None
        changes = [name for name in (own.changes if own else ()) if not name.startswith(_UNUSED)]
        self.varied = [name for name in changes if Simulation.varies(name)]
        self.own_centres = own_centres and "body_mass" in self.varied and not (own and own.derives_masses)
        if self.own_centres and "body_subtreemass" not in self.varied:
            self.varied.append("body_subtreemass")
        self._offset = "actuator_biastype" in changes
        self._rows = {name: np.repeat(_array(model, name)[None], num_worlds, axis=0) for name in self.varied}
        self._written: list[np.ndarray | None] = [None] * num_worlds  # the parameters (D,) that a row has
        self._stale: set[int] = set()  # rows that the worlds do not have yet
        self._stock: dict[str, Tensor] | None = None  # arrays of the compiled model, on the worlds' device
        self.forces = np.zeros((num_worlds, model.nbody, 6))  # external ones, as `xfrc_applied`
        self._signals = [Signals(layout) for _ in range(num_worlds)] if layout else []
        self.disturbed = np.zeros(num_worlds, bool)  # whose episode has a signal that does something

    def shared_model(self) -> mujoco.MjModel:
        """Return the model that all worlds are made of; what a parameter makes of its kinds holds for every world."""
        model = copy(self.task.model)
        if self._offset:  # a bias of no kind is an affine one of zeros
            none = model.actuator_biastype == mujoco.mjtBias.mjBIAS_NONE
            model.actuator_biastype[none] = mujoco.mjtBias.mjBIAS_AFFINE
        return model

    def seed(self, world: int, seed: int) -> None:
        """Restart the generator of a world's disturbances."""
        if self._signals:
            self._signals[world].seed(seed)

    def begin(self, world: int, values: np.ndarray) -> None:
        """Begin an episode of a world with parameters (d,) of the set."""
        self.forces[world] = 0.0
        if self.parameters is None:
            return
        full = self.parameters.full(values)
        if self._signals:
            self._signals[world].begin(full, self.parameters.untimed)
            self.disturbed[world], full = self._signals[world].active, self._signals[world].in_force
        self._write(world, full)

    def change(self, simulation: Simulation, values: Tensor) -> None:
        """Give every world other parameters (N, d) of the set in the middle of an episode.

        Where that is arithmetic it is one program of tensors on their device. What MuJoCo derives from parameters
        (constants, tilted gravity, actuators), and disturbances, are written on the host, world by world.

        Raises:
            ValueError: parameters that are not allowed.
        """
        assert self.parameters is not None
        rows = values.numpy(force=True)
        full = self.parameters.check_rows(rows)
        own = self.parameters.model
        if own is not None and own.is_arithmetic and not self._signals:
            self._change_together(simulation, own, values, full)
            return
        for world, row in enumerate(rows):
            self._change_one(world, row)
        self.upload(simulation, range(len(rows)))

    def _change_one(self, world: int, values: np.ndarray) -> None:
        assert self.parameters is not None
        full = self.parameters.full(values)
        if self._signals:
            self._signals[world].change(full)
            self.disturbed[world], full = self._signals[world].active, self._signals[world].in_force
        self._write(world, full)

    def _change_together(
        self, simulation: Simulation, own: ModelParameters | FixedFirst, values: Tensor, full: np.ndarray
    ) -> None:
        """Write parameters (N, d) of the set, with the fixed ones `full` (N, D), into the rows of all worlds."""
        if self._stock is None:
            self._stock = own.stock(simulation.device)
        rest = torch.from_numpy(full[:, values.shape[1] :])
        every = torch.cat([values.to(simulation.device), rest.to(simulation.device)], 1)
        arrays = own.arrays(self._stock, every)
        if self.own_centres:
            arrays["body_subtreemass"] = _subtree_masses(self.task.model, arrays["body_mass"])
        for name in self.varied:
            simulation.rows(name).copy_(arrays[name])
        for k, slot in own.forces:
            assign(torch.from_numpy(self.forces), slot, torch.from_numpy(full[:, k]))  # shares the memory
            assign(simulation.field("xfrc_applied"), slot, every[:, k])
        self._written = list(full)
        self._stale.clear()

    def _write(self, world: int, full: np.ndarray) -> None:
        assert self.parameters is not None
        self.parameters.push(_data(self.forces[world]), full)
        written = self._written[world]
        if written is not None and np.array_equal(written, full):
            return
        self.parameters.write(self.task, full)
        for name, rows in self._rows.items():
            rows[world] = _array(self.task.model, name)
        if self.own_centres:
            masses = torch.from_numpy(self.task.model.body_mass)
            self._rows["body_subtreemass"][world] = _subtree_masses(self.task.model, masses).numpy()
        self._written[world] = full.copy()
        self._stale.add(world)

    # --- in a step ---

    def command(self, world: int, action: np.ndarray) -> np.ndarray:
        """Let the parameters of this step come into force; return the action that is executed."""
        assert self.parameters is not None
        signals = self._signals[world]
        if signals.advance():
            self._write(world, signals.in_force)
        executed: np.ndarray = signals.command(action)
        return executed

    def push(self, worlds: Iterable[int], seconds: float) -> Pushed:
        """Push bodies of some worlds in this step of so many seconds; return what is to be put back after it."""
        pushed = [(i, self._signals[i].push(_data(self.forces[i]), seconds)) for i in worlds]
        return [(i, before) for i, before in pushed if before]

    def end_pushes(self, pushed: Pushed) -> None:
        """End the pushes of a step."""
        for i, before in pushed:
            put_back(_data(self.forces[i]), before)

    def sense(self, world: int, obs: np.ndarray) -> np.ndarray:
        """Return what the sensors of a world show of an observation (obs,)."""
        return self._signals[world].sense(obs)

    def upload(self, simulation: Simulation, worlds: Iterable[int]) -> None:
        """Let the worlds have their rows, and some of them their external forces."""
        stale = np.array(sorted(self._stale), np.int64)
        if len(stale):
            at = torch.from_numpy(stale).to(simulation.device)
            for name, rows in self._rows.items():
                view = simulation.rows(name)
                view[at] = torch.from_numpy(rows[stale]).to(view)
            self._stale.clear()
        forced = np.fromiter(worlds, np.int64)
        if len(forced):
            view = simulation.field("xfrc_applied")
            view[torch.from_numpy(forced).to(simulation.device)] = torch.from_numpy(self.forces[forced]).to(view)

    # --- to resume ---

    def state_dict(self) -> dict[str, Any]:
        """Return the parameters, forces and disturbances of every world."""
        return {
            "written": list(self._written),
            "forces": self.forces,
            "disturbed": self.disturbed,
            "signals": [signals.state_dict() for signals in self._signals],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`; `upload` brings it to the worlds."""
        for world, full in enumerate(state["written"]):
            if full is not None:
                self._written[world] = None
                self._write(world, full)
        self.forces[...], self.disturbed[...] = state["forces"], state["disturbed"]
        for signals, saved in zip(self._signals, state["signals"], strict=True):
            signals.load_state_dict(saved)


def _array(model: mujoco.MjModel, name: str) -> np.ndarray:
    array: np.ndarray = model.opt.gravity if name == "gravity" else getattr(model, name)
    return array


def _subtree_masses(model: mujoco.MjModel, body_mass: Tensor) -> Tensor:
    """Return the masses (…, nbody) of every body with all that hangs on it."""
    masses = body_mass.clone()
    for body in range(model.nbody - 1, 0, -1):  # children come after their parents
        masses[..., int(model.body_parentid[body])] += masses[..., body]
    return masses


def _data(forces: np.ndarray) -> Any:
    """Return external forces (nbody, 6) as a piece of `MjData`, for the code that writes them in C."""
    return SimpleNamespace(xfrc_applied=forces)
