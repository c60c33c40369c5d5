"""Time of 100 seeds of tabular NORA in DeepSea 15, in one call, against plain NumPy loops over seeds.

    python benchmarks/nora_speed.py      # 1000 episodes; the loops play a few seeds, and their time is scaled up

One loop works on all states of a step at once, the other on one state and action at a time, as the equations are
written. Seconds are wall-clock and CPU time; other work on the machine disturbs CPU time less. One thread.
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

C, ETA = 0.01, 10.0


def log_term(size: int, episodes: int) -> float:
    """Return ln(2SAHT/δ) of DeepSea."""
    return math.log(2 * size * 2 * size * episodes / 0.05)


def plain_loop(right: np.ndarray, episodes: int, seed: int) -> float:
    """Play one seed of NORA, one state and action at a time; return its exact regret. `right` (N, N) is DeepSea's."""
    N, generator = len(right), np.random.default_rng(seed)
    logarithm, k, regret = log_term(N, episodes), 0, 0.0
    n, m, rewards = np.zeros((N, N, 2)), np.zeros((N, N, 2, N)), np.zeros((N, N, 2))
    last, q, policy = np.zeros((N, N, 2)), np.zeros((N, N, 2)), np.zeros((N, N, 2))

    def move(h: int, s: int, a: int) -> tuple[int, float]:
        if a != right[h, s]:
            return max(s - 1, 0), 0.0
        return min(s + 1, N - 1), -0.01 / N + (h == s == N - 1)

    for t in range(episodes):
        if t == 0 or (n >= 2 * np.maximum(1, last)).any():
            v = np.zeros(N)
            for h in range(N - 1, -1, -1):
                for s in range(N):
                    for a in range(2):
                        q[h, s, a] = 1.0
                        if n[h, s, a] > 0:
                            bonus = C * 1.01 * math.sqrt(logarithm / (2 * n[h, s, a]))
                            q[h, s, a] = (rewards[h, s, a] + m[h, s, a] @ v) / n[h, s, a] + bonus
                q[h] = np.clip(q[h], -0.01, 1.0)
                v = q[h].max(-1)
            last, k = n.copy(), 0
        k += 1
        v = np.zeros(N + 1)
        for h in range(N - 1, -1, -1):
            following, v = v, np.zeros(N + 1)
            for s in range(N):
                weight = np.exp(ETA * k * (q[h, s] - q[h, s].max()))
                policy[h, s] = weight / weight.sum()
                for a in range(2):
                    ahead, reward = move(h, s, a)
                    v[s] += policy[h, s, a] * (reward + following[ahead])
        regret += 0.99 - v[0]
        s = 0
        for h in range(N):
            a = int(generator.random() >= policy[h, s, 0])
            ahead, reward = move(h, s, a)
            n[h, s, a] += 1
            m[h, s, a, ahead] += 1
            rewards[h, s, a] += reward
            s = ahead
    return regret


def numpy_loop(right: np.ndarray, episodes: int, seed: int) -> float:
    """Play one seed of NORA, all states of a step at once; return its exact regret."""
    N, generator = len(right), np.random.default_rng(seed)
    column, steps = np.arange(N), np.arange(N)
    goes_right = np.arange(2) == right[..., None]  # (H, S, A)
    following = np.where(goes_right, np.minimum(column + 1, N - 1)[:, None], np.maximum(column - 1, 0)[:, None])
    reward = np.where(goes_right, -0.01 / N, 0.0)
    reward[-1, -1] += goes_right[-1, -1]
    n, m = np.zeros((N, N, 2)), np.zeros((N, N, 2, N))
    rewards, last, q = np.zeros((N, N, 2)), np.zeros((N, N, 2)), np.zeros((N, N, 2))
    logarithm, k, regret = log_term(N, episodes), 0, 0.0
    for t in range(episodes):
        if t == 0 or (n >= 2 * np.maximum(1, last)).any():
            v = np.zeros(N)
            bonus = C * 1.01 * np.sqrt(logarithm / (2 * np.maximum(1, n)))
            for h in range(N - 1, -1, -1):
                fit = (rewards[h] + m[h] @ v) / np.maximum(1, n[h]) + bonus[h]
                q[h] = np.clip(np.where(n[h] > 0, fit, 1.0), -0.01, 1.0)
                v = q[h].max(-1)
            last, k = n.copy(), 0
        k += 1
        exponent = ETA * k * q
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
    """Return what the work returned, and its wall-clock and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return result, {name: round(value, 2) for name, value in seconds.items()}


@dataclass
class Options:
    """What to time."""

    seeds: int = 100
    episodes: int = 1000
    loop_seeds: int = 5
    """Seeds the vectorised loop plays; the other plays two. Their times are scaled to `seeds`."""


def main(options: Options) -> None:
    torch.set_num_threads(1)
    began = time.perf_counter()
    right = torch.randint(2, (15, 15), generator=torch.Generator().manual_seed(0)).numpy()  # as task_seed 0 has it
    cell = Cell(sea(15), options.episodes, {"bonus": 0.01})
    ours_figures, ours = timed(lambda: play(cell, options.seeds, 0))
    figures: dict[str, Any] = {"one_call": ours | {"regret": ours_figures["regret"]["mean"]}}
    for name, loop, seeds in (("numpy_loop", numpy_loop, options.loop_seeds), ("plain_loop", plain_loop, 2)):
        regret, seconds = timed(lambda: [loop(right, options.episodes, seed) for seed in range(seeds)])  # noqa: B023
        scaled = {key: round(value * options.seeds / seeds, 1) for key, value in seconds.items()}
        figures[name] = scaled | {"regret": round(float(np.mean(regret)), 4), "seeds_played": seeds}
    figures |= {"episodes": options.episodes, "seeds_in_one_call": options.seeds}
    record("nora_speed", figures, began=began, seeds=[0])


if __name__ == "__main__":
    main(tyro.cli(Options))
