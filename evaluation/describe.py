"""A task and its settings in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from surefoot.envs import EnvConfig, Physics

Record = dict[str, Any]


def describe(env: Mapping[str, Any]) -> str:
    """Return the task and how it differs from the unmodified one, such as `Hopper-v5, gravity 2.0`."""
    defaults = asdict(EnvConfig())
    backend = env.get("backend", "mujoco")  # files of before there was a choice have none
    own = {"max_episode_steps": env["max_episode_steps"], "action_repeat": env.get("action_repeat", 1)}
    of_env = {"backend": backend, **own, **env["kwargs"]}
    settings = {**dynamics(env["physics"]), **of_env}
    usual = {**dynamics(defaults["physics"]), "backend": "mujoco", "max_episode_steps": None, "action_repeat": 1}
    changes = [f"{in_words(n)} {value}" for n, value in settings.items() if n not in usual or value != usual[n]]
    return ", ".join([env["id"], *changes])


def dynamics(physics: Mapping[str, Any]) -> dict[str, float]:
    """Return the fields of a `Physics` (as plain values, also of before it had `parameters`), those by their names."""
    factors = {name: value for name, value in physics.items() if name != "parameters"}
    return factors | Physics(parameters=tuple(physics.get("parameters", ()))).fixed()


def describe_task(env: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    """Return a task with the physics of training and of evaluation (`measured`) as plain values, where they differ.

    Such as `Hopper-v5, gravity 2.0; evaluated in the unmodified dynamics`.
    """
    text = describe(env)
    if dynamics(env["physics"]) == dynamics(measured):
        return text
    elsewhere = describe(asdict(EnvConfig(env["id"], _physics(measured)))).partition(", ")[2]
    return f"{text}; evaluated with {elsewhere}" if elsewhere else f"{text}; evaluated in the unmodified dynamics"


def in_words(name: str) -> str:
    """Return the name of a setting or of a metric as people write it."""
    return name.replace("_", " ")


def _physics(measured: Mapping[str, Any]) -> Physics:
    return Physics(**{**measured, "parameters": tuple(measured.get("parameters", ()))})
