"""A task and its settings in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from surefoot.envs import EnvConfig

Record = dict[str, Any]


def describe(env: Record) -> str:
    """Return the task and how it differs from the unmodified one, such as `Hopper-v5, gravity 2.0`."""
    defaults = asdict(EnvConfig())
    settings = {**env["physics"], "max_episode_steps": env["max_episode_steps"], **env["kwargs"]}
    usual = {**defaults["physics"], "max_episode_steps": None}
    changes = [f"{name} {value}" for name, value in settings.items() if name not in usual or value != usual[name]]
    return ", ".join([env["id"], *changes])
