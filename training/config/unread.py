"""Settings that somebody gave and nothing reads: refused, so that an effect is never looked for where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from surefoot import agents
from surefoot.agents.parts.ranges import unread_by, unread_where
from surefoot.configs.casting import is_yaml, option
from surefoot.envs import Physics
from surefoot.offline_data.sources import BEHAVIOUR, is_minari
from surefoot.training.config.presets import default_config
from surefoot.training.config.run import RunConfig

OF_DATA = ("data.fraction", "data.view", "data.max_episode_steps", "data.clip_actions")
OF_D4RL = ("data.view", "data.max_episode_steps")
OF_ACTING = ("env.num_envs", "env.backend", "env.nconmax", "env.njmax", "resume_episodes")
OF_EVALUATIONS = ("eval.every", "eval.episodes", "eval.seed", "eval.worlds")
OF_PHYSICS = tuple(f"env.physics.{field.name}" for field in fields(Physics))


def unread_of(agent_name: str, config: RunConfig[Any]) -> dict[str, str]:
    """Return the settings of a run, such as `eval.worlds`, that nothing reads as it is, and why.

    What the run itself does not read, a baseline of its own may.
    """
    of_agent = {f"agent.{name}": why for name, why in unread_by(config.agent).items()}
    of_everyone = unread_where(
        (config.eval.grid is None, ("eval.grid_closed",), "without --eval.grid"),
        (not config.eval.objectives, ("eval.objective_episodes",), "without --eval.objectives"),
    )
    return of_agent | of_everyone | ({} if config.baselines else _unread_by_itself(agent_name, config))


def _unread_by_itself(agent_name: str, config: RunConfig[Any]) -> dict[str, str]:
    spec, source = agents.get(agent_name), config.data.source or ""
    not_d4rl = is_minari(source) or source.startswith(BEHAVIOUR)
    not_in_it = f"on {agent_name}, which never acts in the task; --eval.physics is what it is evaluated in"
    return unread_where(
        (not_d4rl, OF_D4RL, f"on {source}, which is no D4RL file"),
        (not source, OF_DATA, "without --data.source"),
        (not spec.reads_data, ("data.source", *OF_DATA), f"on {agent_name}, which learns from its own steps alone"),
        (config.uncertainty is None, ("eval.worlds",), "without --uncertainty"),
        (not spec.model_based, ("env.termination",), f"on {agent_name}, which rolls out no model"),
        (spec.offline, OF_ACTING, f"on {agent_name}, which never acts in the task"),
        (spec.offline, OF_PHYSICS, not_in_it),
        (bool(spec.regret), OF_EVALUATIONS, f"on {agent_name}, which has its regret and no evaluations"),
    )


def refuse_unread(agent_name: str, config: RunConfig[Any], preset: str | None, base: RunConfig[Any]) -> None:
    """Raise `ValueError` for a setting that was given and changes nothing.

    Given is what differs from `base`, which the settings were laid over. What a packaged preset has left without effect
    by then is as it was; a preset from a file is somebody's own, and all that it sets is given.
    """
    own_file = preset is not None and is_yaml(preset)
    refuse_given(config, default_config(agent_name) if own_file else base, unread_of(agent_name, config))


def refuse_given(settings: Any, before: Any, unread: Mapping[str, str]) -> None:
    """Raise `ValueError` for one of the `unread` settings (dotted name, why) that is another than it was before."""
    for name, why in unread.items():
        value = attrgetter(name)(settings)
        if value != attrgetter(name)(before):
            section, _, last = name.rpartition(".")
            given = option(f"{section}.{'no_' if value is False else ''}{last}".strip("."))
            raise ValueError(f"{given} has no effect {why}; leave it out")


def refuse_never_read(runs: Sequence[tuple[str, RunConfig[Any]]], given: Iterable[str]) -> None:
    """Raise `ValueError` for a `given` setting of a sweep that changes nothing in any of its runs (agent, config).

    In some runs it may: a grid has every combination of its settings.
    """
    unread = [unread_of(*run) for run in runs]
    for key in given:
        reasons = [of_run.get(key) for of_run in unread]
        if all(reasons):
            raise ValueError(f"set: {key} has no effect in any run of the sweep, {reasons[0]}; leave it out")
