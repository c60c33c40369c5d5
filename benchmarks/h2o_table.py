"""A row of H2O's table: HalfCheetah with three gaps and one of D4RL's data sets, at the authors' network sizes.

    python benchmarks/h2o_table.py [--quality medium-replay] [--data FILE.hdf5] [--jobs medium-replay/gravity/h2o/0 …]

A job is QUALITY/GAP/METHOD/SEED: one run of the preset `h2o/halfcheetah-QUALITY-GAP`, or of its baseline, evaluated in
the real dynamics every 10,000 steps and at its end for 20 episodes; the last policy's return and D4RL's normalised
score are what counts. Methods that never see a simulator have the gap `none`. The authors' 1,000,000 steps are
`--steps 1000000`. D4RL's files are not packaged: each is loaded once, or named with `--data`; what is recorded says
which file it was. What is recorded is not run again, and a job that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from simulator_gap import EPISODES, FIRST_SEED, NO_SIMULATOR, Method, measured
from trained import ON_ONE_CORE, carry_out, origin, train_to_the_end

from surefoot.envs import Physics
from surefoot.offline_data.scores import normalized_score
from surefoot.training.config.presets import load_preset
from surefoot.training.config.run import RunConfig

NAME = "h2o_table"
GAPS = ("gravity", "friction", "noise")
SEEDS = (0, 1, 2)
ROW = "h2o/halfcheetah-{quality}-{gap}"
IN_SIMULATOR = {
    "h2o": Method("h2o", ROW),
    "sac-mix": Method("sac-mix", ROW),
    "sac-sim": Method("sac", "halfcheetah-{gap}-sim"),
    "darc": Method("darc", ROW),
}
OFFLINE = {
    "cql": Method("cql", ROW),
    "sac-offline": Method("sac-offline", ROW),
    "bc": Method("bc", ROW, {"holdout": 0.1}),
}
METHODS = IN_SIMULATOR | OFFLINE


def row(quality: str) -> Iterator[str]:
    """Yield the jobs of a row, a seed after the other."""
    for seed in SEEDS:
        yield from (f"{quality}/{gap}/{method}/{seed}" for gap in GAPS for method in IN_SIMULATOR)
        yield from (f"{quality}/{NO_SIMULATOR}/{method}/{seed}" for method in OFFLINE)


@dataclass
class Options:
    """What to run."""

    quality: Literal["medium-replay", "medium", "medium-expert"] = "medium-replay"
    """Which data set, that is which row."""
    data: Path | None = None
    """Its file, in D4RL's format; None: D4RL's own, loaded where it is not there yet."""
    jobs: tuple[str, ...] | None = None
    """QUALITY/GAP/METHOD/SEED; None: the row."""
    runs: Path = Path("runs/h2o-table")
    """Folder of the run folders."""
    steps: int = 100_000
    """Simulator steps of a run, updates for methods without."""


def configuration(job: str, options: Options) -> RunConfig[Any]:
    """Return the run of a job."""
    _, gap, name, seed = job.split("/")
    method = METHODS[name]
    preset = load_preset(method.agent, preset_of(job))
    without = {"env": replace(preset.env, physics=Physics())} if gap == NO_SIMULATOR else {}
    data = {} if options.data is None or name == "sac-sim" else {"data": replace(preset.data, source=str(options.data))}
    return replace(
        preset,
        **ON_ONE_CORE | without | data,
        agent=replace(preset.agent, **method.changes),
        eval=replace(preset.eval, every=min(preset.eval.every, options.steps), episodes=EPISODES, seed=FIRST_SEED),
        steps=options.steps,
        seed=int(seed),
        baselines=(),
    )


def preset_of(job: str) -> str:
    """Return the preset that a job takes; those without a simulator take the first gap's, and leave it out."""
    quality, gap, name, _ = job.split("/")
    return METHODS[name].preset.format(quality=quality, gap=GAPS[0] if gap == NO_SIMULATOR else gap)


def run(job: str, options: Options) -> dict[str, Any]:
    """Train the policy of a job, from where it stopped if it did, and return what it comes to."""
    config, folder = configuration(job, options), options.runs / job.replace("/", "-")
    meta = train_to_the_end(job, folder, METHODS[job.split("/")[2]].agent, config, preset_of(job))
    found = measured(folder, config)
    score = normalized_score(config.env.id, found["real"])
    return {
        "steps": config.steps,
        "data": config.data.source,
        **found,
        "score": round(float(np.asarray(score)), 1),
        **origin(meta),
    }


def main(options: Options) -> None:
    jobs = options.jobs if options.jobs is not None else tuple(row(options.quality))
    carry_out(NAME, jobs, lambda job: run(job, options), SEEDS, options.runs)


if __name__ == "__main__":
    main(tyro.cli(Options))
