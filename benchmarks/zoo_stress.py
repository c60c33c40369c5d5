"""Stress every policy of a zoo: nominal return, average and worst case of its task's sets, with the archive's SHA-256.

A zoo is a folder ALGORITHM/TASK/TASK.zip, as of DLR-RM/rl-trained-agents. Every policy is a job of its own in
benchmarks/results/zoo_stress.json: one that is there already, with the same budget, is passed over, so a run that was
stopped goes on where it was. `--parameters N` takes the task's published set of N parameters, tasks without one (and
every task with `--disturbances`) all that can be disturbed in them, with as many episodes more as that needs.

    python benchmarks/zoo_stress.py ZOO [--budget 2000] [--parameters 2] [--only HalfCheetah Hopper]
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import tyro
from record import record_job, results_of

from surefoot.envs import SETS, EnvConfig, UncertaintySet, disturbances
from surefoot.envs.uncertainty.batched_episodes import NUM_ENVS
from surefoot.evaluation.policies import load_any, ready_for
from surefoot.evaluation.stress.measure import SEED, stress
from surefoot.evaluation.stress.plan import least_budget

NAME = "zoo_stress"
Record = dict[str, Any]


def sets_of(task: EnvConfig, parameters: int, disturbed: bool) -> list[UncertaintySet]:
    """Return the published set of so many parameters and, where asked or there is none, all disturbances."""
    name = task.id.rpartition("-v")[0]
    published = [
        one for key, one in SETS.items() if one.env.rpartition("-v")[0] == name and key.endswith(f"-{parameters}")
    ]
    return [*published, *([disturbances(task)] if disturbed or not published else [])]


def stress_file(path: Path, task_id: str, budget: int, parameters: int, disturbed: bool) -> Record:
    """Return what the table, the picture and a reader need of one policy."""
    cpu = time.process_time()
    policy, task = ready_for(load_any(path), EnvConfig(task_id, num_envs=NUM_ENVS))
    sets = sets_of(task, parameters, disturbed)
    found = stress(policy.act, task, sets, budget=least_budget(budget, sets), seed=SEED)
    worst = min(found["sets"], key=lambda one: one["worst"]["mean"])
    curves = [curve for one in found["sets"] for curve in one["curves"]]
    return {
        "task": task.id,
        "agent": policy.agent_name,
        "step": policy.step,
        "sha256": policy.sha256,
        "notes": list(policy.notes),
        "budget": budget,
        "episodes": found["budget"],
        "sets": {one["name"]: short(one["worst"]) | {"at": one["worst"]["at"]} for one in found["sets"]},
        "worst_set": worst["name"],
        "nominal": short(found["nominal"]),
        "average": short(worst["average"]),
        "worst": short(worst["worst"]) | {"at": worst["worst"]["at"]},
        "crossings": {curve["parameter"]: crossings(curve) for curve in curves},
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def crossings(curve: Record) -> Record:
    """Return where the return falls below 80 % of the nominal one, down and up; None: nowhere that was tried."""
    return {
        side: _rounded(radius["value"]) if radius is not None and radius["crossed"] else None
        for side, radius in curve["radius"].items()
    }


def short(sample: Record) -> Record:
    """Return a sample without its single returns."""
    kept = ("mean", "interval", "std", "cvar", "episodes", "ended_early", "ended_early_low", "diverged", "low")
    return {key: _rounded(sample[key]) for key in kept}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 2) if isinstance(value, float) else value


def main(
    zoo: tyro.conf.Positional[Path],
    budget: int = 2000,
    parameters: int = 2,
    disturbances: bool = False,
    only: tuple[str, ...] = (),
    minutes: float = 60,
) -> None:
    """Stress the policies one after the other; begin none after `minutes`.

    Args:
        zoo: folder of ALGORITHM/TASK/TASK.zip.
        budget: episodes per policy.
        parameters: of the published set.
        disturbances: stress every task in all that can be disturbed, too.
        only: beginnings of tasks, such as Hopper, or policies, such as sac/Hopper-v3; all by default.
        minutes: of the whole run.
    """
    torch.set_num_threads(1)
    began = time.perf_counter()
    for path in sorted(zoo.glob("*/*/*.zip")):
        task_id, job = path.parent.name, f"{path.parent.parent.name}/{path.parent.name}"
        if only and not (task_id.startswith(only) or job in only):
            continue
        if time.perf_counter() - began > 60 * minutes:
            print(f"{job}: not begun, the time is up")
            continue
        if (known := results_of(NAME).get(job)) and known.get("budget") == budget:
            continue
        start = time.perf_counter()
        try:
            found = stress_file(path, task_id, budget, parameters, disturbances)
        except ValueError as error:
            found = {"refused": str(error), "budget": budget}
        record_job(NAME, job, found, began=start, seeds=[SEED])


if __name__ == "__main__":
    tyro.cli(main)
