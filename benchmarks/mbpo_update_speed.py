"""Time of one update of mbpo's critics, policy and temperature in every variant that differs there.

HalfCheetah's shapes, batch 256, critics and policy of 2×256, replays of random rows, the draw of a batch included. All
variants take turns in one process; CPU milliseconds with one thread hardly notice what else a machine does.

    python benchmarks/mbpo_update_speed.py [--repeat 20]
    python benchmarks/mbpo_update_speed.py --device cuda [--compile]  # eager, and as a CUDA graph
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import tyro
from dynamics_speed import measure
from record import record

from surefoot import agents
from surefoot.agents.interface import Batch, Setting, Spaces
from surefoot.envs import EnvConfig, make_vec, spaces_of
from surefoot.envs.termination import never

TASK = EnvConfig("HalfCheetah-v5")
ROWS = 10_000
UPDATES = 20  # of an environment step, drawn together
WAYS: dict[str, dict[str, Any]] = {
    "sd": {"variant": "sd"},
    "rr, robust_weight = 0": {"variant": "rr", "robust_weight": 0.0},
    "rr": {"variant": "rr"},
    "rr, uniform noise": {"variant": "rr", "attack": "uniform"},
    "sn": {"variant": "sn"},
}
COMPILED = ("sd", "rr", "sn")


def random_rows(device: torch.device) -> Batch:
    """Return transitions of HalfCheetah's shape."""
    generator = torch.Generator().manual_seed(0)
    obs, next_obs = torch.randn(2, ROWS, 17, generator=generator).to(device)
    action = (2 * torch.rand(ROWS, 6, generator=generator) - 1).to(device)
    reward = torch.randn(ROWS, generator=generator).to(device)
    return Batch(obs, action, reward, next_obs, torch.zeros(ROWS, device=device))


def make_updates(changes: dict[str, Any], device: torch.device, **fast: bool) -> Callable[[], Any]:
    """Return the updates of one environment step of an agent whose replays are full, the draws included."""
    spec = agents.get("mbpo")
    env = make_vec(TASK, device=device)
    setting = Setting(Spaces(*spaces_of(TASK)), 0, device, env, **fast, termination=never)
    agent: Any = spec.make_agent(replace(spec.default, rollout_starts=ROWS, model_interval=1_000, **changes), setting)
    for replay in (agent.replay, agent.imagination.replay):
        replay.push(random_rows(device))
    return lambda: [agent.update(*drawn) for drawn in agent.draw(UPDATES)]


def main(repeat: int = 20, device: str = "cpu", compile: bool = False) -> None:
    """Measure every variant; on a GPU also as CUDA graphs, and with `compile` what torch.compile makes of either."""
    began, on = time.perf_counter(), torch.device(device)
    torch.set_num_threads(1)
    updates = {name: make_updates(changes, on) for name, changes in WAYS.items()}
    if on.type == "cuda":
        graphed = {f"{name}, as a CUDA graph": make_updates(WAYS[name], on, cudagraph=True) for name in WAYS}
        updates |= graphed
    if compile:
        for name in COMPILED:
            updates[f"{name}, compiled"] = make_updates(WAYS[name], on, compile=True)
            if on.type == "cuda":
                both = {"compile": True, "cudagraph": True}
                updates[f"{name}, compiled, as a CUDA graph"] = make_updates(WAYS[name], on, **both)
    measure(updates, 2, on)  # warm-up: kernels are chosen and compiled, graphs are recorded
    warm = time.perf_counter() - began
    took = {name: each_of(times) for name, times in measure(updates, repeat, on).items()}
    name = "mbpo_update_speed" + ("_gpu" if on.type == "cuda" else "")
    record(name, {"milliseconds": took, "warm_up_seconds": round(warm, 1)}, began=began, seeds=[0])


def each_of(times: dict[str, float]) -> dict[str, float]:
    """Return the times of one update, and how many there are in a second."""
    one = {name: round(milliseconds / UPDATES, 4) for name, milliseconds in times.items()}
    return one | {"updates_per_second": round(1000 / one["wall"], 1)}


if __name__ == "__main__":
    tyro.cli(main)
