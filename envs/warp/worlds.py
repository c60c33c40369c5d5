"""N worlds of one of Gymnasium's MuJoCo tasks, stepped together, each with its own physics, noise and generator.

What differs from one world to the next is what differs in C: a set's parameters are written by the same code into a
compiled model, whose arrays become one row of the worlds'; starts, action noise and disturbances are drawn from one
NumPy generator per world that is seeded as Gymnasium seeds a task's. A reset seed therefore means the same episode on
both backends, up to single precision.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import gymnasium as gym
import mujoco
import numpy as np
import torch
from gymnasium.utils.seeding import np_random
from torch import Tensor

from surefoot.envs.config import EnvConfig
from surefoot.envs.parameters import UncertaintySet
from surefoot.envs.resumable import generator_state, set_generator_state
from surefoot.envs.task_parameters import is_time_aware
from surefoot.envs.warp.parameter_rows import ParameterRows, Pushed
from surefoot.envs.warp.simulation import Simulation, wp_device
from surefoot.envs.warp.tasks import TASKS, Fields, require_served

LARGEST = 1e10  # of positions, velocities, accelerations: mjMAXVAL, beyond which MuJoCo calls a state bad
_CARRIED = ("qpos", "qvel", "qacc_warmstart", "time")  # from one physics step into the next, beside outer forces
_CLEARED = ("qacc_warmstart", "time", "ctrl", "qacc", "cfrc_ext", "overflow")


class Moved(NamedTuple):
    """One control step of all worlds."""

    obs: Tensor  # (N, obs) float32, the true successor; where the physics diverged the last good one
    reward: Tensor  # (N,) float32, 0 where it diverged
    terminated: Tensor  # (N,) bool
    truncated: Tensor  # (N,) bool
    broken: Tensor  # (N,) bool: the physics diverged in this step
    info: dict[str, Tensor]  # (N, …), what Gymnasium's task has in its info


def about_other_points(forces: Tensor, points: Tensor, ratio: Tensor) -> Tensor:
    """Return torques and forces (…, 6) about ratio (…, 1) times the points (…, 3) about which they are given."""
    torque, force = forces.split(3, -1)
    return torch.cat([torque + torch.linalg.cross((1 - ratio) * points, force), force], -1)


class Worlds:
    """The worlds of a task; `env` is one of `make_single` without fixed parameters, which is not stepped.

    Raises:
        ValueError: a task or a disturbance that this backend does not serve, by name; as `TaskParameters`.
    """

    def __init__(
        self,
        env: gym.Env,
        config: EnvConfig,
        uncertainty: UncertaintySet | None,
        num_worlds: int,
        device: str | torch.device,
        limit: int | None,
    ):
        require_served(config)
        wp_device(torch.device(device))
        self.num_worlds, self.device, self.limit = num_worlds, torch.device(device), limit
        self.spaces = (env.observation_space, env.action_space)
        self.task = cast(Any, env.unwrapped)
        self.definition, self.noise = TASKS[config.id], config.physics.action_noise
        self._time_aware, bounds = is_time_aware(env), self.task.action_space
        low, high = (torch.from_numpy(bound).to(self.device) for bound in (bounds.low, bounds.high))
        self._middle, self._half = (low + high) / 2, (high - low) / 2
        # Of inertias and velocities about C's own point an observation shows the numbers: they stay about that point.
        own_centres = not {"cinert", "cvel"} & {*self.definition.before, *self.definition.after}
        self.rows = ParameterRows(env, uncertainty, config.physics.fixed(), num_worlds, own_centres=own_centres)
        self.simulation = self._simulation(config)
        self._roots = torch.from_numpy(self.task.model.body_rootid).long().to(self.device)
        compiled = torch.from_numpy(self.task.model.body_subtreemass).float().to(self.device)
        self._compiled_masses = compiled[self._roots, None]  # by which C divides, whatever a world's masses are
        self.generators = [np.random.default_rng() for _ in range(num_worlds)]
        self._elapsed = torch.zeros(num_worlds, dtype=torch.int64, device=self.device)
        self._obs = torch.zeros((num_worlds, *(self.spaces[0].shape or ())), device=self.device)
        self._before = {name: self.simulation.field(name).clone() for name in self.definition.before}
        derived = {*self.definition.before, *self.definition.after} - {"qpos", "qvel", "body_mass"}
        self._needs_forward, self._needs_forces = bool(derived), "cfrc_ext" in derived

    def _simulation(self, config: EnvConfig) -> Simulation:
        model, task = self.rows.shared_model(), self.definition
        if model.opt.solver == mujoco.mjtSolver.mjSOL_PGS:
            model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
            _say_once(
                f"note: {config.id} asks for the solver PGS, which MuJoCo Warp does not have; its worlds use Newton"
            )
        sizes = {"nconmax": config.nconmax or task.contacts, "njmax": config.njmax or task.constraints(model)}
        return Simulation(model, self.num_worlds, self.device, **sizes, varied=self.rows.varied, label=config.id)

    def begin(self, worlds: np.ndarray, values: np.ndarray, seeds: Sequence[int | None] | None = None) -> Tensor:
        """Start an episode in some worlds (n,), with parameters (n, d) of the set; return all observations (N, obs).

        A seed restarts a world's generators as Gymnasium's reset does; without one they continue.
        """
        starts = []
        for k, i in enumerate(worlds.tolist()):
            if seeds is not None and (seed := seeds[k]) is not None:
                self.generators[i] = np_random(seed)[0]
                self.rows.seed(i, seed)
            self.rows.begin(i, values[k])
            starts.append(self.definition.start(self.task, self.generators[i]))
        self._put(worlds, *(np.array(part) for part in zip(*starts, strict=True)))
        at = torch.from_numpy(worlds).to(self.device)
        if self._needs_forward:
            self.simulation.forward()  # the other worlds compute again what they have
        for name, held in self._before.items():
            held[at] = self.simulation.field(name)[at]
        shown = self._sensed(self._observed(self._fields()), worlds)
        self._obs = self._obs.index_copy(0, at, shown[at])  # a tensor of its own: the last one was handed out
        return self._obs

    def _put(self, worlds: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> None:
        at = torch.from_numpy(worlds).to(self.device)
        for name in _CLEARED:
            self.simulation.field(name).index_fill_(0, at, 0)
        self.simulation.field("qpos")[at] = self._tensor(qpos)
        self.simulation.field("qvel")[at] = self._tensor(qvel)
        self.rows.upload(self.simulation, worlds.tolist())
        self._elapsed[at] = 0

    def advance(self, actions: Tensor, busy: np.ndarray | None = None) -> Moved:
        """Make one control step in all worlds; what happens in those (N,) that are not busy does not count.

        Raises:
            TaskError: a buffer of contacts or constraints is too small.
        """
        busy = np.ones(self.num_worlds, bool) if busy is None else busy
        executed, pushed = self._executed(actions, busy)
        after = self._simulate(executed)
        self.rows.end_pushes(pushed)
        if pushed:
            self.rows.upload(self.simulation, (i for i, _ in pushed))
        self._elapsed += 1
        obs, outcome = self._observed(after), self.definition.outcome(self.task, self._before, after, executed)
        good = _bounded(after["qpos"]) & _bounded(after["qvel"]) & _bounded(self.simulation.field("qacc"))
        good &= obs.isfinite().all(1) & outcome.reward.isfinite()
        counted = busy & good.numpy(force=True)
        self.simulation.check_buffers(counted)
        info = {name: value.clone() for name, value in outcome.info.items()}  # some are views of what moves on
        for name, held in self._before.items():
            held.copy_(self.simulation.field(name))
        self._obs = torch.where(good[:, None], self._sensed(obs, np.flatnonzero(counted)), self._obs)
        truncated = self._elapsed >= (self.limit or torch.iinfo(torch.int64).max)
        reward = outcome.reward.masked_fill(~good, 0.0)
        return Moved(self._obs, reward, outcome.terminated | ~good, truncated, ~good, info)

    def _simulate(self, executed: Tensor) -> Fields:
        self.simulation.field("ctrl").copy_(executed)
        self.simulation.step(self.task.frame_skip)
        if self._needs_forces:
            self.simulation.contact_forces()
        return self._fields()

    def _fields(self) -> Fields:
        fields = {name: self.simulation.field(name) for name in self.definition.after}
        if "cfrc_ext" in fields and self.rows.own_centres:
            centres, masses = self.simulation.field("subtree_com"), self.simulation.rows("body_subtreemass")
            ratio = masses[:, self._roots, None] / self._compiled_masses
            fields["cfrc_ext"] = about_other_points(fields["cfrc_ext"], centres[:, self._roots], ratio)
        return fields

    def _observed(self, fields: Fields) -> Tensor:
        obs = self.definition.observe(self.task, fields)
        return torch.cat([obs, self._elapsed[:, None].to(obs)], 1) if self._time_aware else obs

    # --- what lies between policy and task ---

    def _executed(self, actions: Tensor, busy: np.ndarray) -> tuple[Tensor, Pushed]:
        """Return the actions (N, act) in the task's own units, and the pushes of this step."""
        disturbed, pushed = np.flatnonzero(busy & self.rows.disturbed).tolist(), Pushed()
        if disturbed or self.noise > 0.0:
            given = actions.numpy(force=True).copy()
            for i in disturbed:
                given[i] = self.rows.command(i, given[i])
            pushed = self.rows.push(disturbed, float(self.task.dt))
            self.rows.upload(self.simulation, disturbed)
            for i in np.flatnonzero(busy).tolist() if self.noise > 0.0 else ():
                given[i] += self.noise * self.generators[i].standard_normal(given.shape[1])
            actions = self._tensor(given)
        return self._middle + self._half * actions, pushed

    def _sensed(self, obs: Tensor, worlds: np.ndarray) -> Tensor:
        """Return observations (N, obs) as the sensors of those worlds (n,) show them that are disturbed."""
        disturbed = worlds[self.rows.disturbed[worlds]].tolist()
        if not disturbed:
            return obs
        seen = obs.numpy(force=True).copy()
        for i in disturbed:
            seen[i] = self.rows.sense(i, seen[i])
        return self._tensor(seen)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(array, np.float32)).to(self.device)

    # --- to resume ---

    def state_dict(self) -> dict[str, Any]:
        """Return all that the episodes to come depend on, bit for bit, as arrays, tensors and plain values."""
        return {
            "carried": {name: self.simulation.field(name).clone() for name in _CARRIED},
            "before": {name: held.clone() for name, held in self._before.items()},
            "obs": self._obs,
            "elapsed": self._elapsed.clone(),
            "generators": [generator_state(generator) for generator in self.generators],
            "rows": self.rows.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        self.rows.load_state_dict(state["rows"])
        self.rows.upload(self.simulation, range(self.num_worlds))
        for name, values in state["carried"].items():
            self.simulation.field(name).copy_(values)
        for name, values in state["before"].items():
            self._before[name].copy_(values)
        self._obs = state["obs"].to(self._obs)
        self._elapsed = state["elapsed"].to(self._elapsed, copy=True)  # counted in place
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            set_generator_state(generator, saved)


@cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _bounded(values: Tensor) -> Tensor:
    return (values.abs() <= LARGEST).all(1)  # NaN is not
