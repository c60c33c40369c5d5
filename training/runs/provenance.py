"""What a number depends on: command, commit, package versions and hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch


def provenance() -> dict[str, Any]:
    """Return what a number depends on: command, commit, package versions and hardware."""
    return {
        "command": shlex.join(sys.argv),
        **git_commit(),
        "versions": dict(_versions()),
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


@cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("surefoot", "gymnasium", "mujoco", "numpy"):
        versions[package] = importlib.metadata.version(package)
    return versions


def _hardware() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"system": platform.platform(), "processor": platform.machine(), "cpus": os.cpu_count(), "gpu": gpu}
