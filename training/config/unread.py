"""Settings that somebody gave and nothing reads: refused, so that an effect is never looked for where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from surefoot.agents.parts.ranges import unread_by
from surefoot.configs.casting import option
from surefoot.training.config.presets import default_config, is_file
from surefoot.training.config.run import RunConfig


def refuse_unread(agent_name: str, config: RunConfig[Any], preset: str | None, base: RunConfig[Any]) -> None:
    """Raise `ValueError` for a setting of the agent that was given and changes nothing.

    Given is what differs from `base`, which the settings were laid over. What a packaged preset has left without effect
    by then is as it was; a preset from a file is somebody's own, and all that it sets is given.
    """
    own_file = preset is not None and is_file(preset)
    before = default_config(agent_name).agent if own_file else base.agent
    for name, why in unread_by(config.agent).items():
        value = getattr(config.agent, name)
        if value != getattr(before, name):
            given = option(f"agent.{'no_' if value is False else ''}{name}")
            raise ValueError(f"{given} has no effect {why}; leave it out")


def refuse_never_read(configs: Sequence[RunConfig[Any]], given: Iterable[str]) -> None:
    """Raise `ValueError` for one of the `given` settings of a sweep, `agent.x`, that changes nothing in any run of it.

    In some runs it may: a grid has every combination of its settings.
    """
    for key in given:
        reasons = [unread_by(config.agent).get(key.removeprefix("agent.")) for config in configs]
        if key.startswith("agent.") and all(reasons):
            raise ValueError(f"set: {key} has no effect in any run of the sweep, {reasons[0]}; leave it out")
