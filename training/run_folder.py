"""One folder a run: what is in it, and how to make, mark and read it. Nothing inside names its own place on disk."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import yaml

from surefoot import agents
from surefoot.agents.interface import Policy, Spaces
from surefoot.training.checkpoint import load as load_checkpoint
from surefoot.training.checkpoint import save as save_checkpoint
from surefoot.training.checkpoint import write_atomically
from surefoot.training.config import RunConfig
from surefoot.training.presets import from_plain, read_yaml, to_plain

SUBFOLDERS = ("checkpoints", "plots", "videos")


def default_name(agent_name: str, config: RunConfig, preset: str | None) -> str:
    """Return `AGENT-ENV-PRESET-sSEED-TIME`, safe as a file name."""
    parts = [agent_name, config.env.id, Path(preset).stem if preset else "", f"s{config.seed}"]
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return "-".join([re.sub(r"[^\w.+-]+", "_", part) for part in parts if part] + [stamp])


def require_free(folder: Path) -> None:
    """Raise unless a new run can be made at `folder`."""
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"{folder}: not empty; go on with that run by --resume {folder}, or choose another --name"
        )
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: a file is in the way of the run folder; choose another --name or --out")


def create(folder: Path, agent_name: str, config: RunConfig, preset: str | None) -> None:
    """Make the run's folder with config.yaml and meta.json."""
    require_free(folder)
    try:
        for name in SUBFOLDERS:
            (folder / name).mkdir(parents=True)
    except OSError as error:
        raise OSError(f"{folder}: cannot make the run folder ({error.strerror}); choose another --out") from error
    write_config(folder, agent_name, config)
    write_meta(folder, {"agent": agent_name, "preset": preset, "seed": config.seed, "started": _now(), **provenance()})


def write_config(folder: Path, agent_name: str, config: RunConfig) -> None:
    """Write the resolved configuration, every field of it."""
    plain = yaml.safe_dump(to_plain(agent_name, config), sort_keys=False)
    text = f"# Resolved configuration; `--config` takes this file back.\n{plain}"
    write_atomically(folder / "config.yaml", lambda file: file.write(text.encode()))


def read_config(folder: Path) -> tuple[str, RunConfig]:
    """Return agent name and configuration of a run; `FileNotFoundError` where `folder` is none."""
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder}: not a run folder (no config.yaml){runs_inside(folder)}")
    return from_plain(read_yaml(folder / "config.yaml"), str(folder / "config.yaml"))


def method_name(agent_name: str, config: RunConfig) -> str:
    """Return what a picture or table calls a run: its agent, and its arm where the agent has arms."""
    arm = getattr(config.agent, "arm", None)
    return f"{agent_name} {arm}" if arm else agent_name


def read_meta(folder: Path) -> dict[str, Any]:
    """Return what meta.json says of the run."""
    return json.loads((folder / "meta.json").read_text(encoding="utf-8"))


def write_meta(folder: Path, changes: dict[str, Any]) -> None:
    """Lay `changes` over meta.json."""
    path = folder / "meta.json"
    meta = {**(read_meta(folder) if path.is_file() else {}), **changes}
    write_atomically(path, lambda file: file.write((json.dumps(meta, indent=2) + "\n").encode()))


def mark(folder: Path, status: str, seconds: float) -> None:
    """Record how the run stands: running, interrupted, failed or finished."""
    write_meta(folder, {"status": status, "updated": _now(), "minutes": round(seconds / 60, 3)})


def is_finished(folder: Path, config: RunConfig) -> bool:
    """Whether the run was carried through and `config` asks for nothing else."""
    return read_meta(folder).get("status") == "finished" and config == read_config(folder)[1]


def mark_resumed(folder: Path, agent_name: str, config: RunConfig) -> None:
    """Record that the run was taken up again: with which budget, by which command and on which machine."""
    write_config(folder, agent_name, config)
    write_meta(folder, {"resumed": [*read_meta(folder).get("resumed", []), {"started": _now(), **provenance()}]})


def save_path(folder: Path, path: list[dict[str, Any]]) -> None:
    """Write what an agent says of its iterations, as plain values."""
    write_atomically(folder / "path.json", lambda file: file.write((json.dumps(path, indent=1) + "\n").encode()))


# --- checkpoints ------------------------------------------------------------------------------------------------------


class LoadedPolicy(NamedTuple):
    """A policy read back from a run folder, with what it was trained by."""

    policy: Policy
    config: RunConfig
    agent_name: str
    step: int


def checkpoint_path(run: Path, kind: str, step: int) -> Path:
    """Return where the checkpoint of a step lies; `kind` is `step` (everything) or `policy` (what is deployed)."""
    return run / "checkpoints" / f"{kind}-{step:09d}.pt"


def checkpoint_steps(run: Path, kind: str = "step") -> list[int]:
    """Return the steps of the checkpoints in a run, ascending."""
    found = (re.fullmatch(rf"{kind}-(\d+)\.pt", path.name) for path in (run / "checkpoints").glob(f"{kind}-*.pt"))
    return sorted(int(match[1]) for match in found if match)


def save_policy(path: Path, agent_name: str, config: RunConfig, spaces: Spaces, step: int, policy: Policy) -> None:
    """Write all that evaluation needs of a run: the policy, its spaces and the configuration."""
    payload = {
        "agent_name": agent_name,
        "config": to_plain(agent_name, config),
        "spaces": {"observation": _plain_space(spaces.observation), "action": _plain_space(spaces.action)},
        "step": step,
        "policy": policy.state_dict(),
    }
    save_checkpoint(path, payload)


def load_policy(run: Path, checkpoint: str | int = "latest", device: torch.device | str = "cpu") -> LoadedPolicy:
    """Return the policy of a run at its `latest` or `best` checkpoint or at a step, or of a policy file itself.

    Neither data nor the training task is needed. Raises `FileNotFoundError` naming the checkpoints there are.
    """
    path = run if run.is_file() else _policy_path(run, checkpoint)
    payload = load_checkpoint(path, device)
    if "policy" not in payload:
        raise ValueError(f"{path}: no policy in it; give the run folder, or a policy-*.pt or best.pt file")
    agent_name, config = from_plain(payload["config"], str(path))
    spaces = Spaces(*(_space_from_plain(payload["spaces"][name]) for name in ("observation", "action")))
    policy = agents.get(agent_name).make_policy(config.agent, spaces)
    policy.load_state_dict(payload["policy"])
    if isinstance(policy, torch.nn.Module):
        policy.to(device)
    return LoadedPolicy(policy, config, agent_name, payload["step"])


def runs_inside(folder: Path) -> str:
    """Return the end of an error about a folder that is no run itself: one of the runs it holds, if it does."""
    inside = sorted(path.parent for path in folder.glob("*/config.yaml"))
    return f"; it holds runs, such as {inside[-1]}" if inside else ""


def _policy_path(run: Path, name: str | int) -> Path:
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


def save_regret(run: Path, rounds: list[int], regret: torch.Tensor) -> None:
    """Write cumulative regret (P, N) at log-spaced rounds or episodes (P,) to regret.npz."""
    t, curve = np.array(rounds, dtype=np.int64), regret.numpy(force=True)
    write_atomically(run / "regret.npz", lambda file: np.savez(file, rounds=t, regret=curve))


def load_regret(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return rounds or episodes (P,) and regret (P, N) of a run; `FileNotFoundError` where there is none."""
    path = run / "regret.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found; is {run} a run that is measured by regret and got as far as a checkpoint?"
        )
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["rounds"], arrays["regret"]


def _plain_space(space: gym.Space) -> dict[str, Any]:
    if isinstance(space, gym.spaces.Discrete):
        return {"n": int(space.n), "start": int(space.start)}
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(f"{space} is neither Box nor Discrete; only these can be stored")
    bounds = {name: torch.as_tensor(np.array(getattr(space, name))) for name in ("low", "high")}
    return {**bounds, "shape": list(space.shape), "dtype": str(space.dtype)}


def _space_from_plain(plain: dict[str, Any]) -> gym.Space:
    if "n" in plain:
        return gym.spaces.Discrete(plain["n"], start=plain["start"])
    low, high = (plain[name].cpu().numpy() for name in ("low", "high"))
    return gym.spaces.Box(low, high, tuple(plain["shape"]), np.dtype(plain["dtype"]).type)


# --- provenance -------------------------------------------------------------------------------------------------------


def provenance() -> dict[str, Any]:
    """Return what a number depends on: command, commit, package versions and hardware."""
    return {
        "command": shlex.join(sys.argv),
        **git_commit(),
        "versions": _versions(),
        "hardware": _hardware(),
    }


def git_commit() -> dict[str, Any]:
    """Return the commit of the checkout this code runs from and whether it was changed; Nones outside of a checkout.

    Results of benchmarks are no code: writing one does not make the next one's checkout a changed one.
    """
    try:
        _git("ls-files", "--error-unmatch", __file__)  # fails where the package is installed inside some other checkout
        return {
            "commit": _git("rev-parse", "HEAD"),
            "dirty": bool(
                _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)benchmarks/results")
            ),
        }
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def _git(*arguments: str) -> str:
    here = Path(__file__).resolve().parent
    call = ["git", "-C", str(here), *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("surefoot", "gymnasium", "mujoco", "numpy"):
        versions[package] = importlib.metadata.version(package)
    return versions


def _hardware() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"system": platform.platform(), "processor": platform.machine(), "cpus": os.cpu_count(), "gpu": gpu}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
