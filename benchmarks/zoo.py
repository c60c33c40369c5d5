"""Public pretrained policies, opened without running code: do they earn here what their authors measured?

    git clone https://github.com/DLR-RM/rl-trained-agents
    python benchmarks/zoo.py rl-trained-agents             # minutes; goes on where it stopped

The folder holds ALGORITHM/TASK/TASK.zip with `config.yml` and `vecnormalize.pkl` beside it, and `published.csv`: mean
and standard deviation of the return on the authors' benchmark page. Each archive plays 50 episodes of its task. Ant and
Humanoid are measured without the cost of contact forces, which were always zero for v3. A mean agrees where it is
within 3 published standard deviations and 3 standard errors of the published one. `--library` also has the library
itself load every archive (which runs code stored in it) and compares 1,000 actions.
"""

from __future__ import annotations

import csv
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from record import record_job, results_of

from surefoot.envs import EnvConfig
from surefoot.evaluation.episodes import evaluate
from surefoot.evaluation.policies import fitted, load_any
from surefoot.evaluation.policies.opened import sha256_of
from surefoot.evaluation.policies.sb3_archives import read
from surefoot.evaluation.policies.sb3_networks import build

OLDER_REWARD = {"Ant-v5": {"contact_cost_weight": 0.0}, "Humanoid-v5": {"contact_cost_weight": 0.0}}
Published = dict[tuple[str, str], dict[str, float]]


@dataclass
class Options:
    """What to measure."""

    zoo: tyro.conf.Positional[Path]
    """The folder of the policies."""
    only: tuple[str, ...] = ()
    """Archives such as sac/Hopper-v3; by default all."""
    episodes: int = 50
    """Episodes of each."""
    seed: int = 10_000
    """Reset seed of the first episode."""
    library: bool = False
    """Also compare with the library's own actions, which runs code stored in the archives."""


def main(options: Options) -> None:
    """Measure every archive that has no result yet, one after the other."""
    torch.set_num_threads(1)
    published = read_published(options.zoo / "published.csv")
    for path in sorted(options.zoo.glob("*/*/*.zip")):
        name = f"{path.parent.parent.name}/{path.parent.name}"
        known = results_of("zoo").get(name, {})
        wanted = not options.only or name in options.only
        done = known.get("sha256") == sha256_of(path) and (not options.library or "library" in known)
        if wanted and not done:
            began = time.perf_counter()
            figures = measure(path, published[path.parent.parent.name, path.parent.name], options)
            record_job("zoo", name, figures, began=began, seeds=[options.seed])


def read_published(path: Path) -> Published:
    """Return mean, std and episodes by algorithm and task."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = ("mean", "std", "episodes")
    return {(row["algorithm"], row["task"]): {name: float(row[name]) for name in names} for row in rows}


def measure(path: Path, published: dict[str, float], options: Options) -> dict[str, Any]:
    """Return what one archive earns, and how far that is from the published mean."""
    opened = load_any(path)
    assert opened.env_config is not None
    task: EnvConfig = replace(
        opened.env_config, kwargs=opened.env_config.kwargs | OLDER_REWARD.get(opened.env_config.id, {})
    )
    policy = fitted(opened, task)
    played = evaluate(policy.act, task, episodes=options.episodes, seed=options.seed, num_envs=options.episodes)
    figures = {
        "sha256": policy.sha256,
        "agent": policy.agent_name,
        "trained_on": policy.trained_on or task.id,
        "task": task.id,
        "kwargs": task.kwargs,
        "wrappers": list(policy.wrappers),
        "episodes": options.episodes,
        "length": float(played.lengths.mean()),
        **agreement(played.returns, published),
    }
    return figures | ({"library": compare(path)} if options.library else {})


def agreement(returns: np.ndarray, published: dict[str, float]) -> dict[str, Any]:
    """Return mean and deviation of returns (E,), and whether the mean agrees with the published one."""
    mean, std = float(returns.mean()), float(returns.std(ddof=1))
    allowed = 3 * published["std"] + 3 * std / math.sqrt(len(returns))
    agrees = abs(mean - published["mean"]) <= allowed
    return {"mean": mean, "std": std, "published": published, "allowed": allowed, "agrees": agrees}


def compare(path: Path) -> dict[str, Any]:
    """Return the largest difference between our network's actions and the library's own, or why there is none."""
    import sb3_contrib
    import stable_baselines3

    archive = read(path)
    cls: Any = getattr(stable_baselines3, archive.algorithm, None) or getattr(sb3_contrib, archive.algorithm)
    constant = {"lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0, "delta_std_schedule": lambda _: 0.0}
    spaces = {"observation_space": archive.observation, "action_space": archive.action}
    try:
        model = cls.load(path, device="cpu", custom_objects=constant | spaces)
    except Exception as error:  # whatever an archive of another age makes it raise
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:160]}
    generator = np.random.default_rng(0)
    obs = generator.normal(0, 1, (1000, *(archive.observation.shape or ()))).astype(np.float32)
    theirs, _ = model.predict(obs, deterministic=True)
    ours = build(archive)(torch.from_numpy(obs)).numpy()
    if isinstance(archive.action, gym.spaces.Box):
        low, high = archive.action.low, archive.action.high
        ours = low + (ours + 1) * (high - low) / 2
    return {"largest_difference": float(np.abs(ours - theirs).max()), "observations": len(obs)}


if __name__ == "__main__":
    main(tyro.cli(Options))
