"""One run as the plan of a sweep lists it, checked where it is read: folders are made, and deleted, by its name."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from surefoot import agents


class Entry(NamedTuple):
    """One run as plan.json lists it; its configuration lies in `configs/`."""

    name: str  # of its folder
    agent_name: str
    preset: str | None
    seed: int


def read_entries(path: Path) -> list[Entry]:
    """Return the runs that a plan.json lists, in order; `ValueError` for a file that no sweep has written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise TypeError("no list of runs")
        entries = [Entry(**entry) for entry in content]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not the plan of a sweep ({' '.join(str(error).split())})") from error
    for entry in entries:
        _require_fit(entry, path)
    return entries


def _require_fit(entry: Entry, path: Path) -> None:
    if not (isinstance(entry.name, str) and re.fullmatch(r"[\w+=-][\w.+=-]*", entry.name)):
        raise ValueError(f"{path}: {entry.name!r} cannot be the name of a run: letters, digits and _.+=- only")
    if not isinstance(entry.agent_name, str) or entry.agent_name not in agents.REGISTRY:
        raise ValueError(f"{path}: {entry.name}: unknown agent {entry.agent_name!r}")
    if not isinstance(entry.preset, str | None) or type(entry.seed) is not int:
        raise ValueError(f"{path}: {entry.name}: preset {entry.preset!r} and seed {entry.seed!r} are no such")


def require_different(runs: Sequence[tuple[str, str]]) -> None:
    """Raise `ValueError` for two runs of a sweep, given as name and settings, of one name or of the same settings.

    Those of `gravity=2` and `gravity=2.0` are the same, as are those of a preset and of a copy of it.
    """
    names, settings = set[str](), dict[str, str]()
    for name, own in runs:
        if name in names:
            raise ValueError(f"the sweep has the same run twice: {name}")
        if own in settings:
            raise ValueError(f"the sweep has the same run twice: {settings[own]} and {name}; leave one out")
        names.add(name)
        settings[own] = name
