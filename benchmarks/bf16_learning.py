"""What SAC learns with products in bf16, beside float32: same tasks, settings and seeds.

    python benchmarks/bf16_learning.py [--jobs Hopper-v5/bf16/0 …] [--runs runs/bf16-learning]

A job is TASK/PRECISION/SEED, evaluated for 10 episodes at twenty steps in equal distances. Recorded are the last
evaluation and the mean of all (the area under the curve). What is recorded is not run again, and a job that was
stopped goes on from its last checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import tyro
from trained import ON_ONE_CORE, carry_out, learning_curve, train_to_the_end

from surefoot.training.config.presets import default_config
from surefoot.training.config.run import RunConfig

NAME = "bf16_learning"
EVALUATIONS = 20


class Task(NamedTuple):
    """How long a task is trained, and what is changed of SAC's defaults."""

    steps: int
    changes: dict[str, Any]


WIDE = {"learning_starts": 1000, "random_steps": 1000}
TASKS = {
    "Pendulum-v1": Task(15_000, {**WIDE, "hidden": (64, 64), "policy_lr": 1e-3, "critic_lr": 1e-3, "alpha_lr": 1e-3}),
    "Hopper-v5": Task(20_000, WIDE),
    "HalfCheetah-v5": Task(20_000, WIDE),
}
PRECISIONS = ("float32", "bf16")
SEEDS = (0, 1, 2, 3, 4)


@dataclass
class Options:
    """What to run."""

    jobs: tuple[str, ...] = tuple(f"{task}/{p}/{seed}" for seed in SEEDS for task in TASKS for p in PRECISIONS)
    """TASK/PRECISION/SEED."""
    runs: Path = Path("runs/bf16-learning")
    """Folder of the run folders."""


def configuration(task: str, precision: str, seed: int) -> RunConfig[Any]:
    """Return the run of a job."""
    base, (steps, changes) = default_config("sac"), TASKS[task]
    return replace(
        base,
        agent=replace(base.agent, **changes),
        env=replace(base.env, id=task),
        eval=replace(base.eval, every=steps // EVALUATIONS, episodes=10),
        steps=steps,
        seed=seed,
        engine="native",
        precision=cast(Literal["float32", "bf16"], precision),
        **ON_ONE_CORE,
    )


def run(job: str, runs: Path) -> dict[str, Any]:
    """Train the policy of a job, from where it stopped if it did, and return its learning curve in short."""
    task, precision, seed = job.split("/")
    config, folder = configuration(task, precision, int(seed)), runs / job.replace("/", "-")
    meta = train_to_the_end(job, folder, "sac", config)
    return {"steps": config.steps, "engine": meta["engine"], **learning_curve(folder, meta)}


def main(options: Options) -> None:
    carry_out(NAME, options.jobs, lambda job: run(job, options.runs), SEEDS, options.runs)


if __name__ == "__main__":
    main(tyro.cli(Options))
