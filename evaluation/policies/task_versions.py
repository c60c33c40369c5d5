"""Gymnasium's MuJoCo tasks of versions 2 to 4 on those of version 5: what agrees, and what differs, said.

A policy was trained on one version and is run on another only where the physics is the same. v5 of Walker2d and Pusher
has another model, so they are run with the older file. Five tasks show fewer numbers in v5: what it leaves out was
always zero (Gymnasium's notes on v5), except for the contact forces of v4, which v5 shows too. With the MuJoCo of v2
and v3 (mujoco-py, from MuJoCo 2.0 on) these were always zero. That MuJoCo also took a capsule for a cylinder when it
computed masses and inertias (until 2.1.1), so that a Hopper weighed 3.5 % less (`benchmarks/zoo_older.py`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

import gymnasium as gym

from surefoot.envs import EnvConfig

Piece = tuple[int, int] | int  # numbers `first` up to `last` of the v5 observation, or so many zeros
CAPSULES = "capsules weigh some per cent more than in v2 and v3, whose MuJoCo (before 2.1.1) took them for cylinders"
FALLING = "v5 pays no healthy reward for the step on which it falls"


class Change(NamedTuple):
    """What v5 changed of a task."""

    reward: str = ""
    kwargs: dict[str, str] = {}  # noqa: RUF012 - of v5, for the older model
    model: str = ""  # how the models differ


_TWO_PARTS: tuple[Piece, ...] = ((0, 45), 10, (45, 175), 6, (175, 253), 6, (253, 270))  # world and root put back
CHANGES = {
    "Ant": Change(f"{FALLING} and counts contact forces as a cost"),
    "HalfCheetah": Change(),
    "Hopper": Change(FALLING),
    "Humanoid": Change(f"{FALLING} and counts contact forces as a cost"),
    "HumanoidStandup": Change(),
    "InvertedDoublePendulum": Change(FALLING),
    "InvertedPendulum": Change(FALLING),
    "Pusher": Change("v5 computes distances after the step", {"xml_file": "pusher.xml"}, "the object of v5 is denser"),
    "Reacher": Change("v5 computes the distance after the step"),
    "Swimmer": Change(),
    "Walker2d": Change(FALLING, {"xml_file": "walker2d.xml"}, "one foot of v5 has another friction"),
}
# (task, version) -> the older observation, in pieces of the v5 one. The rest of the older is the v5 one itself.
LAYOUTS: dict[tuple[str, int], tuple[tuple[Piece, ...], ...]] = {
    **{("Ant", version): (((0, 27), 84),) for version in (2, 3)},
    ("Ant", 4): (((0, 27),), ((0, 27), 6, (27, 105))),
    **{(name, v): ((*_TWO_PARTS, 84),) for name in ("Humanoid", "HumanoidStandup") for v in (2, 3)},
    **{(name, 4): ((*_TWO_PARTS, 6, (270, 348)),) for name in ("Humanoid", "HumanoidStandup")},
    **{("Reacher", version): (((0, 10), 1),) for version in (2, 4)},
    **{("InvertedDoublePendulum", version): (((0, 9), 2),) for version in (2, 4)},
}
SEEN = {"Ant": 105, "Humanoid": 348, "HumanoidStandup": 348, "Reacher": 10, "InvertedDoublePendulum": 9}  # by v5


class Task(NamedTuple):
    """The task that an id stands for today."""

    config: EnvConfig
    trained_on: str | None = None  # the older id
    notes: tuple[str, ...] = ()


def task_named(env_id: str) -> Task:
    """Return the task of an id: the v5 one with the older model for an older MuJoCo task, else its own."""
    name, version = split(env_id)
    if name not in CHANGES or version not in (2, 3, 4):
        return Task(EnvConfig(id=env_id))
    config = EnvConfig(id=f"{name}-v5", kwargs=dict(CHANGES[name].kwargs))
    return Task(config, env_id, notes_on(env_id, config))


def notes_on(trained_on: str, config: EnvConfig) -> tuple[str, ...]:
    """Return what differs between an older task and the v5 one that is run in its place."""
    change = CHANGES[split(trained_on)[0]]
    older = all(config.kwargs.get(key) == value for key, value in change.kwargs.items())
    model = (
        "the same model" if not change.model else "with the older model" if older else f"another model: {change.model}"
    )
    line = f"trained on {trained_on}, run on {config.id}, {model}" + (f"; {change.reward}" if change.reward else "")
    return (line, CAPSULES) if split(trained_on)[1] in (2, 3) else (line,)


def id_within(text: str) -> str | None:
    """Return the Gymnasium id that a name contains, such as that of `ppo-CartPole-v1.zip`; None without a known one."""
    found = re.search(r"[A-Za-z0-9]+-v\d+", text)
    return found[0] if found and found[0] in gym.registry else None


def split(env_id: str) -> tuple[str, int | None]:
    """Return name and version of an id."""
    name, _, version = env_id.rpartition("-v")
    return (name, int(version)) if name and version.isdecimal() else (env_id, None)


def layout(trained_on: str, width: int, seen: int) -> tuple[Piece, ...] | None:
    """Return how `width` numbers of an older task come from the `seen` ones of its v5; None where nobody knows."""
    name, version = split(trained_on)
    for pieces in LAYOUTS.get((name, version or 0), ()):
        reaches = max(piece[1] for piece in pieces if isinstance(piece, tuple))
        if width_of(pieces) == width and seen in (SEEN[name], reaches):
            return pieces
    return None


def width_of(pieces: tuple[Piece, ...]) -> int:
    """Return how many numbers the pieces make."""
    return sum(piece if isinstance(piece, int) else piece[1] - piece[0] for piece in pieces)


def in_words(trained_on: str, pieces: tuple[Piece, ...]) -> str:
    """Return the line that says what became of the observation."""
    zeros = sum(piece for piece in pieces if isinstance(piece, int))
    seen = SEEN[split(trained_on)[0]]
    shown = width_of(pieces) - zeros
    left_out = f", {seen - shown} of v5 left out" if shown < seen else ""
    return f"the observation of {trained_on} is made of v5's: {shown} numbers of it, {zeros} zeros{left_out}"
