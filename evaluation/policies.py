"""Anything that can act: a run folder, a policy file of ours, or a Stable-Baselines3 archive, behind one interface."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.agents.interface import Policy, Spaces
from surefoot.envs import EnvConfig, spaces_of
from surefoot.envs.spaces import describe
from surefoot.evaluation.episodes import Act, make_act
from surefoot.evaluation.policy_files import load_policy


class AnyPolicy(NamedTuple):
    """A policy ready to act, and what is known of where it comes from."""

    act: Act  # (N, obs) -> (N, act) in [-1, 1], deterministic
    spaces: Spaces
    own_action: gym.Space[Any]  # the task's actions in its own units
    agent_name: str
    label: str  # its name in tables and figures
    step: int  # of its training
    env_config: EnvConfig | None  # the task in its evaluation dynamics; None for an archive, which does not name it
    policy: Policy | None = None  # None for an archive
    training_seed: int | None = None  # None for an archive, which does not name it


def load_any(
    path: Path, *, checkpoint: str | int = "latest", allow_pickle: bool = False, device: torch.device | str = "cpu"
) -> AnyPolicy:
    """Return the policy at `path`: a run folder (at `checkpoint`), a `.pt` policy file or a Stable-Baselines3 `.zip`.

    Reading an archive runs code that is stored in it, so it needs `allow_pickle`. `FileNotFoundError` where nothing is,
    `ValueError` for a file that is none of these or refused, `ImportError` naming the extra `sb3`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no run folder, policy file (.pt) or Stable-Baselines3 archive (.zip) there")
    if path.suffix == ".zip":
        return _load_sb3(path, allow_pickle, device)
    loaded = load_policy(path, checkpoint, device)
    task = replace(loaded.env_config, physics=loaded.physics, num_envs=1, vectorization="sync")
    spaces = Spaces(*spaces_of(loaded.env_config))
    known = spaces, loaded.own_action, loaded.agent_name, str(path), loaded.step, task, loaded.policy, loaded.seed
    return AnyPolicy(make_act(loaded.policy), *known)


def require_fit(where: str | Path, spaces: Spaces, task: EnvConfig) -> None:
    """Raise `ValueError` where a policy for `spaces` sees or does something else than the task shows and takes."""
    wanted, given = (tuple(map(describe, pair)) for pair in (spaces, spaces_of(replace(task, num_envs=1))))
    if given != wanted:
        raise ValueError(
            f"{where}: maps observations {wanted[0]} to actions {wanted[1]}, but {task.id} has observations {given[0]} "
            f"and actions {given[1]}; choose a fitting task"
        )


# --- Stable-Baselines3 archives ---------------------------------------------------------------------------------------


def _load_sb3(path: Path, allow_pickle: bool, device: torch.device | str) -> AnyPolicy:
    if not allow_pickle:
        raise ValueError(
            f"{path}: loading a Stable-Baselines3 archive runs code stored in it; add --allow-pickle if you trust it"
        )
    for statistics in (path.parent / "vecnormalize.pkl", path.with_suffix("") / "vecnormalize.pkl"):
        if statistics.exists():
            raise ValueError(f"{path}: trained behind VecNormalize ({statistics}), which is not supported")
    data = _archive_data(path)
    name = _algorithm_name(path, data)
    model = _sb3_class(name).load(path, device=device)

    def act(obs: Tensor) -> Tensor:
        """The library answers in the bounds its task had; ours are [-1, 1], reached by the same affine map."""
        actions, _ = model.predict(obs.cpu().numpy(), deterministic=True)
        if isinstance(model.action_space, gym.spaces.Discrete):
            return torch.as_tensor(actions, device=obs.device)
        return torch.as_tensor(model.policy.scale_action(actions), dtype=torch.float32, device=obs.device)

    spaces = Spaces(model.observation_space, model.action_space)
    return AnyPolicy(act, spaces, spaces.action, f"sb3-{name.lower()}", str(path), int(data["num_timesteps"]), None)


def _archive_data(path: Path) -> dict[str, Any]:
    """Return the archive's JSON, in which pickles are strings: reading it runs nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            data: dict[str, Any] = json.loads(archive.read("data"))
            return data
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a Stable-Baselines3 archive ({error})") from error


def _algorithm_name(path: Path, data: dict[str, Any]) -> str:
    """Return which class wrote the archive: the archive does not name it, but the policy's module and the settings do.

    DDPG is TD3 with other settings, and A2C acts as PPO does.
    """
    module = str(data.get("policy_class", {}).get("__module__"))
    if module == "stable_baselines3.common.policies":
        return "PPO" if "clip_range" in data else "A2C"
    names = {f"stable_baselines3.{name.lower()}.policies": name for name in ("SAC", "TD3", "DQN")}
    if module not in names:
        raise ValueError(f"{path}: holds a policy of {module}; supported are SAC, TD3, DDPG, DQN, PPO and A2C")
    return names[module]


def _sb3_class(name: str) -> Any:
    try:
        import stable_baselines3
    except ModuleNotFoundError as error:
        raise ImportError('Stable-Baselines3 is not installed: pip install "surefoot[sb3]"') from error
    return getattr(stable_baselines3, name)
