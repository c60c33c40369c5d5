"""Environment steps per second of SAC on HalfCheetah-v5: ours, Stable-Baselines3's and SBX's, in turn, in one call.

Ours in float32 and, where the processor can, with products in bf16. Same networks (256-256), batch 256, one update per
step, same CPUs; each in a process of its own, as a user gets it. Also, in the same call: replay sampling at a million
rows, and the floor under any update of these shapes, the time of its matrix products alone. SBX (JAX) runs in an
environment of its own, build/sbx, which the script makes. One thread is timed by its CPU seconds, which other work on
the machine changes little; several by the clock, for it is by waiting that they are slow.

    python benchmarks/throughput.py [--threads 1] [--rounds 7] [--steps 200] [--no-sbx]
"""

from __future__ import annotations

import importlib.metadata
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from record import record

from surefoot.agents.parts.engine import native
from surefoot.training.loop.process import quick_process

# Of 256³ products, a critic's layers 23→256→256→1 take 1.1, a policy's 17→256→256→12 as well. An update needs: targets
# (policy and two critics forward, 3.3), critics (two forward, and backward into weights and hidden units, 6.4), policy
# (itself and two critics forward, backward through the critics' inputs and into its weights, 7.9).
PRODUCTS = 17.6
WARM_UP = 600


@dataclass
class Options:
    """What to time."""

    threads: int = 1
    """Threads of each, which run on as many CPUs."""
    rounds: int = 7
    """Timed segments of each, in turn."""
    steps: int = 200
    """Environment steps a segment."""
    sbx: bool = True
    """Time SBX as well."""
    worker: str | None = None
    """Used by the script itself."""


# --- the workers: one generator each, which takes the number of steps and yields the seconds they took ----------------


def seconds_so_far(threads: int) -> float:
    return time.process_time() if threads == 1 else time.perf_counter()


def make_agent(engine: str = "auto") -> Any:
    """Return our SAC on HalfCheetah-v5, as the command line makes it."""
    from surefoot import agents
    from surefoot.agents.interface import Setting, Spaces
    from surefoot.agents.parts.engine import choose
    from surefoot.envs import EnvConfig, make_vec, spaces_of

    config = EnvConfig(id="HalfCheetah-v5")
    spec = agents.get("sac")
    chosen, _ = choose(engine, torch.device("cpu"))
    setting = Setting(Spaces(*spaces_of(config)), 0, torch.device("cpu"), make_vec(config), engine=chosen)
    return spec.make_agent(type(spec.default)(random_steps=100, learning_starts=100), setting)


def ours(engine: str = "auto") -> Iterator[float]:
    """Our loop's own body: step and meter."""
    from surefoot.training.runs.meters import Meter

    agent, meter = make_agent(engine), Meter(torch.device("cpu"))

    def run(steps: int) -> None:
        for _ in range(steps):
            meter.add(agent.step())
        meter.read()

    yield from timed(run)


def stable_baselines3() -> Iterator[float]:
    from stable_baselines3 import SAC

    model = SAC("MlpPolicy", "HalfCheetah-v5", learning_starts=100, device="cpu", seed=0)
    yield from timed(lambda steps: model.learn(steps, reset_num_timesteps=False, log_interval=1000))


def floor() -> Iterator[float]:
    """The products of one update's shapes, as often as there are steps."""
    a, b = torch.randn(256, 256), torch.randn(256, 256)

    def run(steps: int) -> None:
        for _ in range(round(PRODUCTS * steps)):
            torch.mm(a, b)

    yield from timed(run)


def timed(run: Callable[[int], Any]) -> Iterator[float]:
    run(WARM_UP)
    seconds = 0.0
    while True:
        steps = yield seconds
        began = seconds_so_far(torch.get_num_threads())
        run(steps)
        seconds = seconds_so_far(torch.get_num_threads()) - began


WORKERS = {
    "ours": ours,
    "bf16": partial(ours, "native-bf16"),
    "eager": partial(ours, "eager"),
    "sb3": stable_baselines3,
    "floor": floor,
}
SBX = Path(__file__).resolve().parents[1] / "build" / "sbx"
SBX_PACKAGES = ("sbx-rl==0.28.0", "gymnasium[mujoco]")


def serve(name: str, threads: int) -> None:
    """Run in a child: read a number of steps per line, answer the seconds they took."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
    torch.set_num_threads(threads)
    with quick_process() if name in ("ours", "bf16", "eager") else nullcontext():
        worker = WORKERS[name]()
        next(worker)
        print(f"ready {importlib.metadata.version('stable-baselines3') if name == 'sb3' else ''}", flush=True)
        for line in sys.stdin:
            print(worker.send(int(line)), flush=True)


# --- the parent -------------------------------------------------------------------------------------------------------


class Child:
    """A worker process that is asked for one segment at a time, so that the others are idle while it runs."""

    def __init__(self, name: str, threads: int) -> None:
        command = [sys.executable, str(Path(__file__)), "--worker", name, "--threads", str(threads)]
        if name == "sbx":
            command = [sbx_python(), str(Path(__file__).with_name("throughput_sbx.py")), str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self.read().removeprefix("ready").strip()

    def read(self) -> str:
        assert self.process.stdout is not None
        return next(line.strip() for line in self.process.stdout if line.strip())

    def seconds(self, steps: int) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self.read())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def sbx_python() -> str:
    """Return the Python of the environment that has SBX, made if it is not there."""
    python = SBX / "bin" / "python"
    if not (SBX / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(SBX)], check=True)
        torch_too = f"torch=={torch.__version__.split('+')[0]}"
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", torch_too, *SBX_PACKAGES], check=True)
        (SBX / "ready").touch()
    return str(python)


def time_training(options: Options) -> dict[str, Any]:
    names = [*WORKERS, *(["sbx"] if options.sbx else [])]
    if not native.bf16_capabilities():
        names.remove("bf16")
    children = {name: Child(name, options.threads) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, child in children.items():
            seconds[name].append(child.seconds(options.steps))
    for child in children.values():
        child.close()
    per_step = {name: statistics.median(values) / options.steps for name, values in seconds.items()}
    return {
        "threads": options.threads,
        "rounds": options.rounds,
        "versions_of_peers": {name: child.version for name, child in children.items() if child.version},
        "steps_per_second": {name: round(1 / per_step[name], 1) for name in names if name != "floor"},
        "ratio_to_ours": ratios_to("ours", seconds),
        **({"ratio_to_bf16": ratios_to("bf16", seconds)} if "bf16" in names else {}),
        "milliseconds_per_step": {name: round(1000 * value, 2) for name, value in per_step.items()},
    }


def ratios_to(ours: str, seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return the others' times over those of one of ours."""
    return {name: spread(seconds[name], seconds[ours]) for name in seconds if name not in (ours, "floor")}


def spread(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """Return the median of their time over ours, round by round, the least and the greatest."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {"median": round(statistics.median(ratios), 2), "low": round(min(ratios), 2), "high": round(max(ratios), 2)}


def time_parts(engine: str = "auto", steps: int = 300) -> dict[str, float]:
    """Return where one of our environment steps spends its time, in milliseconds: medians."""
    agent = make_agent(engine)
    for _ in range(WARM_UP):
        agent.step()
    seconds: dict[str, list[float]] = {"act_and_environment": [], "sample": [], "update": []}
    calls = ((agent.collector, "advance"), (agent.replay, "sample"), (agent, "update"))
    for name, (owner, method) in zip(seconds, calls, strict=True):
        setattr(owner, method, with_timer(getattr(owner, method), seconds, name))
    for _ in range(steps):
        agent.step()
    return {name: round(1000 * statistics.median(each), 2) for name, each in seconds.items()}


def with_timer(function: Callable[..., Any], seconds: dict[str, list[float]], name: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        began = seconds_so_far(torch.get_num_threads())
        result = function(*args)
        seconds[name].append(seconds_so_far(torch.get_num_threads()) - began)
        return result

    return call


def time_replay(rows: int = 1_000_000, batch: int = 256, repeats: int = 300) -> dict[str, Any]:
    """Time sampling a full replay of HalfCheetah shapes, ours and Stable-Baselines3's in turn."""
    import gymnasium as gym
    from stable_baselines3.common.buffers import ReplayBuffer

    from surefoot.agents.parts.replay import Replay

    obs, action = gym.spaces.Box(-np.inf, np.inf, (17,), np.float32), gym.spaces.Box(-1, 1, (6,), np.float32)
    mine = Replay(rows, 17, 6, torch.Generator().manual_seed(0))
    mine.rows.normal_()
    mine.size = rows
    theirs = ReplayBuffer(rows, obs, action, device="cpu")
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        getattr(theirs, name).fill(1.0)
    theirs.full = True
    seconds: dict[str, list[float]] = {"ours": [], "sb3": []}
    for _ in range(9):
        for name, sample in (("ours", mine.sample), ("sb3", theirs.sample)):
            began = time.perf_counter()
            for _ in range(repeats):
                sample(batch)
            seconds[name].append((time.perf_counter() - began) / repeats)
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["sb3"], strict=True)]
    return {
        "microseconds": {name: round(1e6 * statistics.median(values), 1) for name, values in seconds.items()},
        "ratio": round(statistics.median(ratios), 2),
        "megabytes": round(mine.rows.untyped_storage().nbytes() / 1e6, 1),
    }


def main(options: Options) -> None:
    if options.worker:
        serve(options.worker, options.threads)
        return
    began = time.perf_counter()
    torch.set_num_threads(options.threads)
    figures: dict[str, Any] = {"training": time_training(options)}
    with quick_process():
        figures["training"]["milliseconds_of_ours"] = time_parts()
        if native.bf16_capabilities():
            figures["training"]["milliseconds_of_bf16"] = time_parts("native-bf16")
        figures["replay"] = time_replay()
    name = "throughput" if options.threads == 1 else f"throughput_{options.threads}_threads"
    record(name, figures, began=began, seeds=[0])


if __name__ == "__main__":
    main(tyro.cli(Options))
