"""SAC on the DeepMind Control Suite at 100,000 environment steps, beside a public SAC's seeds.

    python benchmarks/dmc_sac.py [--jobs walker-walk/0 …] [--runs runs/dmc-sac]

A job is TASK/SEED, or TASK/SEED/CHANGE with one setting changed. Actions are held for two steps of the task,
observations are flattened: 50,000 steps of the agent, one update each, the library's defaults; evaluated every 5000 for
10 episodes. The public numbers are those that the authors of TD-MPC2 publish for SAC (`results/sac/*.csv` of their
repository at commit e9f5932, step 100,000). A step there is one of the environment, not a decision: curves of dog-run
end at 14,000,000 where the command in their README trains for 7,000,000, and they say so in issue 45. What is recorded
is not run again, and a job that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from trained import ON_ONE_CORE, carry_out, learning_curve, train_to_the_end

from surefoot.envs import EnvConfig
from surefoot.training.config.presets import default_config
from surefoot.training.config.run import RunConfig

NAME = "dmc_sac"
PUBLISHED = {
    "cartpole-swingup": (844.8, 825.8, 834.3),
    "walker-walk": (917.8, 509.6, 697.1),
    "cheetah-run": (362.4, 236.9, 331.1),
    "reacher-easy": (739.3, 68.4, 813.4),
    "pendulum-swingup": (0.0, 100.0, 188.1),
}
SEEDS = (0, 1, 2)
REPEAT, STEPS, EVERY, EPISODES = 2, 50_000, 5_000, 10
CHANGES = {"initial-alpha-0.1": {"initial_alpha": 0.1}}  # many published SACs on this suite start there
CHANGED = ("cheetah-run", "walker-walk", "pendulum-swingup")  # where the library's defaults are behind
START = {"learning_starts": 1000, "random_steps": 1000}  # two episodes; the authors' start is not stated


@dataclass
class Options:
    """What to run."""

    jobs: tuple[str, ...] = (
        *(f"{task}/{seed}" for seed in SEEDS for task in PUBLISHED),
        *(f"{task}/{seed}/{change}" for change in CHANGES for task in CHANGED for seed in SEEDS),
    )
    """TASK/SEED or TASK/SEED/CHANGE."""
    runs: Path = Path("runs/dmc-sac")
    """Folder of the run folders."""
    steps: int = STEPS
    """Steps of the agent, each of two of the environment."""


def configuration(job: str, steps: int) -> RunConfig[Any]:
    """Return the run of a job."""
    task, seed, *changes = job.split("/")
    base = default_config("sac")
    agent = replace(base.agent, **START)
    for change in changes:
        agent = replace(agent, **CHANGES[change])
    return replace(
        base,
        agent=agent,
        env=EnvConfig(f"shimmy:dm_control/{task}-v0", flatten=True, action_repeat=REPEAT),
        eval=replace(base.eval, every=min(EVERY, steps), episodes=EPISODES),
        steps=steps,
        seed=int(seed),
        **ON_ONE_CORE,
    )


def run(job: str, options: Options) -> dict[str, Any]:
    """Train the policy of a job, from where it stopped if it did, and return its learning curve in short."""
    config = configuration(job, options.steps)
    folder = options.runs / job.replace("/", "-")
    meta = train_to_the_end(job, folder, "sac", config)
    return {"steps": options.steps, "public_sac": PUBLISHED[job.split("/")[0]], **learning_curve(folder, meta)}


def main(options: Options) -> None:
    carry_out(NAME, options.jobs, lambda job: run(job, options), SEEDS, options.runs)


if __name__ == "__main__":
    main(tyro.cli(Options))
