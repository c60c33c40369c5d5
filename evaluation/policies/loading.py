"""From a path to a policy: what is there decides who opens it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from surefoot.agents.interface import Spaces
from surefoot.envs import spaces_of
from surefoot.evaluation.episodes import make_act
from surefoot.evaluation.policies import functions, hub
from surefoot.evaluation.policies.onnx_models import load_onnx
from surefoot.evaluation.policies.opened import AnyPolicy, Permissions, sha256_of
from surefoot.evaluation.policies.sb3 import load_archive
from surefoot.evaluation.policies.sb3_archives import is_archive
from surefoot.evaluation.policies.torchscript import is_torchscript, load_torchscript
from surefoot.evaluation.policy_files import load_policy, policy_path


def load_any(
    path: Path | str,
    *,
    checkpoint: str | int = "latest",
    normalizer: Path | None = None,
    allow_pickle: bool = False,
    allow_code: bool = False,
    device: torch.device | str = "cpu",
) -> AnyPolicy:
    """Return the policy at `path`.

    That is a run folder (at `checkpoint`; all others have but one policy) or a `.pt` policy file of one, a
    Stable-Baselines3 archive (`.zip`), an ONNX model (`.onnx`), a TorchScript program (with `allow_code`),
    `module:function`, or any file of these on the Hub, `hf:ORG/REPO[/FILE][@REVISION]`.

    `normalizer` names the `vecnormalize.pkl` of an archive where it does not lie beside it; `none` says that there is
    none. `allow_pickle` lets Stable-Baselines3 itself open an archive that cannot be read without running code.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file that is none of these or refused; of what is no run folder another checkpoint than `latest`.
        ImportError: an extra or the module of a function is missing, named.
    """
    allowed = Permissions(pickle=allow_pickle, code=allow_code)
    if str(path).startswith(hub.PREFIX):
        _require_no_choice(path, checkpoint)
        there = hub.download(str(path))
        opened = _load_file(there.path, checkpoint, allowed, normalizer, device, hint=there.repo)
        return opened._replace(label=str(path), source=there.source)
    if functions.NAME.fullmatch(str(path)) and not Path(path).exists():
        _require_no_choice(path, checkpoint)
        return functions.load_function(str(path))
    if not Path(path).exists():
        raise FileNotFoundError(
            f"{path}: no run folder, policy file (.pt), Stable-Baselines3 archive (.zip) or ONNX model (.onnx) there"
        )
    if not Path(path).is_dir():
        _require_no_choice(path, checkpoint)
    return _load_file(Path(path), checkpoint, allowed, normalizer, device)


def _require_no_choice(path: Path | str, checkpoint: str | int) -> None:
    if checkpoint != "latest":
        raise ValueError(
            f"{path}: --checkpoint {checkpoint} chooses among those of a run folder, and this is none; leave it out"
        )


def _load_file(
    path: Path,
    checkpoint: str | int,
    allowed: Permissions,
    normalizer: Path | None,
    device: torch.device | str,
    hint: str = "",
) -> AnyPolicy:
    """Return the policy of a file or folder; `hint` is another name that may contain the id of its task."""
    if path.suffix == ".zip" or is_archive(path):
        return load_archive(path, allowed, normalizer, device, hint)
    if normalizer is not None:
        raise ValueError(f"{path}: --normalizer is for archives of Stable-Baselines3; leave it out")
    if path.suffix == ".onnx":
        return load_onnx(path)
    return load_torchscript(path, allowed, device) if is_torchscript(path) else _load_ours(path, checkpoint, device)


def _load_ours(path: Path, checkpoint: str | int, device: torch.device | str) -> AnyPolicy:
    file = path if path.is_file() else policy_path(path, checkpoint)
    loaded = load_policy(file, device=device)
    task = replace(loaded.env_config.in_c(), physics=loaded.physics, num_envs=1, vectorization="sync")
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
        sha256=sha256_of(file),
        source=str(path),
    )
