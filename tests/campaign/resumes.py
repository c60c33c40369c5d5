"""Stop runs at random steps and resume them, over agents and all that a run can vary: each is the run without a stop.

    python tests/campaign/resumes.py --variants 8        # of each agent; hours; adds to earlier calls
    python tests/campaign/resumes.py --agents sac --variants 96   # all variants of an agent

A variant is a choice of environments, vectorisation, seeds, uncertainty set, loggers, and of what is changed when the
run is resumed (options that decide no number). One that the agent does not take is counted as refused: in one line,
before anything is made.
"""

from __future__ import annotations

import gc
import itertools
import random
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from tiny_runs import STEPS, assert_same_run, draw_nothing, quiet, records, tiny_run, write_data

from surefoot import agents
from surefoot.envs import EnvConfig
from surefoot.evaluation.policy_files import checkpoint_steps
from surefoot.training.config.run import RunConfig
from surefoot.training.runs.folder import seed_folders
from surefoot.training.session import resume_run, train

NAME = "resumes"
CHOICES: dict[str, tuple[Any, ...]] = {
    "num_envs": (1, 3),
    "vectorization": ("sync", "async"),
    "num_seeds": (1, 2),
    "uncertainty": (None, "pendulum-2"),
    "logger": ((), ("tensorboard",)),
    "flip": ("nothing", "checkpoint_every", "loggers"),
}
FLIPS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "checkpoint_every": {"checkpoint_every": 7, "keep_checkpoints": 1, "keep_finished": 1},
    "loggers": {"logger": ("tensorboard",), "threads": None},
}


@dataclass
class Options:
    """How many variants."""

    variants: int = 8
    """Of every agent, in an order of chance, those of earlier calls included."""
    agents: tuple[str, ...] = ()
    """Only these."""
    seed: int = 0
    minutes: float = 600.0
    """Begin no variant after that time."""


def main(options: Options) -> int:
    """Carry the matrix out, and return 1 where a resumed run was another one or could not be resumed."""
    draw_nothing()
    gc.collect()
    gc.freeze()  # or every run would walk through what was imported
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder) / "data.hdf5")
        for name in options.agents or tuple(agents.REGISTRY):
            done = dict(records.results_of(NAME).get(name, {}))
            order = list(itertools.product(*CHOICES.values()))
            random.Random(f"{options.seed} {name}").shuffle(order)
            for choice in order[: options.variants]:
                variant = dict(zip(CHOICES, choice, strict=True))
                key = " ".join(str(value) for value in choice)
                if key in done or time.perf_counter() - began > 60 * options.minutes:
                    continue
                done[key] = outcome(name, variant, data, Path(folder) / "runs")
                print(f"{name}: {key}: {done[key]}", flush=True)
                records.record_job(NAME, name, done, began=began, seeds=[options.seed])
    found = [result for job in records.results_of(NAME).values() for result in job.values()]
    print(", ".join(f"{found.count(result)} {result}" for result in sorted(set(found))))
    return int(any(result not in ("equal", "refused") for result in found))


def outcome(name: str, variant: dict[str, Any], data: Path, folder: Path) -> str:
    """Return what becomes of a variant: `equal`, `refused`, or what went wrong."""
    config, generator = configured(name, variant, data), random.Random(f"{name} {variant}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        with quiet(folder / "log"):
            straight = train(name, config, out=folder, name="straight")
    except ValueError as error:
        made = [path for path in folder.iterdir() if path.name != "log"]
        return "refused" if "\n" not in str(error) and not made else f"{type(error).__name__}: {error}"[:300]
    stop_at = generator.randrange(1, STEPS)
    try:
        with quiet(folder / "log"):
            parts = train(name, config, out=folder, name="parts", callback=lambda row: row["step"] >= stop_at)
            changed = replace(config, **FLIPS[variant["flip"]])
            resume_run(parts, name, changed)
        for one, other in zip(seed_folders(straight), seed_folders(parts), strict=True):
            assert_same_run(one, other, checkpoint_steps(one)[-1])
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return "equal"


def configured(name: str, variant: dict[str, Any], data: Path) -> RunConfig[Any]:
    """Return the tiny run of an agent, varied; rows come at every few steps, so that any of them can be the last."""
    config = tiny_run(name, data)
    varied = {"num_envs": variant["num_envs"], "vectorization": variant["vectorization"]}
    in_a_set = config.uncertainty or variant["uncertainty"]
    if in_a_set and not config.uncertainty and not agents.get(name).offline and not agents.get(name).tiny_env:
        config = replace(config, env=EnvConfig(id="surefoot/Pendulum-v0", max_episode_steps=15))
    return replace(
        config,
        env=replace(config.env, **varied),
        num_seeds=variant["num_seeds"],
        uncertainty=in_a_set,
        logger=variant["logger"],
        log_every=5,
    )


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
