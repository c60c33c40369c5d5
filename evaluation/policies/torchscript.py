"""TorchScript programs as policies: code, so that they run only where the user allows it."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surefoot.evaluation.policies.opened import AnyPolicy, Permissions, sha256_of
from surefoot.evaluation.policies.own_units import own_policy


def is_torchscript(path: Path) -> bool:
    """Whether a file is a program of TorchScript and not tensors alone."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def load_torchscript(path: Path, allowed: Permissions, device: torch.device | str = "cpu") -> AnyPolicy:
    """Return the policy of a program that maps observations (N, obs) to actions in the task's own units.

    Raises:
        ValueError: the program is not allowed, or cannot be loaded.
    """
    if not allowed.code:
        raise ValueError(f"{path}: a TorchScript program, which runs as code; add --allow-code if you trust it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself; files of it remain
            program = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"{path}: damaged, or no TorchScript program ({_first(error)})") from error

    def predict(obs: np.ndarray) -> Any:
        try:
            given = program(torch.from_numpy(obs).to(device))
        except RuntimeError as error:
            raise ValueError(f"{path}: {_first(error)}") from error
        action = given[0] if isinstance(given, tuple | list) else given
        return action.numpy(force=True) if isinstance(action, torch.Tensor) else action

    return own_policy(predict, str(path), "torchscript", sha256=sha256_of(path))


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
