"""Policy files: all that evaluation needs of a run, read without running code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from surefoot import agents
from surefoot.agents.interface import Policy, Spaces
from surefoot.agents.parts.engine import compute_by, engine_of
from surefoot.configs.casting import overlay
from surefoot.envs import EnvConfig, Physics
from surefoot.evaluation.storage import load as load_checkpoint
from surefoot.evaluation.storage import save as save_checkpoint


class PolicyFile(NamedTuple):
    """A policy read back from a run folder, with what it was trained by."""

    policy: Policy
    spaces: Spaces  # as the agent sees them, actions in [-1, 1]
    own_action: gym.Space[Any]  # the task's actions in its own units
    agent_name: str
    agent_config: Any
    env_config: EnvConfig  # the task, in the dynamics it was trained in
    physics: Physics  # the dynamics in which its run was evaluated
    step: int
    seed: int  # of its training


def checkpoint_path(run: Path, kind: str, step: int) -> Path:
    """Return where the checkpoint of a step lies; `kind` is `step` (everything) or `policy` (what is deployed)."""
    return run / "checkpoints" / f"{kind}-{step:09d}.pt"


def checkpoint_steps(run: Path, kind: str = "step") -> list[int]:
    """Return the steps of the checkpoints in a run, ascending."""
    found = (re.fullmatch(rf"{kind}-(\d+)\.pt", path.name) for path in (run / "checkpoints").glob(f"{kind}-*.pt"))
    return sorted(int(match[1]) for match in found if match)


def save_policy(
    path: Path, config: dict[str, Any], spaces: Spaces, own_action: gym.Space[Any], step: int, policy: Policy
) -> None:
    """Write all that evaluation needs of a run: the policy, its spaces and the configuration as plain values."""
    save_policy_state(path, config, spaces, own_action, step, policy.state_dict(), engine_of(policy))


def save_policy_state(
    path: Path,
    config: dict[str, Any],
    spaces: Spaces,
    own_action: gym.Space[Any],
    step: int,
    state: dict[str, Any],
    engine: str,
) -> None:
    """Write the same of a policy's `state_dict`, and the engine that computes it."""
    payload = {
        "agent_name": config["agent_name"],
        "config": config,
        "spaces": {
            "observation": _plain_space(spaces.observation),
            "action": _plain_space(spaces.action),
            "own_action": _plain_space(own_action),
        },
        "step": step,
        "engine": engine,
        "policy": state,
    }
    save_checkpoint(path, payload)


def load_policy(run: Path, checkpoint: str | int = "latest", device: torch.device | str = "cpu") -> PolicyFile:
    """Return the policy of a run at its `latest` or `best` checkpoint or at a step, or of a policy file itself.

    Neither data nor the training task is needed. Raises `FileNotFoundError` naming the checkpoints there are.
    """
    path = run if run.is_file() else policy_path(run, checkpoint)
    payload = load_checkpoint(path, device)
    if "policy" not in payload:
        raise ValueError(f"{path}: no policy in it; give the run folder, or a policy-*.pt or best.pt file")
    try:
        return _from_payload(payload, path, device)
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from error
    except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, AssertionError) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise ValueError(f"{path}: not a policy file that Surefoot wrote, or a changed one ({reason})") from error


def _from_payload(payload: dict[str, Any], path: Path, device: torch.device | str) -> PolicyFile:
    agent_name, config = payload["agent_name"], payload["config"]
    spec = agents.get(agent_name)
    agent_config = overlay(spec.default, config["agent"], str(path), "agent.")
    env_config = overlay(EnvConfig(), config["env"], str(path), "env.")
    physics = overlay(Physics(), config["eval"]["physics"], str(path), "eval.physics.")
    names = ("observation", "action", "own_action")
    observation, action, own_action = (_space_from_plain(payload["spaces"][name]) for name in names)
    spaces = Spaces(observation, action)
    policy = spec.make_policy(agent_config, spaces)
    policy.load_state_dict(payload["policy"])
    if isinstance(policy, torch.nn.Module):
        policy.to(device)
    compute_by(payload.get("engine", "eager"), policy)
    trained = agent_name, agent_config, env_config, physics, payload["step"], int(config["seed"])
    return PolicyFile(policy, spaces, own_action, *trained)


def runs_inside(folder: Path) -> str:
    """Return the end of an error about a folder that is no run itself: one of the runs it holds, if it does."""
    inside = sorted(path.parent for path in folder.glob("*/config.yaml"))
    return f"; it holds runs, such as {inside[-1]}" if inside else ""


def policy_path(run: Path, name: str | int) -> Path:
    if not (run / "checkpoints").is_dir():
        raise FileNotFoundError(f"{run}: not a run folder (no checkpoints folder){runs_inside(run)}")
    steps = checkpoint_steps(run, "policy")
    if name == "best" and (run / "checkpoints" / "best.pt").is_file():
        return run / "checkpoints" / "best.pt"
    if name == "latest" and steps:
        return checkpoint_path(run, "policy", steps[-1])
    if str(name).isdecimal() and int(name) in steps:
        return checkpoint_path(run, "policy", int(name))
    available = [*map(str, steps), *(["best"] if (run / "checkpoints" / "best.pt").is_file() else [])]
    raise FileNotFoundError(f"{run}: no checkpoint {name!r}; available: {', '.join(available) or 'none'}")


def _plain_space(space: gym.Space[Any]) -> dict[str, Any]:
    if isinstance(space, gym.spaces.Discrete):
        return {"n": int(space.n), "start": int(space.start)}
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(f"{space} is neither Box nor Discrete; only these can be stored")
    bounds = {name: torch.as_tensor(np.array(getattr(space, name))) for name in ("low", "high")}
    return {**bounds, "shape": list(space.shape), "dtype": str(space.dtype)}


def _space_from_plain(plain: dict[str, Any]) -> gym.Space[Any]:
    if "n" in plain:
        return gym.spaces.Discrete(plain["n"], start=plain["start"])
    low, high = (plain[name].cpu().numpy() for name in ("low", "high"))
    if not tuple(plain["shape"]) == low.shape == high.shape:
        raise ValueError(f"a space of shape {plain['shape']} with bounds of {low.shape} and {high.shape}")
    return gym.spaces.Box(low, high, tuple(plain["shape"]), np.dtype(plain["dtype"]).type)
