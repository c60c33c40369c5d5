"""What every opener returns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym

from surefoot.agents.interface import Policy, Spaces
from surefoot.envs import EnvConfig
from surefoot.evaluation.episodes import Act


class Permissions(NamedTuple):
    """What a user allows of a file beyond being read."""

    pickle: bool = False  # Stable-Baselines3 may unpickle an archive, which runs code stored in it
    code: bool = False  # a TorchScript program may run


class AnyPolicy(NamedTuple):
    """A policy ready to act, and what is known of where it comes from."""

    act: Act  # (N, obs) -> (N, act) in [-1, 1], deterministic
    spaces: Spaces
    own_action: gym.Space[Any]  # the task's actions in its own units
    agent_name: str
    label: str  # its name in tables and figures
    step: int  # of its training
    env_config: EnvConfig | None  # the task in its evaluation dynamics; None where the file does not say
    policy: Policy | None = None  # None for a policy of others
    training_seed: int | None = None  # None where the file does not say
    fit: Fit | None = None  # makes it ready for a task; None: it takes the task as it is
    trained_on: str | None = None  # the id its file names, such as `Ant-v3`, where that differs from the task's
    sha256: str | None = None  # of its file
    source: str = ""  # the file, with the revision where it was downloaded
    wrappers: tuple[str, ...] = ()  # what is between the task and the network, outermost last
    needs_task: bool = False  # whether it acts in a task's own units, which only `fit` makes [-1, 1]
    notes: tuple[str, ...] = ()  # what a reader of its numbers must know, a line each


Fit = Callable[[AnyPolicy, EnvConfig], AnyPolicy]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
