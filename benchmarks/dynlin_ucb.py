"""DynLin-UCB and its baselines against the numbers of docs/derivations/dynlin.md §12.1, §12.4, §12.5 and §13.

    python benchmarks/dynlin_ucb.py systems       # E11: both systems, all algorithms, T = 10⁵, 20 seeds
    python benchmarks/dynlin_ucb.py sensitivity   # E12: ρ̄ and λ
    python benchmarks/dynlin_ucb.py ball          # E13: the unit ball, random stable systems
    python benchmarks/dynlin_ucb.py full          # E14: T = 10⁶, 10 seeds, four configurations

A replicate is an environment: "20 seeds" are the 20 environments of one run.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import tyro
from record import record

from surefoot import agents
from surefoot.agents.dynlin.bandit import Bandit
from surefoot.agents.interface import Setting, Spaces
from surefoot.envs import EnvConfig, make_vec, spaces_of
from surefoot.evaluation.regret import last_decade_slope

ID = "surefoot/DynamicalLinear-v0"
# What the authors' code does beyond the equations (§7, item 2).
OFFICIAL = {"double_first_epoch": True}
BASELINES = (
    "linucb",
    "linucb-paper",
    "linucb-log",
    "d-linucb",
    "d-linucb-paper",
    "d-linucb-log",
    "exp3",
    "batch-exp3",
    "batch-exp3-paper",
    "ar2",
    "uniform",
)
SYSTEMS = {"synthetic": {"system": "synthetic", "noise": 0.01}, "real-data": {"system": "real-data", "noise": 0.01}}


def play(name: str, kwargs: dict[str, Any], rounds: int, replicates: int, seed: int = 0, **changes: Any) -> Bandit:
    """Return a bandit after `rounds` rounds."""
    spec, env = agents.get(name), EnvConfig(ID, num_envs=replicates, kwargs=kwargs)
    setting = Setting(Spaces(*spaces_of(env)), seed, torch.device("cpu"), make_vec(env))
    lengths = {"horizon": rounds, "rounds_per_step": max(1, rounds // 100)}
    config = replace(spec.default, **{**lengths, **changes})
    agent: Any = spec.make_agent(config, setting)
    while agent.regret.t < rounds:
        agent.step()
    return agent


def slope(agent: Bandit) -> float:
    """Return the log-log slope of the mean regret over the last decade of rounds."""
    rounds, curve = agent.regret.trace()
    return last_decade_slope(np.array(rounds), curve.numpy())


def outcome(agent: Bandit) -> dict[str, Any]:
    """Return the regrets at the end over replicates, the slope of the last decade and the final actions."""
    total = agent.regret.total.numpy()
    greedy = agent.learner.greedy()
    result = {
        "regret_mean": round(float(total.mean()), 1),
        "regret_std": round(float(total.std(ddof=1)), 1),
        "regret_median": round(float(np.median(total)), 1),
        "realised_mean": round(float(agent.regret.realised.mean()), 1),
        "slope": round(slope(agent), 3),
    }
    if greedy.ndim == 1:
        result["greedy_at_end"] = torch.bincount(greedy, minlength=len(agent.env.actions)).tolist()  # type: ignore[arg-type]
    return result


def systems(options: Options) -> dict[str, Any]:
    """Run every algorithm on both systems."""
    figures: dict[str, Any] = {"rounds": options.rounds, "replicates": options.replicates}
    for system, kwargs in SYSTEMS.items():
        cells = {}
        jobs: list[tuple[str, str, dict[str, Any]]] = [("dynlin-ucb", "dynlin-ucb", OFFICIAL)]
        jobs += [("dynlin-ucb, ridge = 1", "dynlin-ucb", {**OFFICIAL, "ridge": 1.0})]
        jobs += [(name, name, {}) for name in BASELINES]
        jobs += [("human-budget", "human-budget", {})] if system == "real-data" else []
        for label, name, changes in jobs:
            began = time.process_time()
            cells[label] = outcome(play(name, kwargs, options.rounds, options.replicates, options.seed, **changes))
            cells[label]["cpu_seconds"] = round(time.process_time() - began, 1)
            print(system, label, cells[label], flush=True)
        figures[system] = cells
    return figures


def sensitivity(options: Options) -> dict[str, Any]:
    """Vary ρ̄ and λ of DynLin-UCB, 10 seeds."""
    figures: dict[str, Any] = {"rounds": options.rounds, "replicates": 10}
    warnings.simplefilter("ignore")  # ρ̄ below ρ(A) is the point here
    grids = {
        "synthetic": {
            "spectral_radius_bound": (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6),
            "ridge": (1.0, 10.0, 50.0, 200.0, 1000.0),
        },
        "real-data": {"spectral_radius_bound": (0.0, 0.3, 0.666891), "ridge": (1.0, 10.0, 50.0, 200.0, 1000.0)},
    }
    for system, grid in grids.items():
        figures[system] = {}
        for field, values in grid.items():
            for value in values:
                agent = play(
                    "dynlin-ucb", SYSTEMS[system], options.rounds, 10, options.seed, **{field: value, **OFFICIAL}
                )
                figures[system][f"{field} = {value:g}"] = outcome(agent)
                print(system, field, value, figures[system][f"{field} = {value:g}"], flush=True)
    return figures


def random_system(seed: int, n: int = 4, d: int = 3, rho: float = 0.5, length: float = 0.8) -> dict[str, Any]:
    """Return a random stable system with ρ(A) = 0.5 and ‖h‖ = 0.8, its actions the unit ball (eq. (9.4))."""
    generator = np.random.default_rng(seed)
    A = generator.standard_normal((n, n))
    A *= rho / np.abs(np.linalg.eigvals(A)).max()
    B, omega, theta = (
        generator.standard_normal((n, d)) / 2,
        generator.standard_normal(n) / 2,
        generator.standard_normal(d),
    )
    h = theta + B.T @ np.linalg.solve((np.eye(n) - A).T, omega)
    scale = length / np.linalg.norm(h)
    return {"A": A.tolist(), "B": B.tolist(), "omega": (scale * omega).tolist(), "theta": (scale * theta).tolist()}


def ball(options: Options) -> dict[str, Any]:
    """Play on the unit ball in four random systems."""
    rounds, figures = 20_000, []
    for seed in range(4):
        kwargs = {**random_system(seed), "noise": 0.05, "ball": 1.0}
        agent = play("dynlin-ucb", kwargs, rounds, options.replicates, options.seed)
        estimate, h = agent.learner.ridge.estimate().numpy(), agent.env.h  # type: ignore[attr-defined]
        cosine = (h @ estimate) / np.linalg.norm(estimate, axis=0) / np.linalg.norm(h)
        angle = np.degrees(np.arccos(np.minimum(cosine, 1.0)))
        beta = round(agent.learner.beta, 1)  # type: ignore[attr-defined]
        figures.append({"system": seed, **outcome(agent), "angle_mean": round(float(angle.mean()), 3)})
        figures[-1] |= {"angle_max": round(float(angle.max()), 3), "beta": beta}
        print(figures[-1], flush=True)
    return {"rounds": rounds, "replicates": options.replicates, "systems": figures}


def full(options: Options) -> dict[str, Any]:
    """Run DynLin-UCB and clean Batch-Exp3, both by the epoch path, at T = 10⁶; in both `SYSTEMS` also `baselines`."""
    rounds, replicates = 1_000_000, 10
    configurations = {f"synthetic-{noise}": {"system": "synthetic", "noise": noise} for noise in (0.001, 0.01, 0.1)}
    configurations |= {"real-data": SYSTEMS["real-data"]}
    figures: dict[str, Any] = {"rounds": rounds, "replicates": replicates}
    jobs = [(configuration, name) for configuration in configurations for name in ("dynlin-ucb", "batch-exp3")]
    jobs += [(configuration, name) for configuration in ("real-data", "synthetic-0.01") for name in options.baselines]
    for configuration, name in jobs:
        kwargs, began = configurations[configuration], time.process_time()
        agent = play(name, kwargs, rounds, replicates, options.seed, **(OFFICIAL if name == "dynlin-ucb" else {}))
        result = outcome(agent) | {"cpu_seconds": round(time.process_time() - began, 1)}
        figures.setdefault(configuration, {})[name] = result
        print(configuration, name, result, flush=True)
    return figures


@dataclass
class Options:
    """What to run."""

    part: tyro.conf.Positional[Literal["systems", "sensitivity", "ball", "full"]]
    rounds: int = 100_000
    """T of `systems` and `sensitivity`."""
    replicates: int = 20
    seed: int = 0
    baselines: tuple[str, ...] = ("batch-exp3-paper", "linucb", "linucb-log", "d-linucb", "d-linucb-log", "exp3", "ar2")
    """Further baselines of `full`, in both systems of `systems`; those that learn every round take minutes each."""


def main(options: Options) -> None:
    torch.set_num_threads(1)
    began = time.perf_counter()
    figures = {"systems": systems, "sensitivity": sensitivity, "ball": ball, "full": full}[options.part](options)
    record(f"dynlin_ucb_{options.part}", figures, began=began, seeds=[options.seed])


if __name__ == "__main__":
    main(tyro.cli(Options))
