"""Train robust agents of ours in the sets in which the public policies are stressed, and stress them alike.

A job is METHOD/TASK in benchmarks/results/zoo_stress_ours.json: the preset `demo` of an agent, in another task and with
the budget below, one seed on one thread; then the stress test of `zoo_stress.py`. One that is there already is passed
over. The budgets are what minutes of a CPU allow, a tenth of those of most public policies and less.

    python benchmarks/zoo_stress_ours.py [--jobs dr-sac/Pendulum-v1 …] [--budget 1000]
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from record import record_job, results_of
from trained import train_to_the_end
from zoo_stress import sets_of, stress_file

from surefoot.envs import EnvConfig
from surefoot.evaluation.policy_files import policy_path
from surefoot.training.cli.parameters import as_yaml
from surefoot.training.config.presets import load_preset
from surefoot.training.config.run import RunConfig

NAME, SEED, PARAMETERS = "zoo_stress_ours", 0, 2


class Budget(NamedTuple):
    """How much one task is trained."""

    steps: int
    hidden: int  # units of each of two layers
    updates_per_step: float


BUDGETS = {"Pendulum-v1": Budget(20_000, 64, 0.5), "Hopper-v5": Budget(80_000, 128, 0.5)}
JOBS = ("dr-sac/Pendulum-v1", "dr-sac/Hopper-v5", "m2td3/Pendulum-v1", "rarl/Pendulum-v1")


@dataclass
class Options:
    """What to train and stress."""

    jobs: tuple[str, ...] = JOBS
    """METHOD/TASK."""
    budget: int = 1000
    """Episodes of a stress test."""


def main(options: Options) -> None:
    """Carry out the jobs that have no result yet, one after the other."""
    torch.set_num_threads(1)
    for job in options.jobs:
        if job not in results_of(NAME):
            began = time.perf_counter()
            record_job(NAME, job, run(job, options.budget), began=began, seeds=[SEED])


def run(job: str, budget: int) -> dict[str, Any]:
    """Train one policy and return what its stress test found."""
    method, task = job.split("/")
    (uncertainty,) = sets_of(EnvConfig(task), PARAMETERS, disturbed=False)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        description = Path(folder) / f"{uncertainty.name}.yaml"
        description.write_text(as_yaml(uncertainty), encoding="utf-8")
        place = Path(folder) / "run"
        train_to_the_end(job, place, method, config_of(method, task, str(description)), "demo")
        training = round(time.process_time() - began, 1)
        found = stress_file(policy_path(place, "latest"), task, budget, PARAMETERS, disturbed=False)
    return found | {"training_cpu_seconds": training, "seed": SEED}


def config_of(method: str, task: str, uncertainty: str) -> RunConfig[Any]:
    """Return the preset `demo` in another task and set, with its budget, and no evaluation before the end."""
    preset, budget = load_preset(method, "demo"), BUDGETS[task]
    agent = replace(preset.agent, hidden=(budget.hidden, budget.hidden), updates_per_step=budget.updates_per_step)
    return replace(
        preset,
        agent=agent,
        env=replace(preset.env, id=task),
        uncertainty=uncertainty,
        steps=budget.steps,
        seed=SEED,
        device="cpu",
        baselines=(),
        checkpoint_every=budget.steps,
        eval=replace(preset.eval, every=budget.steps, episodes=1, worlds=2),
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
