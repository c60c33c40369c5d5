"""CPU time of a map of 10 x 10 points of HalfCheetah, 1000 steps, 5 seeds, side by side; and one environment after
another.

The policy is that of benchmarks/grid_speed.py, two hidden layers of 256. The floor is MuJoCo's own step alone, measured
here too: nothing that plays these episodes is faster.

    python benchmarks/stress_speed.py [--seeds 5]
"""

from __future__ import annotations

import time

import gymnasium as gym
import mujoco
import numpy as np
import tyro
from grid_speed import CHEETAH, SET, one_by_one, policy, speed
from record import record

from surefoot.envs import EnvConfig
from surefoot.evaluation.stress.measure import player
from surefoot.evaluation.stress.search import crossed


def floor(steps: int) -> dict[str, float]:
    """Return the speed of MuJoCo's control step (5 physics steps) of one model, driven by noise."""
    task = gym.make(CHEETAH).unwrapped
    model, data = task.model, mujoco.MjData(task.model)
    noise = np.random.default_rng(0).uniform(-1, 1, (steps, model.nu))

    def call() -> None:
        for action in noise:
            data.ctrl[:] = action
            mujoco.mj_step(model, data, nstep=task.frame_skip)

    return speed(steps, call)


def main(seeds: int = 5, steps: int = 1000, side: int = 10) -> None:
    """Measure in turn and record."""
    import torch

    began = time.perf_counter()
    torch.set_num_threads(1)
    act = policy()
    play, _ = player(act, EnvConfig(CHEETAH, max_episode_steps=steps, num_envs=128), SET)
    points = SET.grid(side, closed=True)
    serial = speed(2 * steps, lambda: one_by_one(act, steps, points[[0, len(points) // 2]]))
    total = len(points) * seeds * steps
    cpu, wall = time.process_time(), time.perf_counter()
    crossed(play, points, range(seeds))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    lowest = floor(5_000)
    figures = {
        "map": f"{side} x {side} points, {seeds} seeds, {steps} steps",
        "cpu_seconds": round(cpu, 1),
        "wall_seconds": round(wall, 1),
        "microseconds_of_cpu_a_step": round(1e6 * cpu / total, 1),
        "floor": {
            "microseconds_of_cpu_a_step": round(1e6 / lowest["cpu"], 1),
            "cpu_seconds": round(total / lowest["cpu"], 1),
        },
        "one_by_one": {"microseconds_of_cpu_a_step": round(1e6 / serial["cpu"], 1)},
        "ratio_of_cpu": round(total / cpu / serial["cpu"], 2),
        "ratio_of_wall": round(total / wall / serial["wall"], 2),
    }
    record("stress_speed", figures, began=began, seeds=list(range(seeds)))


if __name__ == "__main__":
    tyro.cli(main)
