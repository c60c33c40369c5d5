"""SAC against Stable-Baselines3's SAC in the same run: same tasks, networks, rates, start and evaluations.

    python benchmarks/sac_sb3.py [--jobs Hopper-v5/sac/0 …] [--runs runs/sac-sb3]

A job is TASK/AGENT/SEED: 100,000 steps, both with the library's defaults (100 random steps at the start), evaluated
every 5000 steps for 10 episodes. Recorded are the last evaluation and the mean of all (the area under the curve). What
is recorded is not run again, and a job that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from trained import ON_ONE_CORE, carry_out, learning_curve, train_to_the_end

from surefoot.training.config.presets import default_config
from surefoot.training.config.run import RunConfig

NAME = "sac_sb3"
TASKS = ("Hopper-v5", "HalfCheetah-v5")
AGENTS = {"sac": {"learning_starts": 100, "random_steps": 100}, "sb3-sac": {}}
SEEDS = (0, 1, 2)
STEPS, EVERY, EPISODES = 100_000, 5_000, 10


@dataclass
class Options:
    """What to run."""

    jobs: tuple[str, ...] = tuple(f"{task}/{agent}/{seed}" for seed in SEEDS for task in TASKS for agent in AGENTS)
    """TASK/AGENT/SEED."""
    runs: Path = Path("runs/sac-sb3")
    """Folder of the run folders."""
    steps: int = STEPS


def configuration(task: str, agent: str, seed: int, steps: int) -> RunConfig[Any]:
    """Return the run of a job."""
    base = default_config(agent)
    return replace(
        base,
        agent=replace(base.agent, **AGENTS[agent]),
        env=replace(base.env, id=task),
        eval=replace(base.eval, every=EVERY, episodes=EPISODES),
        steps=steps,
        seed=seed,
        **ON_ONE_CORE,
    )


def run(job: str, runs: Path, steps: int) -> dict[str, Any]:
    """Train the policy of a job, from where it stopped if it did, and return its learning curve in short."""
    task, agent, seed = job.split("/")
    config = configuration(task, agent, int(seed), steps)
    folder = runs / job.replace("/", "-")
    meta = train_to_the_end(job, folder, agent, config)
    return {"steps": steps, **learning_curve(folder, meta)}


def main(options: Options) -> None:
    carry_out(NAME, options.jobs, lambda job: run(job, options.runs, options.steps), SEEDS, options.runs)


if __name__ == "__main__":
    main(tyro.cli(Options))
