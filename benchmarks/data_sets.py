"""Data sets of known quality: public policies recorded with noise, mixtures of two, and all that a run of ours saw.

    git clone https://github.com/DLR-RM/rl-trained-agents
    python benchmarks/data_sets.py --zoo rl-trained-agents [--only halfcheetah-medium …] [--out runs/data-sets]

As D4RL names them: `medium` is a policy of about half the expert's return, `expert` the best there is, `medium-expert`
half of each, `replay` what a run of SAC has seen from its first, random step on. Each has 40,000 transitions, as the
packaged sample; `halfcheetah-replay-100k` is for sizes, which `simulator_gap.py` draws from it. Each file says how it
was made: archive and its SHA-256, noise, seed, versions, commit. A file that is there is not made again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from make_sample import check, replay_of, train_source
from record import STARTED, record_job

from surefoot.envs import EnvConfig, make_vec
from surefoot.evaluation.policies import load_any, ready_for
from surefoot.evaluation.policies.opened import sha256_of
from surefoot.offline_data import Transitions, collect, write_d4rl

NAME = "data_sets"
STEPS, NOISE, SEED = 40_000, 0.2, 0
REPLAYS = {"halfcheetah-replay-100k": 100_000}  # its first 40,000 are the packaged sample


class Recording(NamedTuple):
    """Policies of the zoo in a task, each for an equal part of the steps."""

    task: str
    archives: tuple[str, ...]


ROBOTS = {"halfcheetah": "HalfCheetah", "hopper": "Hopper", "walker2d": "Walker2d"}
MEDIUM = {"halfcheetah": "ppo", "hopper": "ppo", "walker2d": "ars"}
RECORDINGS = {
    f"{robot}-{quality}": Recording(f"{task}-v5", tuple(f"{algorithm}/{task}-v3" for algorithm in algorithms))
    for robot, task in ROBOTS.items()
    for quality, algorithms in {
        "medium": (MEDIUM[robot],),
        "medium-expert": (MEDIUM[robot], "tqc"),
        "expert": ("tqc",),
    }.items()
}


@dataclass
class Options:
    """What to make."""

    zoo: Path | None = None
    """The folder of the public policies, with ALGORITHM/TASK/TASK.zip; the replays need none."""
    only: tuple[str, ...] = (*RECORDINGS, *REPLAYS)
    """Names of data sets."""
    out: Path = Path("runs/data-sets")
    """Folder of the files NAME.hdf5."""


def main(options: Options) -> None:
    """Make every data set that is not there yet, one after the other."""
    torch.set_num_threads(1)
    refuse_unknown(options)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        path = options.out / f"{name}.hdf5"
        if not path.exists():
            began = time.perf_counter()
            data, metadata = replayed(REPLAYS[name]) if name in REPLAYS else recorded(RECORDINGS[name], options.zoo)
            write_d4rl(
                path, data, metadata | {"commit": STARTED["commit"], "command": "python benchmarks/data_sets.py"}
            )
            record_job(NAME, name, figures(data) | metadata, began=began, seeds=[SEED])


def refuse_unknown(options: Options) -> None:
    """End with one line for a name that is none, and where policies are needed and not given."""
    if unknown := sorted(set(options.only) - {*RECORDINGS, *REPLAYS}):
        raise SystemExit(f"--only: {unknown[0]} is none of {', '.join((*RECORDINGS, *REPLAYS))}")
    if options.zoo is None and not set(options.only) <= set(REPLAYS):
        raise SystemExit("--zoo: the folder of the public policies is needed; --only halfcheetah-replay-100k is not")


def recorded(recording: Recording, zoo: Path | None) -> tuple[Transitions, dict[str, Any]]:
    """Return equal parts of every archive's own episodes, one part after the other, and how they came to be."""
    assert zoo is not None
    paths = [zoo / archive / f"{archive.partition('/')[2]}.zip" for archive in recording.archives]
    steps = STEPS // len(paths)
    parts = [played(path, recording.task, steps) for path in paths]
    archives = {archive: sha256_of(path) for archive, path in zip(recording.archives, paths, strict=True)}
    return joined(parts), {"env_id": recording.task, "algorithm": archives, "noise_std": NOISE, "seed": SEED}


def played(path: Path, task: str, steps: int) -> Transitions:
    """Return the transitions of one archive in its task, with noise on its actions."""
    policy, env = ready_for(load_any(path), EnvConfig(id=task))
    envs = make_vec(env)
    try:
        with torch.no_grad():
            return collect(policy.act, envs, steps, seed=SEED, noise_std=NOISE, source=path.stem, progress=True)
    finally:
        envs.close()


def joined(parts: list[Transitions]) -> Transitions:
    """Return the rows of all parts, in their order; each part's last row ends an episode, as it did."""
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "episode_end")
    columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return Transitions.from_arrays(**columns, source=" + ".join(part.source for part in parts))


def replayed(steps: int) -> tuple[Transitions, dict[str, Any]]:
    """Return what the run of `sac --preset sample-source` has seen by a step, and how that came to be."""
    data = replay_of(train_source(steps, SEED), steps)
    check(data)
    return data, {"env_id": "HalfCheetah-v5", "algorithm": "surefoot sac --preset sample-source", "seed": SEED}


def figures(data: Transitions) -> dict[str, Any]:
    """Return rows, episodes, and the returns of those that the recording did not cut."""
    whole = (data.terminated.bool() | data.truncated)[data.episode_end]
    returns = data.episode_returns()[whole]
    moments = {"mean": returns.mean(), "std": returns.std(correction=0), "least": returns.min(), "most": returns.max()}
    return {
        "rows": len(data),
        "episodes": len(returns),
        **{name: round(float(value), 1) for name, value in moments.items()},
    }


if __name__ == "__main__":
    main(tyro.cli(Options))
