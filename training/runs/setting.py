"""Which runs are seeds of one setting: the one rule by which reports, curves and evaluations pool runs.

Runs that differ in anything but their seed, their name and what decides no number are runs of different settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from surefoot.configs.casting import flattened
from surefoot.training.config.presets import to_plain
from surefoot.training.config.run import NO_NUMBER, RunConfig

Settings = dict[str, Any]  # by dotted names, such as `env.physics.gravity`
NO_SETTING = ("seed", "log_every", "env.vectorization", "precision", *NO_NUMBER)  # the engine that was used has its own


def setting_of(agent_name: str, config: RunConfig[Any], meta: Mapping[str, Any]) -> Settings:
    """Return all that decides a run's numbers but its seed; the engine is the one that was used, by its meta.json."""
    used = {"engine": meta.get("engine", config.engine)}
    flat = flattened(to_plain(agent_name, config)) | used
    return {name: value for name, value in flat.items() if name not in NO_SETTING}


def what_differs(settings: Sequence[Settings]) -> list[str]:
    """Return the names of the settings in which runs differ; one that a run does not have is a difference."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if len({repr(one.get(name, "no such setting")) for one in settings}) > 1]


def in_label(setting: Settings, names: Iterable[str]) -> list[str]:
    """Return the parts of a label, such as `gamma 0.9` or `eval.episodes 5`, for those of the names that it has."""
    short = {name: name if name.startswith("eval.") else name.rpartition(".")[2] for name in names}
    return [f"{short[name]} {setting[name]}" for name in short if name in setting]
