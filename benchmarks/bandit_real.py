"""Bandits that know less than the simulator tells them: no horizon, a wrong or unknown ρ̄, loose bounds, logs.

    python benchmarks/bandit_real.py doubling     # T known against T doubled
    python benchmarks/bandit_real.py radius       # ρ = 0.9: ρ̄ too small, right, too large, and found from the data
    python benchmarks/bandit_real.py bias         # `bias_scale`, beside LinUCB
    python benchmarks/bandit_real.py logs         # identification: how often intervals cover, and `control`'s estimates
    python benchmarks/bandit_real.py replay       # learners in the system identified from a log, and in the true one

`logs` needs the package `control`, the reference, which Surefoot itself does not: pip install control.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import tyro
from dynlin_ucb import outcome, play
from record import record

from surefoot.agents.dynlin.bounds import NAMES, from_system
from surefoot.agents.dynlin.identification import Identified, identify
from surefoot.agents.parts.ask_tell import BanditRequest
from surefoot.envs import DynamicalLinear
from surefoot.envs.tasks.linear_system import SYSTEMS, cumulative_markov, make_system, spectral_radius
from surefoot.evaluation import bandit_files

ARMS = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
SLOW = {"A": [[0.9]], "B": [[0.6, -0.3]], "omega": [0.3], "theta": [-0.2, 0.6], "noise": 0.02, "actions": ARMS}
PROMPT = {  # what is best at once is best in the long run
    "A": [[0.8, 0.1], [0.0, 0.6]],
    "B": [[0.1, 0.05, -0.05], [0.05, -0.1, 0.1]],
    "omega": [0.5, 0.5],
    "theta": [0.9, 0.3, 0.1],
    "noise": 0.05,
    "actions": SYSTEMS["synthetic"]["actions"],
}


def doubling(options: Options) -> dict[str, Any]:
    """Play with T known and without."""
    rounds, replicates, figures = 50_000, 20, dict[str, Any]()
    for system in ("s1", "synthetic", "real-data"):
        for name in ("dynlin-ucb", "batch-exp3"):
            known = outcome(play(name, {"system": system}, rounds, replicates, options.seed))
            anytime = {"doubling": True, "horizon": 64}
            doubled = outcome(play(name, {"system": system}, rounds, replicates, options.seed, **anytime))
            ratio = round(doubled["regret_mean"] / known["regret_mean"], 3)
            figures[f"{system} {name}"] = {"known": known, "doubled": doubled, "ratio": ratio}
            print(system, name, ratio, flush=True)
    return {"rounds": rounds, "replicates": replicates, "cells": figures}


def ask_and_tell(env: DynamicalLinear, learner: Any, rounds: int) -> float:
    """Return the mean pseudo-regret after `rounds` rounds of asking and telling."""
    total = torch.zeros(env.num_envs, dtype=torch.float64)
    while learner.turns.t < rounds:
        decision = learner.ask()
        index = torch.as_tensor(np.atleast_1d(decision.index))
        for _ in range(decision.rounds):
            _, reward, _, _, info = env.step(index)
            total += env.optimum - info["steady_state_reward"]
            learner.tell(reward)
    return round(float(total.mean()), 1)


def radius(options: Options) -> dict[str, Any]:
    """Play a slow system with ρ̄ of several sizes, and with none."""
    rounds, replicates, figures = 8_000, 10, dict[str, Any]()
    warnings.simplefilter("ignore")
    for rho in (0.3, 0.5, 0.75, 0.9, 0.95, None):
        env = DynamicalLinear(replicates, **SLOW)  # type: ignore[arg-type]
        env.reset(seed=options.seed)
        true = from_system(env.system, 1.0)._asdict()
        known = {name: true[field] for name, field in NAMES.items() if field in ("theta", "omega", "b", "phi", "sigma")}
        known |= {} if rho is None else {"spectral_radius": rho}
        learner: Any = bandit_files.make("dynlin-ucb", {}, BanditRequest(ARMS, known, replicates, options.seed)).learner
        cell = {"regret_mean": ask_and_tell(env, learner, rounds), "rho_at_end": learner.learner.rho}
        cell |= {"raised": learner.raised, "warned": any(line.startswith("bounds: ") for line in learner.warned)}
        best = learner.learner.greedy()
        value = torch.tensor(env.actions @ env.h)  # type: ignore[operator]
        cell["right_at_end"] = round(float((value[best] > env.optimum - 1e-9).double().mean()), 2)
        figures["not given" if rho is None else f"{rho:g}"] = cell
        print(rho, cell, flush=True)
    return {"rounds": rounds, "replicates": replicates, "true": 0.9, "cells": figures}


def bias(options: Options) -> dict[str, Any]:
    """Play with smaller bias terms."""
    rounds, replicates, figures = 5_000, 20, dict[str, Any]()
    systems = {"prompt": PROMPT, "s1": {"system": "s1"}, "real-data": {"system": "real-data"}}
    for system, kwargs in systems.items():
        cells = {}
        for scale in (1.0, 0.3, 0.1, 0.03, 0.0):
            cells[f"bias_scale = {scale:g}"] = outcome(
                play("dynlin-ucb", kwargs, rounds, replicates, options.seed, bias_scale=scale)
            )
        for name in ("linucb", "linucb-log"):
            cells[name] = outcome(play(name, kwargs, rounds, replicates, options.seed))
        figures[system] = cells
        print(system, {name: cell["regret_mean"] for name, cell in cells.items()}, flush=True)
    return {"rounds": rounds, "replicates": replicates, "cells": figures}


def log_of(kwargs: dict[str, Any], replicates: int, rounds: int, hold: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return actions (T, N, d), uniform and each held, and rewards (T, N)."""
    env = DynamicalLinear(replicates, **kwargs)
    env.reset(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(len(env.actions), (-(-rounds // hold), replicates), generator=generator)  # type: ignore[arg-type]
    index = index.repeat_interleave(hold, 0)[:rounds]
    rewards = torch.stack([env.step(row)[1] for row in index])
    return env.actions[index.numpy()], rewards.numpy()  # type: ignore[index]


def reference(actions: np.ndarray, rewards: np.ndarray, lags: int, order: int) -> tuple[np.ndarray, float]:
    """Return h and ρ of `control`: least-squares Markov parameters, and its eigensystem realisation of them."""
    import control

    data = control.TimeResponseData(np.arange(len(rewards)), outputs=rewards[None], inputs=actions.T, issiso=False)
    data.dt = True
    found = control.markov(data, lags + 1)  # (1, d, L + 1)
    realised, _ = control.eigensys_realization(found, order, dt=True)
    return found[0].sum(1), float(np.abs(np.linalg.eigvals(realised.A)).max())


def covers(found: Identified, kwargs: dict[str, Any]) -> dict[str, float]:
    """Return whether each interval of one log holds the truth."""
    system = make_system({**SYSTEMS.get(kwargs.get("system", ""), {}), **kwargs})
    h, rho, interval = cumulative_markov(system), spectral_radius(system.A), found.spectral_radius
    table = np.array(SYSTEMS[kwargs["system"]]["actions"], dtype=np.float64)
    values = [(found.long_run(action), float(action @ h)) for action in table]
    return {
        "reward": float(np.mean([one.low <= value <= one.high for one, value in values])),
        "h": float(np.mean([one.low <= value <= one.high for one, value in zip(found.h, h, strict=True)])),
        "radius": float(interval.low <= rho <= interval.high),
        "radius_bound": float(rho <= interval.high),
        "error": float(np.abs([one.value for one in found.h] - h).max()),
        "radius_error": abs(interval.value - rho),
    }


def logs(options: Options) -> dict[str, Any]:
    """Identify many logs; the same without noise beside the reference."""
    replicates, rounds, figures = 100, 2_000, dict[str, Any]()
    for system in ("s1", "synthetic", "real-data"):
        for hold in (1, 3):
            kwargs = {"system": system, "noise": 0.05}
            actions, rewards = log_of(kwargs, replicates, rounds, hold, options.seed)
            rows = [covers(identify(actions[:, i], rewards[:, i]), kwargs) for i in range(replicates)]
            shares = {name: round(float(np.mean([row[name] for row in rows])), 3) for name in rows[0]}
            figures[f"{system}, held {hold}"] = shares
            print(system, hold, shares, flush=True)
    kwargs = {"A": [[0.6, 0.2], [0.0, -0.3]], "B": [[0.5, -0.2], [0.1, 0.4]], "omega": [1.0, 0.5], "theta": [0.3, -0.1]}
    kwargs |= {"noise": 0.02, "actions": [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.3, 0.7]]}  # type: ignore[dict-item]
    actions, rewards = log_of(kwargs, 10, rounds, 1, options.seed)
    theirs, ours = [], []
    for i in range(10):
        found = identify(actions[:, i], rewards[:, i], lags=20)
        theirs.append(reference(actions[:, i], rewards[:, i], 20, 2))
        ours.append((np.array([one.value for one in found.h]), found.spectral_radius.value))
    apart = {
        "h": float(max(np.abs(one[0] - other[0]).max() for one, other in zip(ours, theirs, strict=True))),
        "radius": float(max(abs(one[1] - other[1]) for one, other in zip(ours, theirs, strict=True))),
        "h_error": float(np.mean([np.abs(one[0] - cumulative_markov(make_system(kwargs))).max() for one in ours])),
        "radius_error": float(np.mean([abs(one[1] - 0.6) for one in ours])),
        "radius_error_control": float(np.mean([abs(one[1] - 0.6) for one in theirs])),
    }
    return {"rounds": rounds, "logs": replicates, "cells": figures, "apart_from_control": apart}


def replay(options: Options) -> dict[str, Any]:
    """Identify the advertiser's system from a log of random budgets, and play every learner in both."""
    rounds, replicates, figures = 20_000, 10, dict[str, Any]()
    actions, rewards = log_of({"system": "real-data"}, 1, 4_000, 1, options.seed)
    found = identify(actions[:, 0], rewards[:, 0])
    table = np.array(SYSTEMS["real-data"]["actions"], dtype=np.float64)
    truth = table @ cumulative_markov(make_system(SYSTEMS["real-data"]))
    rewards_found = [[round(value, 4) for value in found.long_run(action)] for action in table]
    kwargs = {**found.system(), "actions": table.tolist()}
    for name in ("dynlin-ucb", "batch-exp3", "linucb", "linucb-log", "exp3", "uniform"):
        cells = {"replayed": outcome(play(name, kwargs, rounds, replicates, options.seed))}
        cells["true"] = outcome(play(name, {"system": "real-data"}, rounds, replicates, options.seed))
        figures[name] = cells
        print(name, {at: cell["regret_mean"] for at, cell in cells.items()}, flush=True)
    rest = {"log": 4_000, "long_run": rewards_found, "long_run_true": [round(float(value), 4) for value in truth]}
    return {"rounds": rounds, "replicates": replicates, **rest, "cells": figures}


PARTS = {"doubling": doubling, "radius": radius, "bias": bias, "logs": logs, "replay": replay}


@dataclass
class Options:
    """What to run."""

    part: tyro.conf.Positional[Literal["doubling", "radius", "bias", "logs", "replay"]]
    seed: int = 0


def main(options: Options) -> None:
    torch.set_num_threads(1)
    began = time.perf_counter()
    record(f"bandit_real_{options.part}", PARTS[options.part](options), began=began, seeds=[options.seed])


if __name__ == "__main__":
    main(tyro.cli(Options))
