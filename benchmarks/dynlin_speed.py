"""Time of a replicate-round: the epoch path and the round path against a plain NumPy loop of one replicate.

    python benchmarks/dynlin_speed.py      # 1000 replicates; the epoch path for 10⁵ rounds

Seconds are given twice: wall-clock time, and CPU time, which other work on the machine disturbs less. All on one
thread. What it should take: docs/derivations/dynlin.md E15.
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
from dynlin_ucb import BASELINES, SYSTEMS, play
from record import record

from surefoot.envs.tasks.linear_system import SYSTEMS as DESCRIPTIONS
from surefoot.envs.tasks.linear_system import make_system


def numpy_loop(rounds: int, seed: int = 0) -> float:
    """Play DynLin-UCB on the synthetic system as a textbook would write it: one replicate, round by round."""
    system = make_system(DESCRIPTIONS["synthetic"])
    A, B, omega, theta, sigma = system.A, system.B, system.omega, system.theta, system.state_noise
    U, generator = np.array(DESCRIPTIONS["synthetic"]["actions"], dtype=float), np.random.default_rng(seed)
    c1, c2, sigma2, rho, u_max, d = 2.276925, 1.075207, 2.052083 * sigma**2, 0.2, 1.25**0.5, 3
    lam, delta = math.log(rounds), 1 / rounds
    V, b, x, t, m, regret = lam * np.eye(d), np.zeros(d), np.zeros(3), 0, 1, 0.0
    h = theta + B.T @ np.linalg.solve((np.eye(3) - A).T, omega)
    while t < rounds:
        inverse = np.linalg.inv(V)
        spread = math.log(1 / delta) + d / 2 * math.log(1 + t * u_max**2 / (d * lam))
        beta = c1 / math.sqrt(lam) * math.log(math.e * (t + 1)) + c2 * math.sqrt(lam) + math.sqrt(2 * sigma2 * spread)
        u = U[np.argmax(U @ (inverse @ b) + beta * np.sqrt(((U @ inverse) * U).sum(1)))]
        for _ in range(math.floor(math.log(m) / math.log(1 / rho) + 1e-12) + 1):
            y = omega @ x + theta @ u + system.reward_noise * generator.standard_normal()
            x = A @ x + B @ u + sigma * generator.standard_normal(3)
            regret += 0.8125 - h @ u
            t += 1
        V, b, m = V + np.outer(u, u), b + u * y, m + 1
    return regret


def timed(work: Callable[[], Any], replicate_rounds: int) -> dict[str, float]:
    """Return seconds and nanoseconds per replicate-round, wall-clock and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "ns": round(seconds / replicate_rounds * 1e9, 1),
        "cpu_ns": round(cpu_seconds / replicate_rounds * 1e9, 1),
    }


@dataclass
class Options:
    """What to time."""

    replicates: int = 1000
    rounds: int = 100_000
    """Of the epoch path."""
    round_path_rounds: int = 1024
    """Four blocks of noise."""
    loop_rounds: int = 20_000


def main(options: Options) -> None:
    torch.set_num_threads(1)
    began, kwargs, n = time.perf_counter(), SYSTEMS["synthetic"], options.replicates
    loop = timed(lambda: numpy_loop(options.loop_rounds), options.loop_rounds)
    epochs = timed(lambda: play("dynlin-ucb", kwargs, options.rounds, n), options.rounds * n)
    rounds, short = {}, options.round_path_rounds
    for name in ("dynlin-ucb", *BASELINES):
        rounds[name] = timed(lambda name=name: play(name, kwargs, short, n, path="rounds"), short * n)
    for cell in (epochs, *rounds.values()):
        cell["ratio"] = round(loop["cpu_ns"] / cell["cpu_ns"], 1)
    figures = {
        "replicates": n,
        "rounds": options.rounds,
        "numpy_loop": loop,
        "epoch_path": epochs,
        "round_path": rounds,
    }
    record("dynlin_speed", figures, began=began, seeds=[0])


if __name__ == "__main__":
    main(tyro.cli(Options))
