"""Worlds times steps per second of MuJoCo Warp against MuJoCo in C: a line of JSON as soon as a part is done.

    benchmarks/worlds.sh               # on a GPU, in less than eight minutes
    benchmarks/worlds.sh --device cpu --worlds 1 16 256 --no-grid
    benchmarks/worlds.sh --dry-run     # the same code in tiny sizes on the CPU

Parts, all of HalfCheetah-v5 with other masses and friction in every world: the time until the first step, kernels
compiled into an empty folder; the error against C after ten steps, with the parameters of the episodes and with other
ones in every step, as RARL's adversary chooses them; whether two runs are the same, bit for bit, and one that goes on
from a saved state; control steps per second and memory for each number of worlds on both backends, for the largest
also with other parameters in every step; a grid of 10 x 10 x 10 parameters with ten episodes each, 10 million steps,
of a random policy with two hidden layers of 256. A part that fails is a line that says so, and the exit code is 1.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import tyro
from record import record
from torch import Tensor, nn

from surefoot.envs import EnvConfig, UncertainVectorEnv, find_set, play

TASK, SET = EnvConfig("HalfCheetah-v5"), find_set("halfcheetah-3")
STRENGTH = 0.25  # of the actions of the equality part: at full strength the task is chaotic
CLOSE = 1e-4  # of 1 + |observation|, after ten steps
BAR = 60.0  # seconds for the grid on one H100


@dataclass
class Options:
    """What to measure."""

    dry_run: bool = False
    """Tiny sizes on the CPU: whether everything runs, not how fast."""
    device: str = "cuda"
    worlds: tuple[int, ...] = (1, 16, 256, 1024, 4096, 16384)
    c_worlds: tuple[int, ...] = (1, 16, 256)
    """Of the backend in C, one after the other in this process."""
    seconds: float = 8.0
    """For each figure, after its warm-up."""
    grid: bool = True
    fresh_cache: bool = True
    """Compile into an empty folder, to measure it."""


def settled(options: Options) -> Options:
    """Return the sizes of a measurement or of a dry run; `ValueError` where there is no such device."""
    if options.dry_run:
        small = {"worlds": (1, 2), "c_worlds": (1, 2), "seconds": 0.01, "fresh_cache": False}
        return replace(options, device="cpu", **small)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("no CUDA device here; --device cpu measures this machine, --dry-run goes through all of it")
    return options


def make(backend: str, worlds: int, device: str) -> Any:
    where = device if backend == "warp" else "cpu"
    return UncertainVectorEnv(replace(TASK, backend=backend, num_envs=worlds), SET, device=where)


def actions(env: Any, steps: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand((steps, env.num_envs, 6), generator=generator) * 2 - 1).to(env.device)


def compiling(options: Options) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    env = make("warp", 2, options.device)
    env.reset(seed=0)
    env.step(actions(env, 1)[0])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    took = {"seconds_to_the_first_step": round(wall, 1), "cpu_seconds": round(cpu, 1)}
    return {**took, "fresh_cache": options.fresh_cache}


def others(env: Any, step: int) -> Tensor:
    """Return parameters (N, d) of the set that are others in every step."""
    unit = torch.rand((env.num_envs, len(env.low)), generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return env.low + unit.to(env.low) * (env.high - env.low)  # type: ignore[no-any-return]


def moved(env: Any, steps: int, strength: float, changing: bool = False) -> Tensor:
    """Return the observations (T, N, obs) of steps from where the environments are, on the host."""
    seen = []
    for step, action in enumerate(actions(env, steps)):
        if changing:
            env.set_params(others(env, step), now=True)
        seen.append(env.step(strength * action)[0].cpu())
    return torch.stack(seen)


def observed(backend: str, device: str, steps: int, strength: float, changing: bool = False) -> Tensor:
    env = make(backend, 16, device)
    env.reset(seed=0)
    return moved(env, steps, strength, changing)


def equality(options: Options, changing: bool = False) -> dict[str, Any]:
    ours, theirs = (observed(backend, options.device, 10, STRENGTH, changing) for backend in ("warp", "mujoco"))
    error = float(((ours - theirs).abs() / (1 + theirs.abs())).max())
    bound = 10 * CLOSE if changing else CLOSE  # a body that is light at a contact amplifies a rounding
    return {"largest_error_after_10_steps": error, "passed": error < bound}


def resuming(options: Options) -> dict[str, Any]:
    env, other = (make("warp", 16, options.device) for _ in range(2))
    env.reset(seed=0)
    moved(env, 3, 1.0)
    other.load_state_dict(env.state_dict())
    return {"the_same_bit_for_bit": torch.equal(moved(env, 5, 1.0), moved(other, 5, 1.0))}


def determinism(options: Options) -> dict[str, Any]:
    steps = 5 if options.dry_run else 100
    first, second = (observed("warp", options.device, steps, 1.0) for _ in range(2))
    return {"steps": steps, "the_same_bit_for_bit": torch.equal(first, second)}


def speed(backend: str, worlds: int, options: Options, changing: bool = False) -> dict[str, Any]:
    env = make(backend, worlds, options.device)
    env.reset(seed=0)
    some, parameters, steps = actions(env, 8), [others(env, k) for k in range(8)], 0
    for action in some[:3]:
        env.step(action)
    wait(env)
    wall, cpu = time.perf_counter(), time.process_time()
    while not steps or time.perf_counter() - wall < options.seconds:
        if changing:
            env.set_params(parameters[steps % 8], now=True)
        env.step(some[steps % 8])
        steps += 1
    wait(env)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    per_second = {"steps_per_second": round(worlds * steps / wall), "steps_per_cpu_second": round(worlds * steps / cpu)}
    return {"backend": backend, "worlds": worlds, **per_second, **memory(env.device)}


def wait(env: Any) -> None:
    if env.device.type == "cuda":
        torch.cuda.synchronize(env.device)


def memory(device: torch.device) -> dict[str, int]:
    """Return the memory in use on a GPU, or what the process has had at most."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return {"gpu_mb": round((total - free) / 2**20)}
    return {"peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def grid(options: Options) -> dict[str, Any]:
    torch.manual_seed(0)
    hidden = (nn.Linear(17, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    act = nn.Sequential(*hidden, nn.Linear(256, 6), nn.Tanh()).to(options.device)
    n, episodes, limit = (2, 1, 2) if options.dry_run else (10, 10, 1000)
    points = np.repeat(SET.grid(n), episodes, axis=0)
    task = replace(TASK, backend="warp", max_episode_steps=limit)
    began = time.perf_counter()
    seeds = list(range(episodes)) * (len(points) // episodes)
    played = play(act, task, SET, points, seeds, num_envs=len(points), device=options.device)
    took = time.perf_counter() - began
    steps = int(played.lengths.sum())
    return {"episodes": len(points), "steps": steps, "seconds": round(took, 1), "bar_on_an_h100": BAR}


def parts(options: Options) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "compile", lambda: compiling(options)
    yield "equality", lambda: equality(options)
    yield "equality, parameters of every step", lambda: equality(options, changing=True)
    yield "determinism", lambda: determinism(options)
    yield "resuming", lambda: resuming(options)
    for backend, numbers in (("mujoco", options.c_worlds), ("warp", options.worlds)):
        for worlds in numbers:
            yield f"speed, {backend}, {worlds}", lambda b=backend, n=worlds: speed(b, n, options)
        most = max(numbers)
        changing = f"parameters of every step, {backend}, {most}"
        yield changing, lambda b=backend, n=most: speed(b, n, options, changing=True)
    if options.grid:
        yield "grid", lambda: grid(options)


def main(options: Options) -> int:
    """Measure in turn, print each part, and record them all unless this was a dry run."""
    began, found, failed = time.perf_counter(), {}, False
    options = settled(options)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.fresh_cache:
            os.environ["WARP_CACHE_PATH"] = folder  # read when Warp starts, which is not yet
        for name, part in parts(options):
            try:
                found[name] = part()
            except Exception as error:
                found[name] = {"error": f"{type(error).__name__}: {error}"}
            failed |= "error" in found[name] or not found[name].get("passed", True)
            print(json.dumps({"part": name, **found[name]}), flush=True)
    if not options.dry_run:
        device = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
        record("worlds", {"device": device, "parts": found}, began=began, seeds=[0])
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options)))
    except ValueError as problem:
        sys.exit(f"worlds.py: error: {problem}")
