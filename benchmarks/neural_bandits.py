"""NeuSquareCB and NeuFastCB beside what they are compared with: regret over 10 replicates.

    python benchmarks/neural_bandits.py                     # every task and method
    python benchmarks/neural_bandits.py --missing           # only what has no result yet

Packaged data, and synthetic problems whose optimum is known. `digits` is one pass, in an order of each replicate's own;
the smaller sets are shuffled anew for every pass. All networks have one schedule of training. The order that the
authors report: docs/derivations/neural_bandits.md §11.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import tyro
from record import record_job, results_of

from surefoot import agents
from surefoot.agents.interface import Setting, Spaces
from surefoot.agents.parts.engine import choose
from surefoot.envs import EnvConfig, make_vec, spaces_of
from surefoot.evaluation.regret import last_decade_slope

ID = "surefoot/ContextualBandit-v0"
TASKS: dict[str, tuple[dict[str, Any], int]] = {
    "digits": ({"data": "digits"}, 1797),
    "breast-cancer": ({"data": "breast-cancer"}, 1707),  # three passes
    "wine": ({"data": "wine"}, 1780),  # ten
    "cosine": ({"problem": "cosine"}, 3000),
    "logistic": ({"problem": "logistic"}, 3000),
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "neufastcb": ("neufastcb", {}),
    "neusquarecb": ("neusquarecb", {}),
    "neural-ucb, ν = 0.1": ("neural-ucb", {"exploration": 0.1}),
    "neural-ucb, ν = 0.001": ("neural-ucb", {}),
    "neural-ts, ν = 0.1": ("neural-ts", {"exploration": 0.1}),
    "neural-ts, ν = 0.001": ("neural-ts", {}),
    "ee-net": ("ee-net", {}),
    "ε-greedy, ε = 0.05": ("neural-epsilon-greedy", {}),
    "ε-greedy on losses": ("neural-epsilon-greedy", {"target": "loss"}),
    "greedy": ("neural-epsilon-greedy", {"epsilon": 0.0}),
    "contextual-linucb": ("contextual-linucb", {}),
    "linear-squarecb": ("linear-squarecb", {}),
    "uniform": ("neural-epsilon-greedy", {"epsilon": 1.0, "updates_per_round": 1, "replay": False}),
}
# Switches of the two methods, on one task: what each is worth.
SWITCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "neusquarecb, no perturbation": ("neusquarecb", {"perturbation": "none"}),
    "neufastcb, no perturbation": ("neufastcb", {"perturbation": "none"}),
    "neusquarecb, constant γ = 5": ("neusquarecb", {"gamma_rule": "constant", "gamma_scale": 5.0}),
    "neufastcb, constant γ = 5": ("neufastcb", {"gamma_rule": "constant", "gamma_scale": 5.0}),
    "neusquarecb, constant γ = 500": ("neusquarecb", {"gamma_rule": "constant", "gamma_scale": 500.0}),
    "neufastcb, constant γ = 50": ("neufastcb", {"gamma_rule": "constant", "gamma_scale": 50.0}),
    "neusquarecb, γ of the theory": ("neusquarecb", {"gamma_rule": "theory", "horizon": 1797}),
    "neufastcb, γ of the theory": ("neufastcb", {"gamma_rule": "theory"}),
    "neusquarecb, one step a round": ("neusquarecb", {"updates_per_round": 1, "replay": False}),
    "neufastcb, one step a round": ("neufastcb", {"updates_per_round": 1, "replay": False}),
}


def play(name: str, kwargs: dict[str, Any], rounds: int, replicates: int, seed: int = 0, **changes: Any) -> Any:
    """Return an agent after `rounds` rounds."""
    agent = make(name, kwargs, rounds, replicates, seed, **changes)
    agent.step()
    return agent


def make(name: str, kwargs: dict[str, Any], rounds: int, replicates: int, seed: int = 0, **changes: Any) -> Any:
    """Return an agent whose step is `rounds` rounds."""
    spec, env = agents.get(name), EnvConfig(ID, num_envs=replicates, kwargs=kwargs)
    device = torch.device("cpu")
    setting = Setting(Spaces(*spaces_of(env)), seed, device, make_vec(env), engine=choose("auto", device)[0])
    return spec.make_agent(replace(spec.default, rounds_per_step=rounds, **changes), setting)


def outcome(agent: Any) -> dict[str, Any]:
    """Return the regret at the end and at the quarters, the slope of the last decade, and the curve."""
    at, curve = agent.regret.trace()
    at, curve = np.array(at), curve.numpy()
    total, mean = curve[-1], curve.mean(1)
    quarters = np.interp(at[-1] * np.array([0.25, 0.5, 0.75]), at, mean)
    shown = np.unique(np.linspace(0, len(at) - 1, 40).astype(int))
    return {
        "rounds": int(at[-1]),
        "replicates": len(total),
        "regret_mean": round(float(total.mean()), 1),
        "regret_std": round(float(total.std(ddof=1)), 1),
        "regrets": total.round(1).tolist(),
        "quarters": quarters.round(1).tolist(),
        "last_quarter": round(float(mean[-1] - quarters[-1]), 1),
        "slope": round(last_decade_slope(at, curve), 3),
        "curve": {
            "rounds": at[shown].tolist(),
            "mean": mean[shown].round(2).tolist(),
            "se": (curve[shown].std(1, ddof=1) / len(total) ** 0.5).round(2).tolist(),
        },
    }


@dataclass
class Options:
    """What to run."""

    tasks: tuple[str, ...] = tuple(TASKS)
    switches: bool = True
    """Also vary the two methods' own settings, on digits."""
    missing: bool = False
    """Only jobs that have no result yet."""
    replicates: int = 10
    seed: int = 0


def main(options: Options) -> None:
    torch.set_num_threads(1)
    jobs = [(task, label, *METHODS[label]) for task in options.tasks for label in METHODS]
    if options.switches and "digits" in options.tasks:
        jobs += [("digits", label, *SWITCHES[label]) for label in SWITCHES]
    done = results_of("neural_bandits") if options.missing else {}
    jobs = [job for job in jobs if f"{job[0]}/{job[1]}" not in done]
    began = time.perf_counter()
    for task, label, name, changes in jobs:
        kwargs, rounds = TASKS[task]
        started = time.process_time()
        result = outcome(play(name, kwargs, rounds, options.replicates, options.seed, **changes))
        result["cpu_seconds"] = round(time.process_time() - started, 1)
        record_job("neural_bandits", f"{task}/{label}", result, began=began, seeds=[options.seed])


if __name__ == "__main__":
    main(tyro.cli(Options))
