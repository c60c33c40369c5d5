"""Record the packaged sample of HalfCheetah: a partially trained policy in the real dynamics, as a D4RL file.

Trains `sac --preset sample-source` first (about 15 minutes on one core), unless given its run folder.

    python benchmarks/make_sample.py [--run RUN] [--out offline_data/samples/halfcheetah-demo.hdf5]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from surefoot.agents.parts.random import make_generator
from surefoot.envs import make_vec
from surefoot.evaluation.policy_files import PolicyFile, load_policy
from surefoot.offline_data import Transitions, collect, write_d4rl
from surefoot.training.config.presets import load_preset
from surefoot.training.runs.provenance import git_commit
from surefoot.training.session import train


@dataclass
class Options:
    """What to record."""

    run: Path | None = None
    """Run folder of `sac --preset sample-source`; None trains it."""
    out: Path = Path("offline_data/samples/halfcheetah-demo.hdf5")
    """File to write."""
    checkpoints: tuple[int, ...] = (20_000, 40_000)
    """Steps of the checkpoints that act, one after the other."""
    episodes: int = 20
    """Episodes of each."""
    seed: int = 0
    force: bool = False
    """Overwrite the file."""


def record(loaded: PolicyFile, episodes: int, seed: int) -> Transitions:
    """Return whole episodes of the stochastic policy in the real dynamics, one per environment."""
    env = make_vec(replace(loaded.env_config, num_envs=episodes))
    generator = make_generator(seed, f"sample {loaded.step}")
    data = collect(
        lambda obs: loaded.policy.act(obs, explore=True, generator=generator),
        env,
        1000 * episodes,
        seed=seed + loaded.step,
    )
    env.close()
    return data


def main(options: Options) -> None:
    run = options.run
    if run is None:
        config = load_preset("sac", "sample-source")
        run = train("sac", config, name="sample-source", preset="sample-source")
    parts = [record(load_policy(run, step), options.episodes, options.seed) for step in options.checkpoints]
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "episode_end")
    data = Transitions.from_arrays(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})
    returns = np.asarray(data.episode_returns())
    metadata = {
        "algorithm": "SAC (surefoot sac --preset sample-source), stochastic policy",
        "checkpoints": " ".join(map(str, options.checkpoints)),
        "env_id": "HalfCheetah-v5, unchanged dynamics",
        "seed": options.seed,
        "commit": git_commit()["commit"],
        "command": "python benchmarks/make_sample.py",
    }
    write_d4rl(options.out, data, metadata, force=options.force)
    print(
        f"{options.out}: {len(data)} rows, {len(returns)} episodes, return {returns.mean():.0f} ± {returns.std():.0f}"
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
