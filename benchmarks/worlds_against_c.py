"""How far the worlds of MuJoCo Warp are from MuJoCo in C, a job for each task, and what Humanoid's other solver does.

    python worlds_against_c.py                                # CPU; at first a minute of compiling for each task
    python worlds_against_c.py --only Hopper-v5 Reacher-v5
    git clone https://github.com/DLR-RM/rl-trained-agents
    python worlds_against_c.py --zoo rl-trained-agents        # also what needs a trained humanoid

Growth: 64 worlds, each from a start of its own with random actions of its own at full strength, no fall ending an
episode. The difference of a world after a step is the largest of its observation, true successor, reward and flags, of
1 + |value|; what is compared is the median over the worlds, of Warp against C, and of C against itself with positions
and velocities rounded by 1e-7 of 1 + |value| before every control step; then also with the mass matrix rounded to
single precision in every physics step. Humanoids have the solver Newton on both sides.

Rounding: where the difference arises, from states of such episodes. What one physics step changes of a velocity before
constraints act: Warp; C with the mass matrix that Warp computed; C with its own, rounded to single precision; C from a
state rounded by 1e-7. And the outer forces on the bodies: Warp; C with Warp's mass matrix and distances of contacts.

Solvers: the humanoids' files ask for PGS, and Warp has Newton. A fixed policy plays the same starts in C with either
solver and in Warp: mean returns, and the mean difference to C with PGS from the same start. Then one control step
from states of such episodes, each from rest in the simulator's memory: the largest difference of any velocity
to C with Newton.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import mujoco
import numpy as np
import torch
import tyro
from record import record_job
from torch import Tensor

from surefoot.envs import EnvConfig, UncertaintySet, UncertainVectorEnv, make_vec, spaces_of
from surefoot.envs.warp.tasks import TASKS
from surefoot.evaluation.policies import fitted, load_any

NAME = "worlds_against_c"
NEWTON = ("Humanoid-v5", "HumanoidStandup-v5")  # whose solver in C, PGS, Warp does not have: compared with Newton there
ENDLESS = ("Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5")  # tasks that a fall ends
HUMANOID = "a2c/Humanoid-v3/Humanoid-v3.zip"
OLDER_REWARD = {"contact_cost_weight": 0.0}  # contact forces were always zero in v3, which the policy was trained in
ROUNDING = 1e-7  # of 1 + |value|
STATE = ("qpos", "qvel", "ctrl")
Row = tuple[Tensor, ...]
Act = Callable[[Tensor], Tensor]


@dataclass
class Options:
    """What to measure."""

    only: tuple[str, ...] = ()
    """Tasks; by default all."""
    parts: tuple[Literal["growth", "rounding", "solvers"], ...] = ("growth", "rounding", "solvers")
    """What is measured of each."""
    zoo: Path | None = None
    """Folder of public policies, one of which walks as a humanoid."""
    worlds: int = 64
    """Of each comparison."""
    steps: int = 40
    """Control steps of each."""
    episodes: int = 64
    """Of each solver."""


# --- growth -----------------------------------------------------------------------------------------------------------


def made(config: EnvConfig, uncertainty: UncertaintySet | None = None, solver: str = "newton") -> Any:
    """Return a task's environments; those of C with the solver that is wanted where the task's own is PGS."""
    env: Any = make_vec(config) if uncertainty is None else UncertainVectorEnv(config, uncertainty)
    for sub in env.unwrapped.sub_envs.envs if config.backend == "mujoco" and config.id in NEWTON else ():
        assert sub.unwrapped.model.opt.solver == mujoco.mjtSolver.mjSOL_PGS
        if solver == "newton":
            sub.unwrapped.model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    return env


def actions_of(env: Any, steps: int, strength: float = 1.0) -> Tensor:
    """Return random actions (T, N, act)."""
    generator = torch.Generator().manual_seed(1)
    shape = (steps, env.num_envs, *env.single_action_space.shape)
    return strength * (torch.rand(shape, generator=generator) * 2 - 1)


def played(
    config: EnvConfig,
    backend: str,
    steps: int,
    worlds: int,
    *,
    uncertainty: UncertaintySet | None = None,
    strength: float = 1.0,
    rounding: float = 0.0,
    round_mass: bool = False,
) -> list[Row]:
    """Every step's observation, true successor, reward and flags, (N, …) each; in C all is rounded every step."""
    env = made(replace(config, backend=backend, num_envs=worlds), uncertainty)
    for sub in env.unwrapped.sub_envs.envs if round_mass else ():
        sub.unwrapped._step_mujoco_simulation = with_rounded_mass(sub.unwrapped)
    obs, _ = env.reset(seed=11)
    rows: list[Row] = [(obs,)]
    random = np.random.default_rng(0)
    for action in actions_of(env, steps, strength):
        for sub in env.unwrapped.sub_envs.envs if rounding else ():
            for values in (sub.unwrapped.data.qpos, sub.unwrapped.data.qvel):
                values += noise_of(values, rounding, random)
        rows.append(row_of(env.step(action)))
    env.close()
    return rows


def noise_of(values: np.ndarray, rounding: float, random: np.random.Generator) -> np.ndarray:
    noise: np.ndarray = rounding * random.uniform(-1, 1, len(values)) * (1 + np.abs(values))
    return noise


def with_rounded_mass(task: Any) -> Callable[[np.ndarray, int], None]:
    """Return a Gymnasium task's `_step_mujoco_simulation`, its mass matrix rounded in every physics step."""
    model, data = task.model, task.data

    def simulate(control: np.ndarray, count: int) -> None:
        data.ctrl[:] = control
        for _ in range(count):
            data.qfrc_applied[:] = 0
            mujoco.mj_forward(model, data)
            data.qfrc_applied[:] = instead_of(model, data, data.M.astype(np.float32)) @ data.qacc
            mujoco.mj_step(model, data)
        mujoco.mj_rnePostConstraint(model, data)

    return simulate


def instead_of(model: Any, data: Any, mass: np.ndarray) -> np.ndarray:
    """Return what (nv, nv) times an acceleration is the force with the effect of another mass matrix (nM,)."""
    return dense(model, data.M - mass)


def dense(model: Any, values: np.ndarray) -> np.ndarray:
    """Return a mass matrix (nv, nv) of what MuJoCo keeps of it (nM,), its lower triangle without known zeros."""
    matrix = np.zeros((model.nv, model.nv))
    matrix[np.repeat(np.arange(model.nv), model.M_rownnz), model.M_colind] = values
    return matrix + np.tril(matrix, -1).T


def row_of(stepped: Any) -> Row:
    """Return observation, true successor, reward and flags, (N, …) each, of what a step returned."""
    obs, reward, terminated, truncated, info = stepped
    return obs, info["final_obs"], reward[:, None], terminated[:, None], truncated[:, None]


def error(one: Row, other: Row) -> np.ndarray:
    """Largest difference (N,) of any number of a step, of 1 + |value|; flags count as numbers."""
    pairs = [(a.double(), b.double()) for a, b in zip(one, other, strict=True)]
    largest: np.ndarray = np.max([((a - b).abs() / (1 + a.abs())).max(1).values.numpy() for a, b in pairs], axis=0)
    return largest


class Growth(NamedTuple):
    """Median difference to C after each step (T + 1,)."""

    warp: np.ndarray
    rounded: np.ndarray  # C itself, positions and velocities rounded
    with_mass: np.ndarray  # the mass matrix, too


def endless(name: str) -> EnvConfig:
    """Return a task that no fall ends."""
    kwargs = {"terminate_when_unhealthy": False} if name in ENDLESS else {}
    return EnvConfig(name, max_episode_steps=1000, kwargs=kwargs)


def growth(name: str, steps: int, worlds: int) -> Growth:
    """Return how the difference of Warp to C grows, and that of C to itself, rounded."""
    config = endless(name)
    reference = played(config, "mujoco", steps, worlds)
    others = (
        played(config, "warp", steps, worlds),
        played(config, "mujoco", steps, worlds, rounding=ROUNDING),
        played(config, "mujoco", steps, worlds, rounding=ROUNDING, round_mass=True),
    )
    return Growth(*(np.median([error(a, b) for a, b in zip(reference, other, strict=True)], 1) for other in others))


def size_ratio(ours: np.ndarray, noise: np.ndarray) -> float:
    """Return how many times larger the difference to C was at most than C's to itself, both up to the same step."""
    return float((np.maximum.accumulate(ours[1:]) / np.maximum.accumulate(noise[1:])).max())


def growth_ratio(ours: np.ndarray, noise: np.ndarray) -> float:
    """Return how many times more the difference to C grew at most than C's to itself, both since the first step."""
    return size_ratio(ours / ours[1], noise / noise[1])


def measured_growth(name: str, options: Options) -> dict[str, Any]:
    found = growth(name, options.steps, options.worlds)
    return {
        "worlds": options.worlds,
        "size_ratio": size_ratio(found.warp, found.rounded),
        "growth_ratio": growth_ratio(found.warp, found.rounded),
        "size_ratio_with_mass": size_ratio(found.warp, found.with_mass),
        "warp": [float(f"{value:.3g}") for value in found.warp],
        "c_rounded": [float(f"{value:.3g}") for value in found.rounded],
        "c_rounded_with_mass": [float(f"{value:.3g}") for value in found.with_mass],
    }


# --- rounding ---------------------------------------------------------------------------------------------------------


def rounding(name: str, options: Options) -> dict[str, Any]:
    """Return what one physics step changes differently, as medians over every fourth state of 16 worlds."""
    config = replace(endless(name), num_envs=16)
    warp, c = made(replace(config, backend="warp")), made(config)
    for env in (warp, c):
        env.reset(seed=11)
    tasks, random = [sub.unwrapped for sub in c.unwrapped.sub_envs.envs], np.random.default_rng(0)
    found: list[dict[str, float]] = []
    for k, action in enumerate(actions_of(c, options.steps)):
        c.step(action)
        for task, of_warp in zip(tasks, forward_in_warp(warp, tasks), strict=True) if k % 4 == 0 else ():
            found.append(apart(task, of_warp, random))
    values = {key: np.array([one[key] for one in found]) for key in found[0]}
    known = {key: column[~np.isnan(column)] for key, column in values.items()}
    medians = {key: float(f"{np.median(column):.2g}") for key, column in known.items() if len(column)}
    return {"states": len(found), "in_contact": len(known["forces_warp"]), **medians}


class OfWarp(NamedTuple):
    """What Warp finds in a state."""

    acceleration: np.ndarray  # (nv,), before constraints act
    mass: np.ndarray  # (nM,)
    forces: np.ndarray  # (nbody, 6)
    contacts: list[tuple[tuple[int, ...], np.ndarray, float]]  # geoms, place, distance


def forward_in_warp(env: Any, tasks: list[Any]) -> list[OfWarp]:
    """Return what Warp finds in the states of tasks in C."""
    simulation = env.worlds.simulation
    field, contact, count = simulation.field, simulation.data.contact, simulation.data.nacon
    for name in STATE:
        field(name).copy_(torch.from_numpy(np.stack([getattr(task.data, name) for task in tasks])))
    field("qacc_warmstart").zero_()
    simulation.forward()
    simulation.contact_forces()
    contacts: list[list[Any]] = [[] for _ in tasks]
    columns = (contact.worldid, contact.geom, contact.pos, contact.dist)
    for world, geoms, *rest in zip(*(column.numpy()[: int(count.numpy()[0])] for column in columns), strict=True):
        contacts[world].append((tuple(geoms), *rest))
    arrays = (field(name).double().numpy() for name in ("qacc_smooth", "M", "cfrc_ext"))
    return [OfWarp(*one) for one in zip(*arrays, contacts, strict=True)]


def apart(task: Any, of_warp: OfWarp, random: np.random.Generator) -> dict[str, float]:
    """Return how far Warp and C with one thing rounded are from C in a state, and what makes it much."""
    model = task.model
    state = {name: getattr(task.data, name).astype(np.float32).astype(np.float64) for name in STATE}
    exact = forward_in_c(model, state)
    noisy = state | {name: state[name] + noise_of(state[name], ROUNDING, random) for name in ("qpos", "qvel")}
    masses = {"with_warps_mass": of_warp.mass, "with_single_mass": exact.M.astype(np.float32)}
    forces = {who: instead_of(model, exact, mass) @ exact.qacc_smooth for who, mass in masses.items()}
    found = {"warp": of_warp.acceleration, "rounded_state": forward_in_c(model, noisy).qacc_smooth}
    found |= {who: forward_in_c(model, state, force).qacc_smooth for who, force in forces.items()}
    unit = model.opt.timestep / (1 + np.abs(state["qvel"]))
    return {
        "condition": float(np.linalg.cond(dense(model, exact.M))),
        "acceleration": float(np.abs(exact.qacc_smooth).max()),
        "mass_error": float(np.abs(of_warp.mass - exact.M).max() / np.abs(exact.M).max()),
        **{who: float((np.abs(values - exact.qacc_smooth) * unit).max()) for who, values in found.items()},
        **forces_apart(model, exact, of_warp),
    }


def forces_apart(model: Any, exact: Any, of_warp: OfWarp) -> dict[str, float]:
    """Return the differences of outer forces, of 1 + |force|; NaN without contacts, or where Warp has found others."""
    distances = distances_of_warp(exact, of_warp)
    if distances is None:
        return dict.fromkeys(("distance_error", "forces_warp", "forces_with_both"), np.nan)
    found = {"forces_warp": of_warp.forces}
    mujoco.mj_rnePostConstraint(model, exact)
    own, off = exact.cfrc_ext.copy(), float(np.abs(distances - exact.contact.dist).max())
    exact.qfrc_applied[:] = instead_of(model, exact, of_warp.mass) @ exact.qacc
    exact.contact.dist[:] = distances
    for part in (
        "makeConstraint",
        "fwdVelocity",
        "fwdActuation",
        "fwdAcceleration",
        "fwdConstraint",
        "rnePostConstraint",
    ):
        getattr(mujoco, f"mj_{part}")(model, exact)
    found["forces_with_both"] = exact.cfrc_ext
    apart = {who: float((np.abs(forces - own) / (1 + np.abs(own))).max()) for who, forces in found.items()}
    return {"distance_error": off, **apart}


def distances_of_warp(data: Any, of_warp: OfWarp) -> np.ndarray | None:
    """Return Warp's distances (ncon,) of C's contacts, the nearest one of the same geoms each."""
    if data.ncon == 0 or len(of_warp.contacts) != data.ncon:
        return None
    found = []
    for contact in data.contact:
        same = [one for one in of_warp.contacts if one[0] == tuple(contact.geom)]
        if not same:
            return None
        found.append(min(same, key=lambda one: float(np.abs(one[1] - contact.pos).sum()))[2])
    return np.array(found, np.float64)


def forward_in_c(model: Any, state: dict[str, np.ndarray], force: float | np.ndarray = 0.0) -> Any:
    """Return MuJoCo's data of a state, with generalised forces (nv,) applied."""
    data = mujoco.MjData(model)
    for name, values in state.items():
        getattr(data, name)[:] = values
    data.qfrc_applied[:] = force
    mujoco.mj_forward(model, data)
    return data


# --- solvers ----------------------------------------------------------------------------------------------------------

EXACT = "C, PGS, 1,000 iterations"
VARIANTS = {"C, PGS": ("mujoco", "pgs"), "C, Newton": ("mujoco", "newton"), "Warp, Newton": ("warp", "newton")}


def humanoid(zoo: Path) -> tuple[EnvConfig, Act]:
    """Return the public policy of a humanoid that walks a little, and its task."""
    opened = load_any(zoo / HUMANOID)
    assert opened.env_config is not None
    task: EnvConfig = replace(opened.env_config, kwargs=opened.env_config.kwargs | OLDER_REWARD, max_episode_steps=150)
    return task, fitted(opened, task).act


def swaying(name: str, limit: int) -> tuple[EnvConfig, Act]:
    """Return a task, and a fixed policy that moves: the hyperbolic tangent of a random matrix times what is seen."""
    task = EnvConfig(name, max_episode_steps=limit)
    obs, action = (space.shape[0] for space in spaces_of(task))
    gain = torch.randn(obs, action, generator=torch.Generator().manual_seed(3))
    return task, lambda seen: torch.tanh(seen @ gain)


@torch.inference_mode()
def returns_of(env: Any, act: Act) -> np.ndarray:
    """Return the undiscounted return (N,) of the first episode of each environment."""
    obs, _ = env.reset(seed=0)
    returns, running = torch.zeros(env.num_envs, dtype=torch.float64), torch.ones(env.num_envs, dtype=torch.bool)
    while running.any():
        obs, reward, terminated, truncated, _ = env.step(act(obs))
        returns += reward * running
        running &= ~(terminated | truncated)
    return returns.numpy()


def mean_and_error(values: np.ndarray) -> list[float]:
    return [float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)]


def solvers(task: EnvConfig, act: Act, options: Options) -> dict[str, Any]:
    """Return what a policy earns with each solver, and how far one step leads apart."""
    found = {}
    for name, (backend, solver) in VARIANTS.items():
        env = made(replace(task, backend=backend, num_envs=options.episodes), solver=solver)
        found[name] = returns_of(env, act)
        env.close()
    own = found["C, PGS"]
    returns = {
        name: {"mean": mean_and_error(values), "less_c_with_pgs": mean_and_error(values - own)}
        for name, values in found.items()
    }
    return {"episodes": options.episodes, "returns": returns, "one_step": one_step(task, act, options)}


@torch.inference_mode()
def states_of(task: EnvConfig, act: Act, options: Options) -> list[tuple[np.ndarray, np.ndarray, Tensor]]:
    """Return qpos (N, nq), qvel (N, nv) and action (N, act) of every fourth step of episodes in C, with PGS."""
    env = made(task, solver="pgs")
    obs, states = env.reset(seed=0)[0], []
    for k in range(options.steps):
        action = act(obs)
        if k % 4 == 0:
            data = [sub.unwrapped.data for sub in env.sub_envs.envs]
            states.append((np.stack([one.qpos for one in data]), np.stack([one.qvel for one in data]), action))
        obs = env.step(action)[0]
    env.close()
    return states


def after_a_step(env: Any, qpos: np.ndarray, qvel: np.ndarray, action: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the velocities (N, nv) a control step after states, and whether those had contacts (N,), zeros of Warp."""
    if env.unwrapped is env and hasattr(env, "worlds"):
        field = env.worlds.simulation.field
        for name, values in (("qpos", qpos), ("qvel", qvel)):
            field(name).copy_(torch.from_numpy(values))
        field("qacc_warmstart").zero_()
        env.step(action)
        return field("qvel").double().numpy(), np.zeros(len(qpos), bool)
    touching = np.zeros(len(qpos), bool)
    for i, sub in enumerate(env.sub_envs.envs):
        mujoco.mj_resetData(sub.unwrapped.model, sub.unwrapped.data)
        sub.unwrapped.set_state(qpos[i], qvel[i])
        touching[i] = sub.unwrapped.data.ncon > 0
    env.step(action)
    return np.stack([sub.unwrapped.data.qvel.copy() for sub in env.sub_envs.envs]), touching


def one_step(task: EnvConfig, act: Act, options: Options) -> dict[str, Any]:
    """Return median and 95th percentile of the largest velocity difference to C with Newton, in contact and not."""
    task = replace(task, num_envs=16, max_episode_steps=1000, kwargs=task.kwargs | endless(task.id).kwargs)
    envs = {
        name: made(replace(task, backend=backend), solver=solver) for name, (backend, solver) in VARIANTS.items()
    } | {EXACT: made(task, solver="pgs")}
    for sub in envs[EXACT].sub_envs.envs:
        sub.unwrapped.model.opt.iterations, sub.unwrapped.model.opt.tolerance = 1000, 0.0
    for env in envs.values():
        env.reset(seed=0)
    found: dict[str, list[np.ndarray]] = {name: [] for name in envs}
    contacts = []
    for state in states_of(task, act, options):
        reference, touching = after_a_step(envs["C, Newton"], *state)
        contacts.append(touching)
        for name, env in envs.items():
            found[name].append(np.abs(after_a_step(env, *state)[0] - reference).max(1))
    touching = np.concatenate(contacts)
    figures: dict[str, Any] = {"states": len(touching), "in_contact": int(touching.sum())}
    for name in (name for name in envs if name != "C, Newton"):
        values = np.concatenate(found[name])
        figures[name] = {
            part: [float(f"{x:.2g}") for x in np.percentile(values[chosen], (50, 95))] if chosen.any() else None
            for part, chosen in (("contact", touching), ("none", ~touching))
        }
    return figures


def jobs(options: Options) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    tasks = options.only or tuple(TASKS)
    for name in tasks if "growth" in options.parts else ():
        yield f"growth, {name}", lambda n=name: measured_growth(n, options)  # type: ignore[misc]
    for name in tasks if "rounding" in options.parts else ():
        yield f"rounding, {name}", lambda n=name: rounding(n, options)  # type: ignore[misc]
    if "solvers" not in options.parts:
        return
    if "HumanoidStandup-v5" in tasks:
        yield "solvers, HumanoidStandup-v5", lambda: solvers(*swaying("HumanoidStandup-v5", 60), options)
    if "Humanoid-v5" in tasks and options.zoo is not None:
        yield "solvers, Humanoid-v5", lambda: solvers(*humanoid(options.zoo), options)  # type: ignore[arg-type]


def main(options: Options) -> None:
    """Measure in turn, and keep each job as soon as it is done."""
    torch.set_num_threads(1)
    for name, job in jobs(options):
        began = time.perf_counter()
        record_job(NAME, name, job(), began=began, seeds=[0] if name.startswith("solvers") else [11])


if __name__ == "__main__":
    main(tyro.cli(Options))
