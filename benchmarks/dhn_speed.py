"""Updates per second of QR-DQN here and in SB3-contrib: the same network, quantiles, batch and task, in one process.

Process CPU time on one thread. Both learn from their own filled replay; blocks alternate, and the ratio is the median
over blocks. Stable-Baselines3's Adam, clipping and κ = 1 are used on both sides.

    python benchmarks/dhn_speed.py [--repeat 7] [--updates 100]
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from record import record
from sb3_contrib import QRDQN
from stable_baselines3.common.logger import Logger

from surefoot.agents.distributional.dhn.agent import DHN
from surefoot.agents.distributional.dhn.equations import DHNConfig
from surefoot.agents.interface import Setting, Spaces
from surefoot.envs import EnvConfig, make_vec, spaces_of

TASK = EnvConfig("CartPole-v1")
FILLED = 1_000  # transitions in either replay
SIZES = {"n32_b128": (32, 128), "n200_b32": (200, 32), "n200_b128": (200, 128)}  # quantiles, batch
HIDDEN = (128, 128)


@dataclass
class Options:
    """How long to measure."""

    repeat: int = 7
    updates: int = 100
    """Updates a block."""


def ours(quantiles: int, batch: int, stock: bool) -> Callable[[int], Any]:
    """Return a function that makes so many updates."""
    config = DHNConfig(
        objective="cvar(0.25)" if stock else "mean",
        stock=stock,
        stock_range=(-100.0, 0.0),
        relabel_probability=0.9 if stock else 0.0,
        gamma=0.99,
        quantiles=quantiles,
        huber_threshold=1.0,
        hidden=HIDDEN,
        batch_size=batch,
        max_grad_norm=10.0,
        learning_starts=FILLED,
        updates_per_step=0.01,
    )
    agent = DHN(config, Setting(Spaces(*spaces_of(TASK)), 0, torch.device("cpu"), make_vec(replace(TASK, num_envs=8))))
    while agent.env_steps < FILLED:
        agent.step()
    return lambda updates: [agent.learn() for _ in range(updates)]


def theirs(quantiles: int, batch: int) -> Callable[[int], Any]:
    """Return the same of SB3-contrib."""
    policy = {"n_quantiles": quantiles, "net_arch": list(HIDDEN)}
    settings: dict[str, Any] = {"gamma": 0.99, "batch_size": batch, "learning_starts": FILLED, "device": "cpu"}
    model = QRDQN("MlpPolicy", TASK.id, policy_kwargs=policy, max_grad_norm=10.0, seed=0, **settings)
    model.learn(FILLED)
    model.set_logger(Logger(None, []))
    return lambda updates: model.train(gradient_steps=updates, batch_size=batch)


def rate(call: Callable[[int], Any], updates: int) -> float:
    """Return updates per CPU second."""
    began = time.process_time()
    call(updates)
    return updates / (time.process_time() - began)


def compare(quantiles: int, batch: int, options: Options) -> dict[str, Any]:
    """Return the medians over alternating blocks."""
    calls = {
        "qr-dqn": ours(quantiles, batch, stock=False),
        "dhn": ours(quantiles, batch, stock=True),
        "sb3-contrib": theirs(quantiles, batch),
    }
    for call in calls.values():
        call(5)
    blocks = [{name: rate(call, options.updates) for name, call in calls.items()} for _ in range(options.repeat)]
    figures = {name: round(statistics.median(block[name] for block in blocks), 1) for name in calls}
    ratios = {
        f"{name}_ratio": round(statistics.median(block[name] / block["sb3-contrib"] for block in blocks), 2)
        for name in ("qr-dqn", "dhn")
    }
    return {"quantiles": quantiles, "batch": batch, "updates_per_cpu_second": figures, **ratios}


def main(options: Options) -> None:
    began = time.perf_counter()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="stable_baselines3")
    sizes = {name: compare(*size, options) for name, size in SIZES.items()}
    record("dhn_speed", {"hidden": list(HIDDEN), "sizes": sizes}, began=began, seeds=[0])


if __name__ == "__main__":
    main(tyro.cli(Options))
