"""Treatment of sepsis as a finite MDP built from real intensive-care records: risk-averse and robust policies, exactly.

`icu-sepsis` (extra `benchmarks`): 716 states, 25 actions (5 levels of fluids × 5 of vasopressors), reward 1 for
survival, γ = 1, no horizon. Checked against the package's figures: optimum, clinicians' policy, uniform policy. Then
CVaR of survival less a cost per treatment day (six steps of 4 hours), and the best worst case over perturbed models.
The perturbation is that of the package's authors: every admissible action of a state is withheld with probability
`--sigma`, at least one is left, and what is not admissible has the mean of what is (their helpers' `perturb`).

    python benchmarks/sepsis.py
"""

from __future__ import annotations

import importlib.util
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from record import record
from scipy import sparse

from surefoot.agents.distributional import Solution, solve
from surefoot.agents.iwocs.tables import iwocs, mixtures, prepare, robust_values, solve_worst_case, values_in_all
from surefoot.agents.parts.sparse import Rows, SparseMDP, absorb

KNOWN = {"optimum": 0.8751417, "clinicians": 0.7818, "uniform": 0.7801}
DEATH, SURVIVAL, STEPS_PER_DAY = 713, 714, 6
TAILS = (0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass
class Options:
    """What to compute."""

    models: int = 20
    sigma: float = 0.2
    """Share of admissible actions that a perturbed model withholds."""
    cost: float = 0.03
    """Of a treatment day, where survival is worth 1."""
    seed: int = 0


@dataclass
class Records:
    """The package's data, read without importing it: it registers tasks in another library."""

    moves: np.ndarray  # (S, A, S)
    start: np.ndarray  # (S,)
    clinicians: np.ndarray  # (S, A)
    sofa: np.ndarray  # (S,) how ill
    admissible: list[list[int]]


def read_records() -> Records:
    spec = importlib.util.find_spec("icu_sepsis")
    if spec is None or spec.origin is None:
        raise SystemExit("icu-sepsis is missing; pip install -c constraints.txt -e '.[benchmarks]'")
    assets = Path(spec.origin).parent / "envs" / "assets"
    with np.load(assets / "dynamics.npz", allow_pickle=False) as file:
        fields = [file[name] for name in ("tx_mat", "d_0", "expert_policy", "sofa_scores")]
    lines = (assets / "admissible_actions.txt").read_text().splitlines()
    return Records(*fields, [[int(word) for word in line.split()] for line in lines[1 : len(fields[1]) + 1]])


def table_of(records: Records, moves: np.ndarray, cost: float) -> SparseMDP:
    """Return the MDP that pays 1 for survival and charges a step."""
    states, actions = moves.shape[:2]
    pair, after = np.nonzero(moves.reshape(-1, states))
    chance = moves.reshape(-1, states)[pair, after]
    chance /= np.bincount(pair, chance, states * actions)[pair]
    rows = Rows(pair, after, chance, (after == SURVIVAL) - cost)
    return absorb(SparseMDP(records.start, actions, (rows,)), np.arange(states) >= DEATH)


def perturbed(records: Records, sigma: float, generator: np.random.Generator) -> np.ndarray:
    """Return transition probabilities (S, A, S) where some admissible actions are withheld."""
    moves = records.moves.copy()
    for state, admissible in enumerate(records.admissible[:DEATH]):
        kept = [action for action in admissible if generator.random() >= sigma] or [generator.choice(admissible)]
        mean = moves[state, kept].mean(0)
        moves[state, [action for action in range(moves.shape[1]) if action not in kept]] = mean
    return moves


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    return work(), round(time.process_time() - began, 2)


# --- what a policy does -----------------------------------------------------------------------------------------------


def behaviour(records: Records, table: SparseMDP, action_at: Callable[[int], np.ndarray]) -> dict[str, float]:
    """Return what happens to patients under a policy: `action_at(step)` gives probabilities (S, A)."""
    rows, mass = table.steps[0], table.start.copy()
    moves = sparse.csr_array((rows.probability, (rows.pair, rows.after)), shape=(len(mass) * 25, len(mass)))
    ill = records.sofa >= np.quantile(records.sofa[:DEATH], 2 / 3)
    totals = dict.fromkeys(("steps", "fluids", "vasopressors", "ill_steps", "ill_fluids", "ill_vasopressors"), 0.0)
    levels = {"fluids": np.arange(25) // 5, "vasopressors": np.arange(25) % 5}
    for step in range(2_000):
        alive = np.where(np.arange(len(mass)) < DEATH, mass, 0.0)
        if alive.sum() < 1e-9:
            break
        used = alive[:, None] * action_at(step)
        for name, here in (("", used), ("ill_", used * ill[:, None])):
            totals[f"{name}steps"] += here.sum()
            for drug, level in levels.items():
                totals[f"{name}{drug}"] += float(here.sum(0) @ level)
        ended = np.where(np.arange(len(mass)) >= DEATH, mass, 0.0)
        mass = ended + used.ravel() @ moves
    shares = {
        f"{name}{drug}": totals[f"{name}{drug}"] / totals[f"{name}steps"] for name in ("", "ill_") for drug in levels
    }
    figures = {"survival": mass[SURVIVAL], "days": totals["steps"] / STEPS_PER_DAY, **shares}
    return {name: round(float(value), 4) for name, value in figures.items()}


def fixed(policy: np.ndarray) -> Callable[[int], np.ndarray]:
    chances = np.eye(25)[policy] if policy.ndim == 1 else policy
    return lambda step: chances


def with_stock(solution: Solution, cost: float) -> Callable[[int], np.ndarray]:
    """Return the probabilities by step: until the end the stock is c_0 less the cost so far."""
    states = torch.arange(len(solution.policy.actions[0]))

    def action_at(step: int) -> np.ndarray:
        stock = torch.full((len(states),), solution.stock - cost * step, dtype=torch.float64)
        return np.eye(25)[solution.policy(states, stock, step).numpy()]

    return action_at


# --- the three parts --------------------------------------------------------------------------------------------------


def known_figures(records: Records, table: SparseMDP) -> tuple[dict[str, Any], np.ndarray]:
    (models, solution), seconds = timed(lambda: (prepare([table], 1.0), solve(table, "mean", gamma=1.0, method="vi")))
    best = solution.policy.actions[0][:, 0].numpy().astype(int)
    policies = {"clinicians": records.clinicians, "uniform": np.full_like(records.clinicians, 1 / 25)}
    found, further = timed(lambda: {name: float(values_in_all(models, one)[0]) for name, one in policies.items()})
    found = {"optimum": solution.value, **found}
    for name, value in found.items():
        if abs(value - KNOWN[name]) > (1e-7 if name == "optimum" else 5e-5):
            raise SystemExit(f"{name} is {value}, should be {KNOWN[name]}")
    return {"figures": found, "bound": solution.bound, "seconds": round(seconds + further, 2)}, best


def risk_averse(records: Records, options: Options) -> dict[str, Any]:
    step_cost = options.cost / STEPS_PER_DAY
    table = table_of(records, records.moves, step_cost)

    def every() -> list[Solution]:
        first = solve(table, f"cvar({TAILS[0]})", gamma=1.0, method="vi")
        return [first, *(first.again(f"cvar({tau})") for tau in TAILS[1:])]

    solutions, seconds = timed(every)
    mean = solve(table, "mean", gamma=1.0, method="vi")
    rows = []
    for one in [mean, *solutions]:
        act = with_stock(one, step_cost) if one is not mean else fixed(one.policy.actions[0][:, 0].numpy().astype(int))
        tails = {f"cvar({tau})": _cvar(one, tau) for tau in TAILS}
        bracket = {"value": one.value, "at_most": one.bound}
        rows.append({"objective": one.objective.name, **bracket, **tails, **behaviour(records, table, act)})
    return {"cost_per_day": options.cost, "seconds": seconds, "policies": rows}


def _cvar(one: Solution, tau: float) -> float:
    from surefoot.agents.distributional.objectives import parse

    return float(parse(f"cvar({tau})").measure(one.returns, one.chances))


def robust(records: Records, table: SparseMDP, nominal: np.ndarray, options: Options) -> dict[str, Any]:
    generator = np.random.default_rng(options.seed)
    several = (table_of(records, perturbed(records, options.sigma, generator), 0.0) for _ in range(options.models))
    models, preparing = timed(lambda: prepare(several, 1.0))
    path, by_iwocs = timed(lambda: iwocs(models))
    (hull, hull_policy), by_iteration = timed(lambda: robust_values(models))
    found, together = timed(lambda: solve_worst_case(models))
    mixed = max(mixtures(models), key=lambda candidate: float(candidate[1].min()))[0]
    best = max(path, key=lambda turn: float(turn.values.min()))
    policies = {
        "optimum of the records": nominal,
        "IWOCS": best.policy,
        "robust value iteration": hull_policy,
        "best of 24 mixtures": mixed,
        "returned": found.policy,
        "clinicians": records.clinicians,
    }
    rows = []
    for name, policy in policies.items():
        values = values_in_all(models, policy)
        changed = round(float((policy != nominal)[:DEATH].mean()), 3) if policy.ndim == 1 else None
        figures = {"worst": float(values.min()), "mean": float(values.mean()), "changed_states": changed}
        rows.append({"policy": name, **figures, **behaviour(records, table, fixed(policy))})
    return {
        "models": options.models,
        "sigma": options.sigma,
        "bracket": [found.lower, found.bound],
        "status": found.status,
        "hull": hull,
        "iwocs_models": len(path),
        "seconds": {
            "preparing": preparing,
            "iwocs": by_iwocs,
            "robust value iteration": by_iteration,
            "everything": together,
        },
        "policies": rows,
    }


def main(options: Options) -> None:
    torch.set_num_threads(1)
    began, records = time.perf_counter(), read_records()
    table = table_of(records, records.moves, 0.0)
    known, nominal = known_figures(records, table)
    print(known, flush=True)
    figures = {
        "known": known,
        "risk_averse": risk_averse(records, options),
        "robust": robust(records, table, nominal, options),
        "largest_process_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }
    record("sepsis", figures, began=began, seeds=[options.seed])


if __name__ == "__main__":
    main(tyro.cli(Options))
