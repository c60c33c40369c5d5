"""Time per update of every agent with gradients: the native engine, in float32 and bf16, against eager, in turn.

All in one process. Published sizes of networks and batches, one update per environment step; the step in the
environment is part of it. CPU seconds on one thread, so that other work on the machine counts as little as it can.
Beside them the floor of float32: the operations of the update's matrix products, counted in the eager one, at the
fastest rate that a product shows on this core in the same round. Rows without a gradient, which the native engine
leaves out, are counted, too.

    python benchmarks/engine_speed.py [--agents sac h2o] [--rounds 5]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import torch
import tyro
from record import record
from torch.utils.flop_counter import FlopCounterMode

from surefoot import agents
from surefoot.agents.interface import Batch, Setting, Spaces, VectorEnv
from surefoot.agents.lipschitz_mbrl.dynamics import DynamicsConfig
from surefoot.agents.lipschitz_mbrl.dynamics_training import DynamicsModel
from surefoot.agents.parts.engine import native
from surefoot.agents.parts.engine.stack import Parameters, kernels_of
from surefoot.envs import BatchedPerturbedEnvs, EnvConfig, UncertainVectorEnv, make_vec, spaces_of
from surefoot.envs.termination import never
from surefoot.evaluation.uncertainty_grid import load_set
from surefoot.training.loop.process import quick_process

Engine = Literal["eager", "native", "native-bf16"]
ENGINES: tuple[Engine, ...] = ("eager", "native", *(("native-bf16",) if native.bf16_capabilities() else ()))
DATA_ROWS = 20_000


class Case(NamedTuple):
    """An agent, what is changed of its defaults, how many updates are timed at once, and where it acts."""

    agent: str
    changes: dict[str, Any]
    updates: int = 40
    env: str = "HalfCheetah-v5"
    uncertainty: str | None = None


CASES = {
    "sac": Case("sac", {}),
    "h2o": Case("h2o", {}, 20),
    "sac-mix": Case("sac-mix", {}, 20),
    "darc": Case("darc", {}, 20),
    "cql": Case("cql", {}, 4),
    "bc": Case("bc", {}, 80),
    "td3-bc": Case("td3-bc", {}),
    "rlpd": Case("rlpd", {}, 1),
    "m2td3": Case("m2td3", {}, uncertainty="halfcheetah-2"),
    "rarl": Case("rarl", {}, uncertainty="halfcheetah-2"),
    "qr-dqn, 200 quantiles": Case("qr-dqn", {"quantiles": 200, "updates_per_step": 1.0}, env="CartPole-v1"),
    "dhn, 200 quantiles": Case("dhn", {"quantiles": 200, "updates_per_step": 1.0}, env="CartPole-v1"),
}
MODEL = "mbpo, model training of 7 members (3 epochs of 5,000 rows)"


@dataclass
class Options:
    """What to time."""

    agents: tuple[str, ...] = (*CASES, MODEL)
    rounds: int = 5


class Data(SimpleNamespace):
    """Made-up transitions: a product takes as long with any numbers."""

    def __len__(self) -> int:
        return len(self.obs)


def made_up(spaces: Spaces, rows: int = DATA_ROWS) -> Data:
    generator = torch.Generator().manual_seed(0)
    assert isinstance(spaces.action, gym.spaces.Box)
    assert spaces.observation.shape
    obs, next_obs = torch.randn(2, rows, spaces.observation.shape[0], generator=generator)
    action = torch.rand(rows, spaces.action.shape[0], generator=generator) * 2 - 1
    reward, ends = torch.randn(rows, generator=generator), torch.zeros(rows, dtype=torch.bool)
    return Data(
        obs=obs, action=action, reward=reward, next_obs=next_obs, terminated=torch.zeros(rows), episode_end=ends
    )


def make(case: Case, engine: Engine, seed: int = 0) -> Any:
    """Return the agent of a case, with few steps before its first update."""
    spec, config = agents.get(case.agent), EnvConfig(id=case.env)
    spaces = Spaces(*spaces_of(config))
    env: VectorEnv = make_vec(config)
    worlds = None
    if case.uncertainty:
        uncertainty = load_set(case.uncertainty)
        env, worlds = UncertainVectorEnv(config, uncertainty), BatchedPerturbedEnvs(config, uncertainty)
    data = made_up(spaces) if spec.needs_data else None
    setting = Setting(
        spaces, seed, torch.device("cpu"), env, data, engine=engine, termination=never, perturbed_envs=worlds
    )
    early = {"random_steps": 100, "learning_starts": 300, "rollout_steps": 1}
    known = {field.name for field in fields(spec.default)}
    changes = {name: value for name, value in early.items() if name in known} | case.changes
    return spec.make_agent(replace(spec.default, **changes), setting)


def stepper(case: Case, engine: Engine) -> Callable[[], float]:
    """Return what takes some updates and returns the CPU seconds of each."""
    agent = make(case, engine)

    def run(updates: int = case.updates) -> float:
        began, done = time.process_time(), 0
        while done < updates:
            done += agent.step().updates
        return (time.process_time() - began) / done

    run(max(1, case.updates // 2))
    return run


def model_trainer(engine: Engine) -> Callable[[], float]:
    """Return what trains MBPO's ensemble of published size on made-up rows, and returns the CPU seconds."""
    spaces = Spaces(*spaces_of(EnvConfig(id="HalfCheetah-v5")))
    data = made_up(spaces, 5_000)
    rows = Batch(data.obs, data.action, data.reward, data.next_obs, data.terminated)
    config = DynamicsConfig(ensemble_size=7, elites=5, model_epochs=3, model_output="gaussian")

    def run() -> float:
        setting = Setting(spaces, 0, torch.device("cpu"), engine=engine)
        model = DynamicsModel(config, setting, data.obs.shape[1], data.action.shape[1])
        return cpu_seconds(lambda: model.train(rows))

    return run


def compare(name: str, rounds: int) -> dict[str, Any]:
    """Return milliseconds under each engine and of the floor, and the ratios of each round.

    They are eager to native, native to bf16, and native to the floor.
    """
    runs = {e: model_trainer(e) if name == MODEL else stepper(CASES[name], e) for e in ENGINES}
    operations = products_of(runs["eager"], 1 if name == MODEL else CASES[name].updates)
    seconds: dict[str, list[float]] = {engine: [] for engine in (*ENGINES, "floor")}
    for _ in range(rounds):
        for engine, run in runs.items():
            seconds[engine].append(run())
        seconds["floor"].append(operations / products_per_second())
    milliseconds = {engine: round(1000 * statistics.median(values), 2) for engine, values in seconds.items()}
    in_bf16 = {"bf16": spread(seconds["native"], seconds["native-bf16"])} if "native-bf16" in seconds else {}
    above = {"gflop": round(operations / 1e9, 3), "above_floor": spread(seconds["native"], seconds["floor"])}
    return milliseconds | spread(seconds["eager"], seconds["native"]) | in_bf16 | above


def products_of(run: Callable[[], float], updates: int) -> float:
    """Return the floating-point operations of the matrix products of one update."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / updates


def products_per_second(repeat: int = 20) -> float:
    """Return operations a CPU second of the fastest of two products of float32: PyTorch's and the kernels' own."""
    square, wide = torch.randn(1024, 1024), torch.randn(256, 256)
    net = Parameters([torch.randn(1, 256, 256)] * 8, [torch.zeros(1, 1, 256)] * 8, "relu")
    kernels = kernels_of("native")
    ways: dict[int, Callable[[], Any]] = {
        2 * 1024**3: lambda: square @ square,
        8 * 2 * 256**3: lambda: kernels.forward(net, wide, keep=False),
    }
    return max(operations / min(cpu_seconds(way) for _ in range(repeat)) for operations, way in ways.items())


def cpu_seconds(way: Callable[[], Any]) -> float:
    began = time.process_time()
    way()
    return time.process_time() - began


def spread(slower: list[float], faster: list[float]) -> dict[str, float]:
    ratios = sorted(a / b for a, b in zip(slower, faster, strict=True))
    found = {"ratio": statistics.median(ratios), "low": ratios[0], "high": ratios[-1]}
    return {name: round(value, 2) for name, value in found.items()}


def main(options: Options) -> None:
    began = time.perf_counter()
    torch.set_num_threads(1)
    with quick_process():
        figures = {name: compare(name, options.rounds) for name in options.agents}
    record("engine_speed", {"rounds": options.rounds, "agents": figures}, began=began, seeds=[0])


if __name__ == "__main__":
    main(tyro.cli(Options))
