"""The whole measurement on one GPU, in less than eight minutes: a line of JSON as soon as a part is done.

    benchmarks/gpu.sh               # needs a CUDA device
    benchmarks/gpu.sh --dry-run     # the same code in tiny sizes on a CPU, with a way that a CPU has for the graphs

Parts: whether a captured update equals the eager one; updates per second of SAC for 1, 4, 16 and 64 seeds, each an
agent with a graph and a stream of its own; whole steps per second of SAC and H2O on HalfCheetah-v5, the environment on
the CPU. Nothing waits for the device but to act and at the ends of a part, as a run does with the rows of its log. A
part that fails is a line that says so, and the exit code is 1.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from engine_speed import made_up
from record import record
from torch import Tensor

from surefoot import agents
from surefoot.agents.interface import Batch, Setting, Spaces
from surefoot.agents.parts.acceleration import tensors_of
from surefoot.envs import EnvConfig, make_vec, spaces_of
from surefoot.training.runs.meters import Meter

TASK = EnvConfig("HalfCheetah-v5")
LEANRL = 725  # frames per second of LeanRL's SAC, compiled and captured, as it publishes them
GOALS = {"frames per second, one seed": 1_000, "updates per second, 16 seeds": 8_000}
CLOSE = 1e-5  # of parameters after the updates of the equality part


@dataclass
class Options:
    """What to measure."""

    dry_run: bool = False
    """Tiny sizes on a CPU: whether everything runs, not how fast."""
    seeds: tuple[int, ...] = (1, 4, 16, 64)
    seconds: float = 8.0
    """For each figure, after its warm-up."""


@dataclass(frozen=True)
class Sizes:
    """How much a part takes, and what stands for fast."""

    device: torch.device
    fast: dict[str, Any]
    tiny: bool
    rows: int
    equal_after: int
    seconds: float


def sizes_of(options: Options) -> Sizes:
    """Return the sizes of a measurement or of a dry run; `ValueError` where there is no GPU to measure."""
    if options.dry_run:
        return Sizes(torch.device("cpu"), {"engine": "torch"}, True, 200, 3, 0.01)
    if not torch.cuda.is_available():
        raise ValueError("no CUDA device here; --dry-run goes through all of it in tiny sizes on the CPU")
    return Sizes(torch.device("cuda"), {"cudagraph": True}, False, 100_000, 20, options.seconds)


def make(name: str, sizes: Sizes, seed: int = 0, **how: Any) -> Any:
    """Return an agent whose replay is filled with made-up rows, and whose steps all have an update."""
    spec, spaces = agents.get(name), Spaces(*spaces_of(TASK))
    data = made_up(spaces, sizes.rows)
    for field, values in vars(data).items():
        setattr(data, field, values.to(sizes.device))
    env = make_vec(TASK, device=sizes.device)
    setting = Setting(spaces, seed, sizes.device, env, data if spec.needs_data else None, **how)
    small = dict(spec.tiny) if sizes.tiny else {}
    always = {"random_steps": 0, "learning_starts": 0, "rollout_steps": 1, "replay_capacity": sizes.rows}
    changes = {field: value for field, value in (small | always).items() if hasattr(spec.default, field)}
    agent = spec.make_agent(replace(spec.default, **changes), setting)
    (agent.replay if hasattr(agent, "replay") else agent.sim).push(
        Batch(data.obs, data.action, data.reward, data.next_obs, data.terminated)
    )
    return agent


def finish(device: torch.device) -> None:
    """Wait until all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(step: Callable[[], int], sizes: Sizes) -> float:
    """Return how many a second `step` makes; it returns how many it made."""
    for _ in range(3):  # graphs are recorded, kernels chosen
        step()
    finish(sizes.device)
    began, made = time.perf_counter(), 0
    while time.perf_counter() - began < sizes.seconds:
        made += step()
    finish(sizes.device)
    return made / (time.perf_counter() - began)


# --- the parts ----------------------------------------------------------------------------------------------------


def equality(name: str, sizes: Sizes) -> dict[str, Any]:
    """Return how far apart the parameters are after the same updates, eager and fast."""
    ended = []
    for how in ({}, sizes.fast):
        agent = make(name, sizes, **how)
        for _ in range(sizes.equal_after):
            agent.step()
        ended.append(torch.cat([t.detach().double().flatten() for t in learned(agent)]))
    apart = float((ended[0] - ended[1]).abs().max())
    if not apart <= CLOSE:
        raise ArithmeticError(f"{name}: {apart:g} apart after {sizes.equal_after} updates, more than {CLOSE:g}")
    return {"updates": sizes.equal_after, "largest_difference": apart}


def learned(agent: Any) -> list[Tensor]:
    nets = agent.nets
    return [tensor for owner in (nets.policy, nets.critic, nets.target) for tensor in tensors_of(owner)]


def updates(seeds: int, sizes: Sizes, **how: Any) -> dict[str, Any]:
    """Return updates per second of all seeds together: batches drawn, noise, update, and metrics kept on the device."""
    cuda = sizes.device.type == "cuda"
    group = [make("sac", sizes, seed, **how) for seed in range(seeds)]
    meters = [Meter(sizes.device) for _ in group]
    streams = [torch.cuda.Stream() if cuda else None for _ in group]

    def step() -> int:
        for agent, meter, stream in zip(group, meters, streams, strict=True):
            with torch.cuda.stream(stream) if cuda else nullcontext():
                agent.collector.updates_due = 1.0  # an update without a step in the environment
                meter.add(agent.step())
        return len(group)

    return {"seeds": seeds, "updates_per_second": round(rate(step, sizes), 1)}


def frames(name: str, sizes: Sizes, **how: Any) -> dict[str, Any]:
    """Return steps per second of an agent in its environment, one update each."""
    agent, meter = make(name, sizes, **how), Meter(sizes.device)

    def step() -> int:
        progress = agent.step()
        meter.add(progress)
        return progress.env_steps

    return {"frames_per_second": round(rate(step, sizes), 1), "leanrl_published": LEANRL}


def parts(options: Options, sizes: Sizes) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    ways: dict[str, dict[str, Any]] = {"eager": {}, "captured": sizes.fast}
    for name in ("sac", "h2o"):
        yield f"equality, {name}", lambda name=name: equality(name, sizes)
    for name in ("sac", "h2o"):
        for way, how in ways.items():
            yield f"frames, {name}, {way}", lambda name=name, how=how: frames(name, sizes, **how)
    yield "updates, 1 seed, eager", lambda: updates(1, sizes)
    for seeds in options.seeds:
        yield f"updates, {seeds} seeds, captured", lambda seeds=seeds: updates(seeds, sizes, **sizes.fast)


def measured(name: str, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Carry a part out, print its line, and return it; what fails is an `error`."""
    began = time.perf_counter()
    try:
        found = part()
    except (RuntimeError, ValueError, ArithmeticError) as error:
        found = {"error": " ".join(str(error).split())}
    line = {"part": name, **found, "took_seconds": round(time.perf_counter() - began, 1)}
    print(json.dumps(line), flush=True)
    return line


def main(options: Options) -> int:
    began, sizes = time.perf_counter(), sizes_of(options)
    lines = [measured(name, part) for name, part in parts(options, sizes)]
    if not options.dry_run:
        record("gpu", {"goals": GOALS, "parts": lines}, began=began, seeds=list(range(max(options.seeds))))
    return int(any("error" in line for line in lines))


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options)))
    except ValueError as error:
        sys.exit(f"gpu.py: error: {error}")
