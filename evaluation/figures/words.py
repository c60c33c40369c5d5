"""Axis labels: words with a unit instead of the names of columns and fields."""

from __future__ import annotations

from collections.abc import Iterable

from surefoot import agents
from surefoot.envs import Physics
from surefoot.envs.quantities import EVERYTHING, quantity_of, split
from surefoot.evaluation.describe import in_words

RETURN = "return (sum of rewards)"
MEAN_RETURN = "mean return (sum of rewards)"
# A parameter of an uncertainty set is FIELD.OBJECT (envs/quantities.py); units that need other words than there.
FIELDS = {
    "body_mass": "mass of",
    "geom_friction": "sliding friction of",
    "dof_damping": "damping of",
    "actuator_gear": "gear of",
    "force_x": "force along x on",
    "force_y": "force along y on",
    "force_z": "force along z on",
    "body_inertia": "inertia of",
    "body_ipos_x": "centre of mass along x of",
    "body_ipos_y": "centre of mass along y of",
    "body_ipos_z": "centre of mass along z of",
    "jnt_stiffness": "stiffness of",
    "dof_armature": "armature of",
    "dof_frictionloss": "friction loss of",
    "actuator_gain": "gain of actuator",
    "actuator_offset": "offset of actuator",
    "sensor_noise": "noise of sensor",
    "sensor_bias": "bias of sensor",
    "push": "push on",
}
UNITS = {"dof_damping": "N·m·s/rad, or N·s/m", "geom_friction": "coefficient", "actuator_gear": "ratio"}


def parameter_label(name: str) -> str:
    """Return `mass of pole (kg)` for `body_mass.pole`; a task's own parameter is in the unit that the task gives it."""
    field, scaled, thing = split(name)
    quantity = quantity_of(name)
    if quantity is None:
        return f"{in_words(name)} (in the task's unit)"
    unit = "factor" if scaled else UNITS.get(field, quantity.unit)
    if field not in FIELDS:
        return f"{in_words(name)} ({unit})"
    words, _, kind = FIELDS[field].rpartition(" ")
    if thing == EVERYTHING:
        every = f"every {kind}" if kind in ("sensor", "actuator") else f"{kind} everything"
        return f"{words} {every} ({unit})"
    thing = thing.removeprefix("@")
    return f"{words} {kind} {'number ' if thing.isdecimal() else ''}{in_words(thing)} ({unit})"


def physics_label(name: str) -> str:
    """Return the label of a field of `Physics`, or of a parameter that it fixes."""
    if name not in Physics.__dataclass_fields__:
        return parameter_label(name)
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
