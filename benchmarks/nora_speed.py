"""Time of 100 seeds of tabular NORA in DeepSea 15, in one call, against a plain NumPy loop over seeds.

    python benchmarks/nora_speed.py      # 1000 episodes; the loop plays a few seeds, and its time is scaled up

Seconds are given twice: of the clock, and of the CPU, which other work on the machine disturbs less. All on one thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tyro
from nora import Cell, play, sea
from record import record


def numpy_loop(right: np.ndarray, episodes: int, seed: int, c: float = 0.01, eta: float = 10.0) -> float:
    """Play one seed of NORA as a textbook would write it; return its exact regret. `right` (N, N) is DeepSea's."""
    N, generator = len(right), np.random.default_rng(seed)
    column, steps = np.arange(N), np.arange(N)
    goes_right = np.arange(2) == right[..., None]  # (H, S, A)
    following = np.where(goes_right, np.minimum(column + 1, N - 1)[:, None], np.maximum(column - 1, 0)[:, None])
    reward = np.where(goes_right, -0.01 / N, 0.0)
    reward[-1, -1] += goes_right[-1, -1]
    n, m = np.zeros((N, N, 2)), np.zeros((N, N, 2, N))
    rewards, last, q = np.zeros((N, N, 2)), np.zeros((N, N, 2)), np.zeros((N, N, 2))
    log_term, k, regret = math.log(2 * N * 2 * N * episodes / 0.05), 0, 0.0
    for t in range(episodes):
        if t == 0 or (n >= 2 * np.maximum(1, last)).any():
            v = np.zeros(N)
            bonus = c * 1.01 * np.sqrt(log_term / (2 * np.maximum(1, n)))
            for h in range(N - 1, -1, -1):
                fit = (rewards[h] + m[h] @ v) / np.maximum(1, n[h]) + bonus[h]
                q[h] = np.clip(np.where(n[h] > 0, fit, 1.0), -0.01, 1.0)
                v = q[h].max(-1)
            last, k = n.copy(), 0
        k += 1
        exponent = eta * k * q
        policy = np.exp(exponent - exponent.max(-1, keepdims=True))
        policy /= policy.sum(-1, keepdims=True)
        v = np.zeros(N)
        for h in range(N - 1, -1, -1):
            v = (policy[h] * (reward[h] + v[following[h]])).sum(-1)
        regret += 0.99 - v[0]
        s, uniform = 0, generator.random(N)
        for h in steps:
            a = int(uniform[h] >= policy[h, s, 0])
            ahead = following[h, s, a]
            n[h, s, a] += 1
            m[h, s, a, ahead] += 1
            rewards[h, s, a] += reward[h, s, a]
            s = ahead
    return regret


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return what the work returned, and its seconds of the clock and of the CPU."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = work()
    seconds = {"seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - cpu}
    return result, {name: round(value, 2) for name, value in seconds.items()}


@dataclass
class Options:
    """What to time."""

    seeds: int = 100
    episodes: int = 1000
    loop_seeds: int = 5
    """Seeds the loop plays; its time is scaled to `seeds`."""


def main(options: Options) -> None:
    torch.set_num_threads(1)
    began = time.perf_counter()
    right = torch.randint(2, (15, 15), generator=torch.Generator().manual_seed(0)).numpy()  # as task_seed 0 has it
    cell = Cell(sea(15), options.episodes, {"bonus": 0.01})
    loop_regret, loop = timed(lambda: [numpy_loop(right, options.episodes, s) for s in range(options.loop_seeds)])
    ours_figures, ours = timed(lambda: play(cell, options.seeds, 0))
    scale = options.seeds / options.loop_seeds
    figures = {
        "one_call": ours | {"regret": ours_figures["regret"]["mean"]},
        "numpy_loop": {name: round(value * scale, 1) for name, value in loop.items()}
        | {"regret": round(float(np.mean(loop_regret)), 4), "seeds_played": options.loop_seeds},
        "ratio": {name: round(loop[name] * scale / ours[name], 1) for name in loop},
        "episodes": options.episodes,
        "seeds_in_one_call": options.seeds,
    }
    record("nora_speed", figures, began=began, seeds=[0])


if __name__ == "__main__":
    main(tyro.cli(Options))
