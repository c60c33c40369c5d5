"""What a run and its baseline runs have in common, and in what they differ.

Task, physics, uncertainty set, data, budget, evaluation and seed of a comparison are one: what a run changes of its
preset, its baselines get, but for what they cannot take. Whatever differs on purpose, by the presets, is a column of
the comparison's table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from surefoot import agents
from surefoot.agents.interface import AgentSpec, Spaces
from surefoot.configs.casting import flattened, nested, overlay, plain
from surefoot.envs import spaces_of
from surefoot.evaluation.objectives import served
from surefoot.training.config.run import RunConfig

Settings = dict[str, Any]  # by dotted names, such as `env.physics.gravity`
Reasons = dict[str, str]

# What each run has of its own: its method, and how it is computed on this machine.
OWN = ("agent", "baselines", "threads", "compile", "cudagraph")
COMPARED = ("env", "uncertainty", "data", "eval", "steps", "seed", "num_seeds", "device")
NO_COLUMN = (  # of these: what decides no return, and what is in tables of its own
    "env.vectorization",
    "eval.grid",
    "eval.grid_closed",
    "eval.objectives",
    "eval.objective_episodes",
)
NOTHING = object()


class Planned(NamedTuple):
    """A baseline run before it starts."""

    agent_name: str
    config: RunConfig[Any]
    notes: tuple[str, ...]  # what it cannot take of the run's changes, for people


def plan_baseline(
    entry: str, theirs: RunConfig[Any], agent_name: str, config: RunConfig[Any], base: RunConfig[Any] | None
) -> Planned:
    """Return the baseline run `entry` = AGENT/PRESET of a run of `agent_name` under `config`.

    Args:
        entry: which agent and preset, as `RunConfig.baselines` has it.
        theirs: the configuration that the preset makes.
        agent_name: of the run.
        config: of the run.
        base: what the run started from, its preset; None: a run without one, of which every setting is taken. So are
            those of a run that is measured by regret, whose curve needs the same replicates and rounds.

    Raises:
        ValueError: a baseline of another task or measure, or one whose agent the run's settings do not fit.
    """
    baseline_agent = entry.partition("/")[0]
    spec, own = agents.get(baseline_agent), agents.get(agent_name)
    _require_same_measure(entry, spec, own)
    _require_same_task(entry, theirs, config, base)
    start = None if own.regret else base
    changed = _changed(own, config, start)
    kept = _kept(spec, theirs, config, base, changed)
    taken = {name: value for name, value in changed.items() if not _within(name, kept) and _has(theirs, name)}
    taken["env.kwargs"] = _kwargs(theirs, config, start)
    follower = overlay(theirs, nested(taken), f"baselines: {entry}")
    follower = replace(follower, baselines=(), threads=config.threads if own.regret else 1)
    return Planned(baseline_agent, follower, tuple(_notes(entry, theirs, changed, kept)))


def _require_same_measure(entry: str, spec: AgentSpec, own: AgentSpec) -> None:
    if spec.regret != own.regret:
        kinds = " and ".join(f"regret per {unit}" if unit else "return" for unit in (own.regret, spec.regret))
        raise ValueError(f"baselines: {entry}: cannot be compared: they are measured by {kinds}")


def _require_same_task(entry: str, theirs: RunConfig[Any], config: RunConfig[Any], base: RunConfig[Any] | None) -> None:
    """Raise `ValueError` where a preset is neither of the run's task nor of that which the run has put another for."""
    tasks = {_bare(one.env.id) for one in (config, base) if one is not None}
    if _bare(theirs.env.id) not in tasks:
        raise ValueError(
            f"baselines: {entry}: its task is {theirs.env.id}, the run's {config.env.id}; name a preset of that task"
        )


def _changed(own: AgentSpec, config: RunConfig[Any], start: RunConfig[Any] | None) -> Settings:
    """Return what a run changes of what it started from, and all that says how its policies are measured."""
    before = {} if start is None else _shared(own, start)
    return {
        name: value
        for name, value in _shared(own, config).items()
        if before.get(name, NOTHING) != value or (_within(name, ("seed", "eval")) and name not in NO_COLUMN)
    }


def _shared(own: AgentSpec, config: RunConfig[Any]) -> Settings:
    whole = plain(config)
    task = {f"agent.{name}": whole["agent"][name] for name in own.task_fields}
    del whole["env"]["kwargs"]  # which are merged key by key
    return flattened({name: value for name, value in whole.items() if name not in OWN}) | task


def _kwargs(theirs: RunConfig[Any], config: RunConfig[Any], start: RunConfig[Any] | None) -> Settings:
    """Return the arguments of the task's constructor: the run's own, or the preset's with the run's changes."""
    if start is None or config.env.id != start.env.id:
        return config.env.kwargs
    mine, before = config.env.kwargs, start.env.kwargs
    changed = {name: value for name, value in mine.items() if before.get(name, NOTHING) != value}
    return {name: value for name, value in (theirs.env.kwargs | changed).items() if name in mine or name not in before}


def _kept(
    spec: AgentSpec, theirs: RunConfig[Any], config: RunConfig[Any], base: RunConfig[Any] | None, changed: Settings
) -> Reasons:
    """Return {setting or section: why} of what the baseline does not take over."""
    reasons = {
        "data": _own_data(spec, theirs, config, base),
        "uncertainty": _own_uncertainty(spec, theirs, config, base),
        "num_seeds": "it has replicates" if spec.regret else "",
        "eval.objectives": _own_objectives(spec, theirs, config) if "eval.objectives" in changed else "",
    }
    of_the_run = {"eval.grid": "", "eval.grid_closed": ""}  # it measures all policies on its grid
    return of_the_run | {name: reason for name, reason in reasons.items() if reason}


def _own_data(spec: AgentSpec, theirs: RunConfig[Any], config: RunConfig[Any], base: RunConfig[Any] | None) -> str:
    if not spec.reads_data:
        return "it reads no data"
    if theirs.data.source is None and base is not None and base.data.source is not None:
        return "its preset goes without data"
    return "it cannot learn without data" if spec.needs_data and config.data.source is None else ""


def _own_uncertainty(
    spec: AgentSpec, theirs: RunConfig[Any], config: RunConfig[Any], base: RunConfig[Any] | None
) -> str:
    if spec.offline:
        return "it never acts"
    if theirs.uncertainty is None and base is not None and base.uncertainty is not None:
        return "its preset goes without an uncertainty set"
    return "it cannot learn without a set" if spec.needs_uncertainty_set and config.uncertainty is None else ""


def _own_objectives(spec: AgentSpec, theirs: RunConfig[Any], config: RunConfig[Any]) -> str:
    """Return why a baseline cannot act for the run's objectives, if it cannot."""
    if not config.eval.objectives:
        return ""
    try:
        served(spec.make_policy(theirs.agent, Spaces(*spaces_of(config.env))), config.eval.objectives)
    except ValueError as error:
        return str(error)
    return ""


def _notes(entry: str, theirs: RunConfig[Any], changed: Settings, kept: Reasons) -> list[str]:
    now = flattened(plain(theirs))
    return [
        f"{entry} does not take --{name.replace('_', '-')} {shown(value)}: {reason}"
        for section, reason in kept.items()
        for name, value in changed.items()
        if reason and _within(name, (section,)) and now[name] != value
    ]


def _has(theirs: RunConfig[Any], name: str) -> bool:
    section, _, field = name.rpartition(".")
    return section != "agent" or hasattr(theirs.agent, field)


def _within(name: str, sections: Iterable[str]) -> bool:
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def _bare(env_id: str) -> str:
    return env_id.rpartition(":")[2]


# --- in what runs differ ----------------------------------------------------------------------------------------------


def conditions(agent_name: str, config: RunConfig[Any]) -> Settings:
    """Return what a run's numbers depend on besides its method: where it learns, from what, how long, how measured."""
    spec, whole = agents.get(agent_name), plain(config)
    task = {f"agent.{name}": whole["agent"][name] for name in spec.task_fields}
    flat = flattened({name: whole[name] for name in COMPARED}) | task
    used = spec.reads_data and config.data.source is not None
    return {
        name: value
        for name, value in (flat if used else flat | {"data.source": None}).items()
        if name not in NO_COLUMN and value != {} and (used or name == "data.source" or not _within(name, ("data",)))
    }


def differing(runs: Sequence[Settings]) -> list[str]:
    """Return the names of the `conditions` in which runs differ. How data were read is nothing to a run without any."""
    optional = ("data", "agent")
    return [
        name
        for name in dict.fromkeys(name for run in runs for name in run)
        if len({repr(run[name]) for run in runs if name in run}) > 1
        or (not _within(name, optional) and any(name not in run for run in runs))
    ]


def shown(value: Any) -> str:
    """Return a setting as a table has it."""
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
