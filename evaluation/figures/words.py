"""Axis labels: words with a unit instead of the names of columns and fields."""

from __future__ import annotations

from collections.abc import Iterable

from surefoot import agents
from surefoot.evaluation.describe import in_words

RETURN = "return (sum of rewards)"
MEAN_RETURN = "mean return (sum of rewards)"
# A parameter of an uncertainty set is FIELD.OBJECT (envs/uncertainty).
FIELDS = {
    "body_mass": ("mass of", "kg"),
    "geom_friction": ("sliding friction of", "coefficient"),
    "dof_damping": ("damping of", "N·m·s/rad, or N·s/m"),
    "actuator_gear": ("gear of", "ratio"),
    "force_x": ("force along x on", "N"),
    "force_y": ("force along y on", "N"),
    "force_z": ("force along z on", "N"),
}


def parameter_label(name: str) -> str:
    """Return `mass of pole (kg)` for `body_mass.pole`; a task's own parameter is in the unit that the task gives it."""
    field, _, thing = name.partition(".")
    if field not in FIELDS:
        return f"{in_words(name)} (in the task's unit)"
    what, unit = FIELDS[field]
    if thing == "*":
        thing = "everything"
    return f"{what} {'number ' if thing.isdecimal() else ''}{in_words(thing)} ({unit})"


def physics_label(name: str) -> str:
    """Return the label of a field of `Physics`."""
    unit = "standard deviation, of actions in [−1, 1]" if name == "action_noise" else "factor"
    return f"{in_words(name)} ({unit})"


def metric_label(column: str, agent_names: Iterable[str]) -> str:
    """Return the label of a column of metrics.csv: what an agent calls it, else its words."""
    for name in agent_names:
        if name in agents.REGISTRY and column in agents.get(name).drawn:
            return agents.get(name).drawn[column]
    return f"{in_words(column).replace('/', ' of ')} (as logged)"


def step_label(labelled: dict[str, str]) -> str:
    """Return what a step is, for {label: agent}: where both kinds share the axis, it names the curves of updates."""
    updates = [label for label, name in labelled.items() if counts_updates(name)]
    if len(updates) == len(labelled):
        return "gradient updates"
    names = dict.fromkeys(label.partition(" (")[0] for label in updates)  # without what the legend says of each
    return f"environment steps; gradient updates for {', '.join(names)}" if names else "environment steps"


def counts_updates(agent: str) -> bool:
    """Whether the steps of an agent's runs are gradient updates, since it never acts."""
    return agent in agents.REGISTRY and agents.get(agent).offline
