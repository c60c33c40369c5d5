"""Presets and resolved configs: YAML in and out of nested dataclasses, cast by the annotated type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from surefoot import agents
from surefoot.configs import preset_file
from surefoot.configs.casting import is_yaml, merged, nested, overlay, plain, read_yaml
from surefoot.envs import EnvConfig
from surefoot.training.config.run import RunConfig

FORMAT = 2  # of settings: goes up when names or meanings change; other formats are refused, not translated


def default_config(agent_name: str) -> RunConfig[Any]:
    """Return the configuration of an agent before any preset; `ValueError` names the known agents."""
    spec = agents.get(agent_name)
    return RunConfig(agent=spec.default, steps=spec.steps)


def load_preset(agent_name: str, preset: str) -> RunConfig[Any]:
    """Return the agent's defaults with a preset laid over them.

    `preset` is a name of the agent's own, `OTHER/NAME` of another agent (allowed where its keys fit), or the path of a
    YAML file. Raises `FileNotFoundError` with the available names, `ValueError` for a key or a value that does not fit.
    """
    defaults = default_config(agent_name)
    source = _locate(agent_name, preset)
    return overlay(defaults, read_yaml(source), str(source))


def with_changes(base: RunConfig[Any], changes: Mapping[str, Any], where: str) -> RunConfig[Any]:
    """Return a configuration with settings laid over it, each cast to its type: dotted names, nested mappings or both.

    Arguments of the task's constructor lie over those of `base`, as on the command line. `ValueError` for a setting
    that is unknown, does not fit or is given twice.
    """
    config = overlay(base, nested(changes, where), where)
    return replace(config, env=laid_over(config.env, base.env))


def laid_over(task: EnvConfig, base: EnvConfig) -> EnvConfig:
    """Return `task`, made of `base`, with the constructor's arguments of both, its own above, where it is one task."""
    return replace(task, kwargs=merged(base.kwargs, task.kwargs)) if task.id == base.id else task


def _locate(agent_name: str, preset: str) -> Traversable:
    if is_yaml(preset):
        return Path(preset)
    owner, _, name = preset.rpartition("/")
    agents.get(owner or agent_name)  # an unknown agent is the better message
    return preset_file(owner or agent_name, name)


# --- resolved configs -------------------------------------------------------------------------------------------------


def to_plain(agent_name: str, config: RunConfig[Any]) -> dict[str, Any]:
    """Return every field as plain values, with the agent's name, as config.yaml and checkpoints hold them."""
    return {"agent_name": agent_name, "format": FORMAT, **plain(config)}


def from_plain(content: Mapping[str, Any], where: str) -> tuple[str, RunConfig[Any]]:
    """Return agent name and configuration of what `to_plain` made; fields that are absent keep their defaults."""
    fields = dict(content)
    agent_name, written = fields.pop("agent_name", None), fields.pop("format", FORMAT)
    fields.pop("preset", None)  # only says where the settings come from
    if not isinstance(agent_name, str):
        raise ValueError(f"{where}: no agent_name; expected the config.yaml of a run folder")
    if written != FORMAT:
        raise ValueError(f"{where}: format {written}; this Surefoot reads format {FORMAT}")
    try:
        return agent_name, overlay(default_config(agent_name), fields, where)
    except ValueError as error:
        if "format" in content or "unknown" not in str(error):
            raise
        raise ValueError(f"{error}; it names no format: an older Surefoot, which had other names?") from error
