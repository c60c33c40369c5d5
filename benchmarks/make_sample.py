"""Make the packaged sample of HalfCheetah: the first transitions of a SAC run in the real dynamics, as a D4RL file.

Trains `sac --preset sample-source` for as many steps first (a minute on one core), unless given its run folder.

    python benchmarks/make_sample.py [--run RUN] [--out offline_data/samples/halfcheetah-demo.hdf5]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from surefoot.agents.interface import Spaces
from surefoot.agents.parts.replay import Replay
from surefoot.agents.sac import box_dims
from surefoot.envs import spaces_of
from surefoot.evaluation.policy_files import checkpoint_path
from surefoot.evaluation.storage import load
from surefoot.offline_data import Transitions, write_d4rl
from surefoot.training.config.presets import load_preset
from surefoot.training.runs.folder import read_config, read_meta
from surefoot.training.session import train

LENGTH = 1000  # steps of an episode of HalfCheetah


@dataclass
class Options:
    """What to record."""

    run: Path | None = None
    """Run folder of `sac --preset sample-source`, with its checkpoint at `steps`; None trains it."""
    out: Path = Path("offline_data/samples/halfcheetah-demo.hdf5")
    """File to write."""
    steps: int = 40_000
    """Transitions from the run's beginning on; whole episodes in each of its environments."""
    seed: int = 0
    """Of that run, where it is trained here."""
    force: bool = False
    """Overwrite the file."""


def train_source(steps: int, seed: int) -> Path:
    """Train the source until it has made as many transitions; return its folder."""
    config = replace(load_preset("sac", "sample-source"), steps=steps, checkpoint_every=steps, seed=seed)
    return train("sac", config, name=f"sample-source-{seed}", preset="sample-source")


def replay_of(run: Path, step: int) -> Transitions:
    """Return all that a run of SAC has seen by a checkpoint as whole episodes, one environment after the other.

    Its replay has a row of every environment for each step. Episodes have 1000 steps: the task has no other end.
    """
    _, config = read_config(run)
    state = load(checkpoint_path(run, "step", step))["agent"]["replay"]
    replay = Replay(len(state["rows"]), *box_dims(Spaces(*spaces_of(config.env))), torch.Generator())
    replay.load_state_dict(state)
    envs = config.env.num_envs
    if len(replay) != step or step % (envs * LENGTH):
        raise SystemExit(f"{run}: {len(replay)} rows by step {step}; expected all, in whole episodes of {LENGTH} steps")
    order = torch.arange(step).view(-1, envs).T.flatten()
    fields = {name: rows[order] for name, rows in replay.everything()._asdict().items()}
    ends = np.arange(step) % LENGTH == LENGTH - 1
    return Transitions.from_arrays(**fields, truncated=ends, source=str(run))


def check(data: Transitions) -> None:
    """Raise unless every row but the last of an episode is followed by its successor, and no episode ends by itself."""
    inside = ~data.episode_end
    follows = (data.next_obs[:-1] == data.obs[1:]).all(1)
    if bool(data.terminated.any()) or not torch.equal(follows, inside[:-1]):
        raise SystemExit(f"{data.source}: its rows are not whole episodes of {LENGTH} steps")


def main(options: Options) -> None:
    run = options.run or train_source(options.steps, options.seed)
    data = replay_of(run, options.steps)
    check(data)
    returns = np.asarray(data.episode_returns())
    _, config = read_config(run)
    metadata = {
        "algorithm": "SAC (surefoot sac --preset sample-source): all that the run has seen, in order",
        "transitions": f"the first {options.steps}; those that end an episode have no successor in the file",
        "env_id": "HalfCheetah-v5, unchanged dynamics",
        "seed": config.seed,
        "commit": read_meta(run)["commit"],
        "command": "python benchmarks/make_sample.py",
    }
    write_d4rl(options.out, data, metadata, force=options.force, successors=False)
    print(
        f"{options.out}: {len(data)} rows, {len(returns)} episodes, return {returns.mean():.0f} ± {returns.std():.0f}, "
        f"from {returns.min():.0f} to {returns.max():.0f}"
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
