"""From a path to a policy: what is there decides who opens it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from surefoot.agents.interface import Spaces
from surefoot.envs import spaces_of
from surefoot.evaluation.episodes import make_act
from surefoot.evaluation.policies.opened import AnyPolicy, Permissions, sha256_of
from surefoot.evaluation.policies.sb3 import load_archive
from surefoot.evaluation.policy_files import load_policy


def load_any(
    path: Path,
    *,
    checkpoint: str | int = "latest",
    allow_pickle: bool = False,
    normalizer: Path | None = None,
    device: torch.device | str = "cpu",
) -> AnyPolicy:
    """Return the policy at `path`: a run folder (at `checkpoint`), a `.pt` policy file or a Stable-Baselines3 `.zip`.

    `normalizer` names the `vecnormalize.pkl` of an archive where it does not lie beside it; `none` says that there is
    none. `allow_pickle` lets Stable-Baselines3 itself open an archive that cannot be read without running code.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file that is none of these or refused.
        ImportError: an extra is missing, named.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no run folder, policy file (.pt) or Stable-Baselines3 archive (.zip) there")
    if path.suffix == ".zip":
        return load_archive(path, Permissions(pickle=allow_pickle), normalizer, device)
    return _load_ours(path, checkpoint, device)


def _load_ours(path: Path, checkpoint: str | int, device: torch.device | str) -> AnyPolicy:
    loaded = load_policy(path, checkpoint, device)
    task = replace(loaded.env_config, physics=loaded.physics, num_envs=1, vectorization="sync")
    return AnyPolicy(
        act=make_act(loaded.policy),
        spaces=Spaces(*spaces_of(loaded.env_config)),
        own_action=loaded.own_action,
        agent_name=loaded.agent_name,
        label=str(path),
        step=loaded.step,
        env_config=task,
        policy=loaded.policy,
        training_seed=loaded.seed,
        sha256=sha256_of(path) if path.is_file() else None,
        source=str(path),
    )
