"""Uncertainty sets: boxes of physical parameters, and how a parameter gets into a task.

The published sets are those of RRLS (arXiv 2406.08406) and M2TD3 (arXiv 2211.03413), as IWOCS (arXiv 2410.06212) uses
them: docs/derivations/iwocs.md §7.6. A parameter of a MuJoCo task is called `FIELD.OBJECT`, such as `body_mass.torso`;
an object without a name goes by its number, and `*` is all of them. A task of another kind names its own parameters
(`Uncertain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surefoot.envs.parameters import Parameter, UncertaintySet

# --- the published sets -----------------------------------------------------------------------------------------------

# Every robot's parameters in the order of its 1-, 2- and 3-dimensional set, with the ranges of RRLS (§7.6).
BOXES: dict[str, tuple[str, tuple[Parameter, ...]]] = {
    "ant": (
        "Ant-v5",
        (
            Parameter("body_mass.torso", 0.1, 3.0),
            Parameter("body_mass.front_left_leg", 0.01, 3.0),
            Parameter("body_mass.front_right_leg", 0.01, 3.0),
        ),
    ),
    "halfcheetah": (
        "HalfCheetah-v5",
        (
            Parameter("geom_friction.*", 0.1, 4.0),  # the 1-dimensional set of RRLS ends at 3: see VARIANTS
            Parameter("body_mass.torso", 0.1, 7.0),
            Parameter("body_mass.bthigh", 0.1, 3.0),
        ),
    ),
    "hopper": (
        "Hopper-v5",
        (
            Parameter("geom_friction.floor", 0.1, 3.0),
            Parameter("body_mass.torso", 0.1, 3.0),
            Parameter("body_mass.thigh", 0.1, 4.0),
        ),
    ),
    "humanoidstandup": (
        "HumanoidStandup-v5",
        (
            Parameter("body_mass.torso", 0.1, 16.0),
            Parameter("body_mass.right_foot", 0.1, 8.0),
        ),
    ),
    "inverted-pendulum": (
        "InvertedPendulum-v5",
        (
            Parameter("body_mass.pole", 1.0, 31.0),
            Parameter("body_mass.cart", 1.0, 11.0),
        ),
    ),
    "walker": (
        "Walker2d-v5",
        (
            Parameter("geom_friction.floor", 0.1, 4.0),
            Parameter("body_mass.torso", 0.1, 5.0),
            Parameter("body_mass.thigh", 0.1, 6.0),
        ),
    ),
}

# Where a set is not the beginning of a longer one, or the sources disagree (§7.8).
VARIANTS: dict[str, tuple[str, tuple[Parameter, ...]]] = {
    "halfcheetah-1": ("HalfCheetah-v5", (Parameter("geom_friction.*", 0.1, 3.0),)),
    "halfcheetah-1-m2td3": ("HalfCheetah-v5", (Parameter("geom_friction.*", 0.1, 4.0),)),
    "humanoidstandup-3": (
        "HumanoidStandup-v5",
        (
            Parameter("body_mass.torso", 0.1, 16.0),
            Parameter("body_mass.left_thigh", 0.1, 5.0),
            Parameter("body_mass.right_foot", 0.1, 8.0),
        ),
    ),
    "humanoidstandup-3-m2td3": (
        "HumanoidStandup-v5",
        (
            Parameter("body_mass.torso", 0.1, 16.0),
            Parameter("body_mass.right_foot", 0.1, 5.0),
            Parameter("body_mass.left_thigh", 0.1, 8.0),
        ),
    ),
    "ant-3-m2td3": (
        "Ant-v5",
        (
            Parameter("body_mass.torso", 0.1, 3.0),
            Parameter("body_mass.front_left_leg", 0.01, 3.0),
            Parameter("body_mass.4", 0.01, 3.0),  # the unnamed front left ankle
        ),
    ),
    "pendulum-2": ("surefoot/Pendulum-v0", (Parameter("mass", 0.5, 1.5), Parameter("length", 0.7, 1.3))),
}

# RRLS's sets of external forces, in the manner of RARL: every component in [-3, 3] N.
PUSHED: dict[str, tuple[str, tuple[str, ...]]] = {
    "ant": ("Ant-v5", ("torso", "front_left_leg", "front_right_leg")),
    "halfcheetah": ("HalfCheetah-v5", ("torso", "bfoot", "ffoot")),
    "hopper": ("Hopper-v5", ("foot",)),
    "humanoidstandup": ("HumanoidStandup-v5", ("torso", "right_thigh", "left_foot")),
    "inverted-pendulum": ("InvertedPendulum-v5", ("pole",)),
    "walker": ("Walker2d-v5", ("leg", "foot_left")),
}


def _published() -> dict[str, UncertaintySet]:
    entries = {f"{robot}-{d}": (env, box[:d]) for robot, (env, box) in BOXES.items() for d in range(1, len(box) + 1)}
    for robot, (env, bodies) in PUSHED.items():
        forces = tuple(Parameter(f"force_{axis}.{body}", -3.0, 3.0) for body in bodies for axis in "xy")
        entries[f"{robot}-force"] = (env, forces)
    entries |= VARIANTS
    return {name: UncertaintySet(name, env, entries[name][1]) for name, (env, _) in sorted(entries.items())}


SETS = _published()


def find_set(name: str) -> UncertaintySet:
    """Return a published set; `ValueError` lists them."""
    if name not in SETS:
        raise ValueError(f"unknown uncertainty set {name!r}; give a YAML file or one of {', '.join(SETS)}")
    return SETS[name]


def set_from_mapping(content: Mapping[str, Any], where: str) -> UncertaintySet:
    """Return the set that a YAML file describes: `env`, `parameters: {NAME: {low, high, nominal}}`, the two switches.

    Raises:
        ValueError: a key or a value that does not fit.
    """
    switches = ("recompute_constants", "scale_inertia")
    if unknown := set(content) - {"env", "parameters", *switches}:
        raise ValueError(f"{where}: unknown key {sorted(unknown)[0]!r}; known: env, parameters, {', '.join(switches)}")
    if not isinstance(content.get("env"), str) or not isinstance(content.get("parameters"), Mapping):
        raise ValueError(f"{where}: expected `env: ID` and `parameters:` with a range for every name")
    parameters = tuple(_parameter(str(name), value, where) for name, value in content["parameters"].items())
    flags = {name: content[name] for name in switches if name in content}
    if wrong := [name for name, value in flags.items() if not isinstance(value, bool)]:
        raise ValueError(f"{where}: {wrong[0]} is {flags[wrong[0]]!r}; it is true or false")
    return UncertaintySet(where, content["env"], parameters, **flags)


def _parameter(name: str, content: Any, where: str) -> Parameter:
    if not isinstance(content, Mapping) or not {"low", "high"} <= set(content) <= {"low", "high", "nominal"}:
        raise ValueError(f"{where}: {name} needs low and high, and may have nominal; found {content!r}")
    try:
        numbers = {key: float(value) for key, value in content.items() if not isinstance(value, bool)}
        return Parameter(name, **numbers)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {name} has {dict(content)}; low, high and nominal are numbers") from error
