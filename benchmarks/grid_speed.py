"""Steps per second of a policy over a grid of parameters: all environments at once against one Gymnasium task after
another.

A 10 x 10 grid of HalfCheetah (`halfcheetah-2`), one episode of 1000 steps per point, a random policy with two hidden
layers of 256. Then `mujoco.rollout` on as many environments, physics only, and the memory of a 10 x 10 x 10 grid with
short episodes.

    python benchmarks/grid_speed.py [--steps 1000] [--episodes-one-by-one 5]
"""

from __future__ import annotations

import copy
import resource
import time
from collections.abc import Callable

import gymnasium as gym
import mujoco
import mujoco.rollout
import numpy as np
import torch
import tyro
from record import record
from torch import Tensor, nn

from surefoot.envs import EnvConfig, WithParameters, find_set, make_single, play

CHEETAH, SET = "HalfCheetah-v5", find_set("halfcheetah-2")
Act = Callable[[Tensor], Tensor]


def policy() -> Act:
    torch.manual_seed(0)
    hidden = (nn.Linear(17, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    return nn.Sequential(*hidden, nn.Linear(256, 6), nn.Tanh())


def speed(steps: int, call: Callable[[], object]) -> dict[str, float]:
    """Return steps per second by wall-clock time and by CPU time, and how many cores that took."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": round(steps / wall), "cpu": round(steps / cpu), "cores": round(cpu / wall, 2)}


@torch.inference_mode()
def one_by_one(act: Act, steps: int, points: np.ndarray) -> None:
    env = WithParameters(make_single(EnvConfig(CHEETAH, max_episode_steps=steps)), SET)
    for seed, point in enumerate(points):
        obs, _ = env.reset(seed=seed, options={"params": point})
        ended = False
        while not ended:
            obs, _, _, ended, _ = env.step(act(torch.from_numpy(obs)[None])[0].numpy())


def rollout_only(steps: int, num_envs: int) -> None:
    """Advance copies of one model by MuJoCo's own threads, one control step per call, as a policy needs it."""
    model = gym.make(CHEETAH).unwrapped.model
    data = [mujoco.MjData(model), mujoco.MjData(model)]
    spec = mujoco.mjtState.mjSTATE_FULLPHYSICS
    state = np.zeros((num_envs, mujoco.mj_stateSize(model, spec)))
    for row in state:
        mujoco.mj_getState(model, data[0], row, spec)
    control = np.zeros((num_envs, 5, model.nu))
    models = [copy.copy(model) for _ in range(num_envs)]
    with mujoco.rollout.Rollout(nthread=2) as pool:
        for _ in range(steps):
            state = pool.rollout(models, data, state, control)[0][:, -1]


def main(steps: int = 1000, episodes_one_by_one: int = 5) -> None:
    """Measure in turn and record."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    act, config = policy(), EnvConfig(CHEETAH, max_episode_steps=steps)
    points = SET.grid(10)
    some = points[:: len(points) // episodes_one_by_one][:episodes_one_by_one]
    serial = speed(steps * len(some), lambda: one_by_one(act, steps, some))
    threads = {
        str(n): speed(steps * 100, lambda n=n: play(act, config, SET, points, range(100), threads=n)) for n in (1, 2)
    }
    rollout = speed(100 * 100, lambda: rollout_only(100, 100))
    before = _peak()
    cube = find_set("halfcheetah-3").grid(10)
    play(act, EnvConfig(CHEETAH, max_episode_steps=20), find_set("halfcheetah-3"), cube, range(len(cube)))
    figures = {
        "steps_a_second": {"one by one": serial, **{f"grid, {n} threads": v for n, v in threads.items()}},
        "ratio": {n: {k: round(v[k] / serial[k], 2) for k in ("wall", "cpu")} for n, v in threads.items()},
        "mujoco_rollout_physics_only": rollout,
        "peak_mb": {"10 x 10": round(before / 1024), "10 x 10 x 10": round(_peak() / 1024)},
    }
    record("grid_speed", figures, began=began, seeds=[0])


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    tyro.cli(main)
