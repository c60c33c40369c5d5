"""Which runs are seeds of one setting: the one rule by which reports, curves and evaluations pool runs.

Runs that differ in anything but their seed, their name and what decides no number are runs of different settings. Runs
of one setting and one seed are copies of one seed: they count once, or an interval would be too narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

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


class Copy(NamedTuple):
    """What tells copies of a seed apart: of one setting and seed that of most steps counts, of equals the newest."""

    setting: str
    seed: int | None  # None of a policy that does not say: it is nobody's copy
    step: int  # how far it got, or of the policy that is measured
    updated: str  # ISO time; empty where unknown


def copies_of(runs: Sequence[Copy]) -> dict[int, int]:
    """Return {place of a run that does not count: place of the run of the same setting and seed that does}.

    Of equals the first counts.
    """
    groups: dict[tuple[str, int], list[int]] = {}
    for place, run in enumerate(runs):
        if run.seed is not None:
            groups.setdefault((run.setting, run.seed), []).append(place)
    counted = {max(places, key=lambda place: runs[place][2:]): places for places in groups.values()}
    return {place: best for best, places in counted.items() for place in places if place != best}


def copy_note(left_out: object, seed: object, counted: object) -> str:
    """Return in words that a run does not count, and which one does."""
    return f"{left_out}: seed {seed} again, in the settings of {counted}, which counts in its place"


def what_differs(settings: Sequence[Settings]) -> list[str]:
    """Return the names of the settings in which runs differ; one that a run does not have is a difference."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if len({repr(one.get(name, "no such setting")) for one in settings}) > 1]


def in_label(setting: Settings, names: Iterable[str]) -> list[str]:
    """Return the parts of a label, such as `gamma 0.9` or `eval.episodes 5`, for those of the names that it has."""
    short = {name: name if name.startswith("eval.") else name.rpartition(".")[2] for name in names}
    return [f"{short[name]} {setting[name]}" for name in short if name in setting]
