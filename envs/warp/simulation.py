"""MuJoCo Warp behind tensors: N worlds of one compiled model that share their memory with PyTorch."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import mujoco
import mujoco_warp as mjw
import numpy as np
import torch
import warp as wp
from torch import Tensor

from surefoot.envs.finite import TaskError
from surefoot.envs.warp.contact_frames import frames_as_in_c

CONTACTS, CONSTRAINTS = "--env.nconmax", "--env.njmax"  # the options that a full buffer names
_TOO_MANY_CONTACTS = int(mjw.OverflowType.BROADPHASE | mjw.OverflowType.NARROWPHASE | mjw.OverflowType.CCD)
_TOO_MANY_CONSTRAINTS = int(mjw.OverflowType.NEFC | mjw.OverflowType.NJMAX_NNZ)
_OF_OPTIONS = ("gravity",)  # arrays of the model's options, the others are of the model itself


class Simulation:
    """N worlds of a model; those arrays of it that are named in `varied` have a row for each world.

    Kernels are compiled when they are first needed and recorded as a graph, so that a step is one call: on the GPU a
    CUDA graph, on the CPU the same list of kernels without Python between them.

    Args:
        nconmax: contacts that each world may have on average, over all worlds at a time.
        njmax: rows of constraints that no world may exceed.

    Raises:
        ValueError: a model with something that MuJoCo Warp does not simulate, or no such device.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_worlds: int,
        device: torch.device,
        *,
        nconmax: int,
        njmax: int,
        varied: Collection[str] = (),
        label: str = "the task",
    ):
        self.device, self.label = device, label
        self.sizes = {CONTACTS: nconmax, CONSTRAINTS: njmax}
        self._wp_device = wp_device(device)
        with wp.ScopedDevice(self._wp_device):
            try:
                self.model: Any = mjw.put_model(model)
            except NotImplementedError as error:
                raise ValueError(f"{label}: MuJoCo Warp does not simulate it: {error}") from error
            self.data: Any = mjw.put_data(model, mujoco.MjData(model), nworld=num_worlds, nconmax=nconmax, njmax=njmax)
            self.model.opt.warn_overflow = 0  # `check_buffers` raises instead
            self._rows = {name: self._a_row_per_world(name, num_worlds) for name in varied}
        self._graphs: dict[str, Any] = {}
        self._views: dict[str, Tensor] = {}

    def _a_row_per_world(self, name: str, num_worlds: int) -> Tensor:
        owner = self.model.opt if name in _OF_OPTIONS else self.model
        shared = getattr(owner, name)
        rows = wp.clone(wp.array(np.repeat(shared.numpy()[:1], num_worlds, axis=0), dtype=shared.dtype))
        setattr(owner, name, rows)
        view: Tensor = wp.to_torch(rows)
        return view

    @staticmethod
    def varies(name: str) -> bool:
        """Whether an array of the model can have a row for each world."""
        spec = {one.name: one.type for one in dataclasses.fields(mjw.Model)}.get(name)
        return name in _OF_OPTIONS or getattr(spec, "shape", ("",))[:1] == ("*",)

    def rows(self, name: str) -> Tensor:
        """An array of the model (N, …) that varies, to write into."""
        return self._rows[name]

    def field(self, name: str) -> Tensor:
        """An array of the state by its name in `MjData` (N, …), or `body_mass` (N or 1, nbody): a view, not a copy."""
        if name not in self._views:
            self._views[name] = wp.to_torch(getattr(self.model if name == "body_mass" else self.data, name))
        return self._views[name]

    def step(self, count: int) -> None:
        """Advance all worlds by so many physics steps."""
        for _ in range(count):
            self._run("step", lambda: mjw.step(self.model, self.data))

    def forward(self) -> None:
        """Compute what follows from positions and velocities, which stay as they are."""
        self._run("forward", lambda: mjw.forward(self.model, self.data))

    def contact_forces(self) -> None:
        """Compute `cfrc_ext`, as Gymnasium does after its steps."""
        self._run("contact forces", lambda: mjw.rne_postconstraint(self.model, self.data))

    def check_buffers(self, counted: np.ndarray) -> None:
        """Raise `TaskError` where a world (N,) of those that count had more contacts or constraints than there is room.

        The simulator drops what does not fit, so that the motion would be another one.
        """
        full = self.field("overflow").numpy(force=True)
        for option, kinds in ((CONTACTS, _TOO_MANY_CONTACTS), (CONSTRAINTS, _TOO_MANY_CONSTRAINTS)):
            worlds = np.flatnonzero(counted & ((full & kinds) != 0))
            if len(worlds):
                raise TaskError(
                    f"{self.label}: world {worlds[0]} has more {'contacts' if option == CONTACTS else 'constraints'} "
                    f"than there is room for; raise {option}, which is {self.sizes[option]}"
                )

    def _run(self, name: str, call: Callable[[], None]) -> None:
        stream = None if self.device.type == "cpu" else wp.stream_from_torch(torch.cuda.current_stream(self.device))
        if name in self._graphs:
            wp.capture_launch(self._graphs[name], stream=stream)
            return
        with wp.ScopedDevice(self._wp_device), frames_as_in_c():
            kept = ("qpos", "qvel", "qacc_warmstart", "time", "overflow")
            saved = {field: self.field(field).clone() for field in kept}
            with _Compiling(self.label, name, self._wp_device):
                call()  # loads, and where need be compiles, every kernel: none may be while a graph is recorded
                wp.synchronize_device(self._wp_device)
            for field, values in saved.items():
                self.field(field).copy_(values)
            if self.device.type != "cpu":
                torch.cuda.synchronize(self.device)
            with wp.ScopedCapture(device=self._wp_device) as capture:
                call()
        self._graphs[name] = capture.graph
        wp.capture_launch(self._graphs[name], stream=stream)


def wp_device(device: torch.device) -> Any:
    """Return Warp's name of a torch device; `ValueError` where Warp cannot use it."""
    wp.config.log_level = wp.LOG_WARNING  # a line per kernel otherwise; `_Compiling` says what takes its time
    wp.init()
    try:
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_available() else 0)
        return wp.device_from_torch(device)
    except (RuntimeError, ValueError, IndexError) as error:
        known = ", ".join(str(one) for one in wp.get_devices())
        raise ValueError(f"--env.backend warp cannot use the device {device}: Warp has {known}") from error


class _Compiling:
    """Says what takes its time: kernels are compiled once for a model and a device, then read from a folder."""

    def __init__(self, label: str, what: str, device: Any):
        self.where = Path(wp.config.kernel_cache_dir)
        arch = "cpu" if device.is_cpu else f"sm{device.arch}"
        mark = "-".join((label.replace("/", "_"), what.replace(" ", "_"), arch, mjw.__version__, wp.__version__))
        self.mark = self.where / f"surefoot-{mark}.compiled"
        self.line = f"{label}: compiling the kernels of MuJoCo Warp for {device.alias}, {what} (up to 90 s, once)"

    def __enter__(self) -> None:
        self.began = time.perf_counter()
        if not self.mark.exists():
            print(self.line, file=sys.stderr, flush=True)

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None and not self.mark.exists():
            took = time.perf_counter() - self.began
            print(f"compiled in {took:.1f} s; kept in {self.where}", file=sys.stderr, flush=True)
            self.where.mkdir(parents=True, exist_ok=True)
            self.mark.touch()
