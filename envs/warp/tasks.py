"""Gymnasium's eleven MuJoCo tasks (v5) as functions of tensors, all worlds at once: observation, reward, end, start.

A task reads arrays of MuJoCo's state by their names in `MjData`, (N, …) each, from whichever simulator has stepped it;
weights and ranges are those of the Gymnasium task that it is given, so that `--env.kwargs` count here too. Operations
come in the order of Gymnasium's code. Starts are drawn with NumPy, number for number as Gymnasium draws them, so that
a reset seed means the same start on every backend.

To add a task: write its functions here, put it into `TASKS`, and `tests/envs/warp/test_tasks.py` compares it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from surefoot.envs.config import EnvConfig
from surefoot.envs.health import balanced, standing, upright, within

Fields = dict[str, Tensor]  # arrays of MjData by name, and `body_mass` of the model, (N, …) each
Start = tuple[np.ndarray, np.ndarray]  # qpos (nq,), qvel (nv,), float64


class Outcome(NamedTuple):
    """What one control step gave, without the observation."""

    reward: Tensor  # (N,)
    terminated: Tensor  # (N,) bool
    info: dict[str, Tensor]  # (N, …), what Gymnasium's task has in its info


class Task(NamedTuple):
    """One of Gymnasium's tasks; `task` is always the Gymnasium environment, unwrapped, that holds its settings."""

    before: tuple[str, ...]  # arrays of which the values before the step count
    after: tuple[str, ...]
    observe: Callable[[Any, Fields], Tensor]  # (task, state) -> (N, obs)
    outcome: Callable[[Any, Fields, Fields, Tensor], Outcome]  # (task, before, after, action in the task's own units)
    start: Callable[[Any, np.random.Generator], Start]
    contacts: int = 4  # that a world has at most, with room to spare: measured in C, lying and thrown about

    def constraints(self, model: mujoco.MjModel) -> int:
        """Return how many rows of constraints a world has at most: four edges a contact, limits, friction of joints."""
        return int(4 * self.contacts + model.jnt_limited.sum() + model.tendon_limited.sum() + model.nv)


# --- observations -----------------------------------------------------------------------------------------------------


def _positions(task: Any, state: Fields, hidden: int) -> Tensor:
    return state["qpos"][:, hidden:] if task._exclude_current_positions_from_observation else state["qpos"]


def observe_planar(task: Any, state: Fields) -> Tensor:
    """All but x, and the velocities: HalfCheetah."""
    return torch.cat([_positions(task, state, 1), state["qvel"]], 1)


def observe_clipped(task: Any, state: Fields) -> Tensor:
    """All but x, and the velocities within ±10: Hopper and Walker2d."""
    return torch.cat([_positions(task, state, 1), state["qvel"].clamp(-10, 10)], 1)


def observe_swimmer(task: Any, state: Fields) -> Tensor:
    """All but x and y, and the velocities."""
    return torch.cat([_positions(task, state, 2), state["qvel"]], 1)


def observe_pendulum(task: Any, state: Fields) -> Tensor:
    """Positions and velocities of the inverted pendulum."""
    return torch.cat([state["qpos"], state["qvel"]], 1)


def observe_double_pendulum(task: Any, state: Fields) -> Tensor:
    """Position of the cart, sines and cosines of the angles, clipped velocities and force on the cart."""
    angles, force = state["qpos"][:, 1:], state["qfrc_constraint"].clamp(-10, 10)[:, :1]
    return torch.cat([state["qpos"][:, :1], angles.sin(), angles.cos(), state["qvel"].clamp(-10, 10), force], 1)


def observe_ant(task: Any, state: Fields) -> Tensor:
    """All but x and y, the velocities, and the clipped contact forces on each body but the world."""
    seen = [_positions(task, state, 2), state["qvel"]]
    if task._include_cfrc_ext_in_observation:
        seen.append(state["cfrc_ext"].clamp(*task._contact_force_range)[:, 1:].flatten(1))
    return torch.cat(seen, 1)


def observe_humanoid(task: Any, state: Fields) -> Tensor:
    """All but x and y, the velocities, inertias, velocities and outer forces of the bodies, forces of the actuators."""
    parts = {
        "cinert": state["cinert"][:, 1:],
        "cvel": state["cvel"][:, 1:],
        "qfrc_actuator": state["qfrc_actuator"][:, 6:],
        "cfrc_ext": state["cfrc_ext"][:, 1:],
    }
    seen = [part.flatten(1) for name, part in parts.items() if getattr(task, f"_include_{name}_in_observation") is True]
    return torch.cat([_positions(task, state, 2), state["qvel"], *seen], 1)


def observe_reacher(task: Any, state: Fields) -> Tensor:
    """Cosines and sines of the two angles, the target, angular velocities, and the way from target to fingertip."""
    angles, apart = state["qpos"][:, :2], _apart(task, state, "fingertip", "target")[:, :2]
    return torch.cat([angles.cos(), angles.sin(), state["qpos"][:, 2:], state["qvel"][:, :2], apart], 1)


def observe_pusher(task: Any, state: Fields) -> Tensor:
    """The arm's seven joints and velocities, and where its tip, the object and the goal are."""
    places = [_place(task, state, body) for body in ("tips_arm", "object", "goal")]
    return torch.cat([state["qpos"][:, :7], state["qvel"][:, :7], *places], 1)


def _place(task: Any, state: Fields, body: str) -> Tensor:
    return state["xpos"][:, task.model.body(body).id]


def _apart(task: Any, state: Fields, body: str, other: str) -> Tensor:
    return _place(task, state, body) - _place(task, state, other)


# --- rewards and ends -------------------------------------------------------------------------------------------------


def outcome_planar(task: Any, before: Fields, after: Fields, action: Tensor) -> Outcome:
    """Forward along x at the price of the action; nothing ends it: HalfCheetah."""
    x, velocity = after["qpos"][:, 0], _velocity(task, before["qpos"][:, :1], after["qpos"][:, :1])[:, 0]
    forward, cost = task._forward_reward_weight * velocity, _effort(task._ctrl_cost_weight, action)
    terms = {"reward_forward": forward, "reward_ctrl": -cost}
    return Outcome(forward - cost, _no_end(action), {"x_position": x, "x_velocity": velocity, **terms})


def outcome_swimmer(task: Any, before: Fields, after: Fields, action: Tensor) -> Outcome:
    """Forward along x at the price of the action; nothing ends it."""
    velocity = _velocity(task, before["qpos"][:, :2], after["qpos"][:, :2])
    forward, cost = task._forward_reward_weight * velocity[:, 0], _effort(task._ctrl_cost_weight, action)
    terms = {"reward_forward": forward, "reward_ctrl": -cost}
    return Outcome(forward - cost, _no_end(action), _on_plane(after["qpos"], velocity) | terms)


def outcome_hopper(task: Any, before: Fields, after: Fields, action: Tensor) -> Outcome:
    """Forward and alive; all but x and z within a range, height and angle of the torso healthy."""
    state = torch.cat([after["qpos"], after["qvel"]], 1)[:, 2:]
    return _upright(task, before, after, action, within(state, *task._healthy_state_range).all(1))


def outcome_walker2d(task: Any, before: Fields, after: Fields, action: Tensor) -> Outcome:
    """Forward and alive; height and angle of the torso healthy."""
    return _upright(task, before, after, action, ~_no_end(action))


def _upright(task: Any, before: Fields, after: Fields, action: Tensor, steady: Tensor) -> Outcome:
    qpos = after["qpos"]
    healthy = steady & upright(qpos[:, 1], qpos[:, 2], task._healthy_z_range, task._healthy_angle_range)
    velocity = _velocity(task, before["qpos"][:, :1], qpos[:, :1])[:, 0]
    forward, alive = task._forward_reward_weight * velocity, _alive(healthy, task, velocity)
    cost = _effort(task._ctrl_cost_weight, action)
    info = {
        "x_position": qpos[:, 0],
        "z_distance_from_origin": qpos[:, 1] - float(task.init_qpos[1]),
        "x_velocity": velocity,
        "reward_forward": forward,
        "reward_ctrl": -cost,
        "reward_survive": alive,
    }
    return Outcome(forward + alive - cost, ~healthy & task._terminate_when_unhealthy, info)


def outcome_pendulum(task: Any, before: Fields, after: Fields, action: Tensor) -> Outcome:
    """1 for every step within 0.2 rad."""
    state = observe_pendulum(task, after)
    healthy = balanced(state, state[:, 1])
    alive = healthy.to(state.dtype)
    return Outcome(alive, ~healthy, {"reward_survive": alive})


def outcome_double_pendulum(task: Any, before: Fields, after: Fields, action: Tensor) -> Outcome:
    """Alive while the tip is above 1, less what it is away from its place and how fast it turns."""
    x, height = after["site_xpos"][:, 0, 0], after["site_xpos"][:, 0, 2]
    first, second = after["qvel"][:, 1], after["qvel"][:, 2]
    fallen = height <= 1
    distance = 0.01 * x**2 + (height - 2) ** 2
    turning = 1e-3 * first**2 + 5e-3 * second**2
    alive = _alive(~fallen, task, x)
    info = {"reward_survive": alive, "distance_penalty": -distance, "velocity_penalty": -turning}
    return Outcome(alive - distance - turning, fallen, info)


def outcome_ant(task: Any, before: Fields, after: Fields, action: Tensor) -> Outcome:
    """Forward and alive, less the action and the clipped contact forces; ends unless finite and between two heights."""
    torso, qpos = task.model.body(task._main_body).id, after["qpos"]
    velocity = _velocity(task, before["xpos"][:, torso, :2], after["xpos"][:, torso, :2])
    healthy = standing(torch.cat([qpos, after["qvel"]], 1), qpos[:, 2], task._healthy_z_range)
    forward, alive = velocity[:, 0] * task._forward_reward_weight, _alive(healthy, task, velocity)
    cost = _effort(task._ctrl_cost_weight, action)
    contact = _effort(task._contact_cost_weight, after["cfrc_ext"].clamp(*task._contact_force_range).flatten(1))
    terms = {"reward_forward": forward, "reward_ctrl": -cost, "reward_contact": -contact, "reward_survive": alive}
    reward = forward + alive - (cost + contact)
    return Outcome(reward, ~healthy & task._terminate_when_unhealthy, _on_plane(qpos, velocity) | terms)


def outcome_humanoid(task: Any, before: Fields, after: Fields, action: Tensor) -> Outcome:
    """Forward (its centre of mass) and alive, less the action and the contact forces; ends outside of two heights."""
    mass, qpos = after["body_mass"], after["qpos"]
    velocity = _velocity(task, mass_centre(mass, before["xipos"]), mass_centre(mass, after["xipos"]))
    healthy = within(qpos[:, 2], *task._healthy_z_range)
    forward, alive = task._forward_reward_weight * velocity[:, 0], _alive(healthy, task, velocity)
    cost = _effort(task._ctrl_cost_weight, action)
    contact = _effort(task._contact_cost_weight, after["cfrc_ext"].flatten(1)).clamp(*task._contact_cost_range)
    terms = {"reward_survive": alive, "reward_forward": forward, "reward_ctrl": -cost, "reward_contact": -contact}
    info = _on_plane(qpos, velocity) | _tendons(after) | terms
    return Outcome(forward + alive - (cost + contact), ~healthy & task._terminate_when_unhealthy, info)


def outcome_standup(task: Any, before: Fields, after: Fields, action: Tensor) -> Outcome:
    """Height of the torso by the length of a physics step, less the action and the contact forces; nothing ends it."""
    qpos = after["qpos"]
    up = qpos[:, 2] / float(task.model.opt.timestep)
    effort = _effort(task._ctrl_cost_weight, action)
    impact = _effort(task._impact_cost_weight, after["cfrc_ext"].flatten(1)).clamp(*task._impact_cost_range)
    info = {
        "x_position": qpos[:, 0],
        "y_position": qpos[:, 1],
        "z_distance_from_origin": qpos[:, 2] - float(task.init_qpos[2]),
        **_tendons(after),
        "reward_linup": up,
        "reward_quadctrl": -effort,
        "reward_impact": -impact,
    }
    return Outcome(up - effort - impact + 1, _no_end(action), info)


def outcome_reacher(task: Any, before: Fields, after: Fields, action: Tensor) -> Outcome:
    """Near the target at the price of the action; nothing ends it."""
    near = -_apart(task, after, "fingertip", "target").norm(dim=1) * task._reward_dist_weight
    cost = -_effort(task._reward_control_weight, action)
    return Outcome(near + cost, _no_end(action), {"reward_dist": near, "reward_ctrl": cost})


def outcome_pusher(task: Any, before: Fields, after: Fields, action: Tensor) -> Outcome:
    """The object near the goal and the arm near the object, at the price of the action; nothing ends it."""
    near = -_apart(task, after, "object", "tips_arm").norm(dim=1) * task._reward_near_weight
    distance = -_apart(task, after, "object", "goal").norm(dim=1) * task._reward_dist_weight
    cost = -_effort(task._reward_control_weight, action)
    info = {"reward_dist": distance, "reward_ctrl": cost, "reward_near": near}
    return Outcome(distance + cost + near, _no_end(action), info)


def mass_centre(mass: Tensor, xipos: Tensor) -> Tensor:
    """Return x and y (N, 2) of the centre of all bodies' masses (N or 1, nbody), whose centres are at (N, nbody, 3)."""
    centre: Tensor = ((mass[..., None] * xipos).sum(1) / mass.sum(1, keepdim=True))[:, :2]
    return centre


def _velocity(task: Any, before: Tensor, after: Tensor) -> Tensor:
    return (after - before) / float(task.dt)


def _effort(weight: float, values: Tensor) -> Tensor:
    return weight * values.square().sum(1)


def _alive(healthy: Tensor, task: Any, like: Tensor) -> Tensor:
    reward: Tensor = healthy.to(like) * task._healthy_reward  # a bool times a number: of torch's default precision
    return reward


def _no_end(action: Tensor) -> Tensor:
    return torch.zeros(len(action), dtype=torch.bool, device=action.device)


def _on_plane(qpos: Tensor, velocity: Tensor) -> dict[str, Tensor]:
    return {
        "x_position": qpos[:, 0],
        "y_position": qpos[:, 1],
        "distance_from_origin": qpos[:, :2].norm(dim=1),
        "x_velocity": velocity[:, 0],
        "y_velocity": velocity[:, 1],
    }


def _tendons(state: Fields) -> dict[str, Tensor]:
    return {"tendon_length": state["ten_length"], "tendon_velocity": state["ten_velocity"]}


# --- starts -----------------------------------------------------------------------------------------------------------


def start_uniform(task: Any, random: np.random.Generator) -> Start:
    """Positions and velocities uniform around the initial ones."""
    scale, model = task._reset_noise_scale, task.model
    qpos = task.init_qpos + random.uniform(-scale, scale, model.nq)
    return qpos, task.init_qvel + random.uniform(-scale, scale, model.nv)


def start_gaussian(task: Any, random: np.random.Generator) -> Start:
    """Positions uniform, velocities Gaussian around the initial ones."""
    scale, model = task._reset_noise_scale, task.model
    qpos = task.init_qpos + random.uniform(-scale, scale, model.nq)
    return qpos, task.init_qvel + scale * random.standard_normal(model.nv)


def start_reacher(task: Any, random: np.random.Generator) -> Start:
    """The arm near its initial state, the target uniform in a disc of 0.2 m."""
    model = task.model
    qpos = random.uniform(-0.1, 0.1, model.nq) + task.init_qpos
    while np.linalg.norm(goal := random.uniform(-0.2, 0.2, 2)) >= 0.2:
        pass
    qpos[-2:] = goal
    qvel = task.init_qvel + random.uniform(-0.005, 0.005, model.nv)
    qvel[-2:] = 0
    return qpos, qvel


def start_pusher(task: Any, random: np.random.Generator) -> Start:
    """The arm at its initial position, the object to the side of the goal and 0.17 m away from it."""
    qpos = task.init_qpos.copy()
    while True:
        place = np.concatenate([random.uniform(-0.3, 0, 1), random.uniform(-0.2, 0.2, 1)])
        if np.linalg.norm(place) > 0.17:
            break
    qpos[-4:-2], qpos[-2:] = place, 0.0
    qvel = task.init_qvel + random.uniform(-0.005, 0.005, task.model.nv)
    qvel[-4:] = 0
    return qpos, qvel


# --- all of them ------------------------------------------------------------------------------------------------------

_STATE = ("qpos", "qvel")
_HUMANOID = (*_STATE, "cinert", "cvel", "qfrc_actuator", "cfrc_ext", "ten_length", "ten_velocity")

TASKS: dict[str, Task] = {
    "Ant-v5": Task(("xpos",), (*_STATE, "xpos", "cfrc_ext"), observe_ant, outcome_ant, start_gaussian, 24),
    "HalfCheetah-v5": Task(("qpos",), _STATE, observe_planar, outcome_planar, start_gaussian, 16),
    "Hopper-v5": Task(("qpos",), _STATE, observe_clipped, outcome_hopper, start_uniform, 16),
    "Humanoid-v5": Task(
        ("xipos",), (*_HUMANOID, "xipos", "body_mass"), observe_humanoid, outcome_humanoid, start_uniform, 64
    ),
    "HumanoidStandup-v5": Task((), _HUMANOID, observe_humanoid, outcome_standup, start_uniform, 64),
    "InvertedDoublePendulum-v5": Task(
        (),
        (*_STATE, "qfrc_constraint", "site_xpos"),
        observe_double_pendulum,
        outcome_double_pendulum,
        start_gaussian,
    ),
    "InvertedPendulum-v5": Task((), _STATE, observe_pendulum, outcome_pendulum, start_uniform),
    "Pusher-v5": Task((), (*_STATE, "xpos"), observe_pusher, outcome_pusher, start_pusher, 24),
    "Reacher-v5": Task((), (*_STATE, "xpos"), observe_reacher, outcome_reacher, start_reacher),
    "Swimmer-v5": Task(("qpos",), _STATE, observe_swimmer, outcome_swimmer, start_uniform),
    "Walker2d-v5": Task(("qpos",), _STATE, observe_clipped, outcome_walker2d, start_uniform, 24),
}


def require_served(config: EnvConfig) -> None:
    """Raise `ValueError` where a task, or what is asked of it, has no form on tensors; one line says which."""
    if config.id not in TASKS:
        raise ValueError(
            f"--env.backend warp does not serve {config.id}; it serves {', '.join(TASKS)}; use --env.backend mujoco"
        )
    options = {
        "--env.flatten": config.flatten,
        "--env.action-bound": config.action_bound is not None,
        "--env.action-repeat": config.action_repeat > 1,
    }
    for option, given in options.items():
        if given:
            raise ValueError(f"--env.backend warp does not serve {option}; use --env.backend mujoco")
