"""Presets: `AGENT/NAME.yaml` holds only what differs from the defaults of the run's and the agent's dataclasses.

Agents that are compared on the same tasks share a folder of presets in addition to their own; `FOLDER/_agents.yaml`
lists them.
"""

from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from surefoot.configs.yaml_text import parse_yaml

SHARED_BY = "_agents.yaml"


def preset_names(agent_name: str) -> list[str]:
    """Return the names of the presets packaged for an agent, sorted."""
    return sorted(_presets(agent_name))


def preset_file(agent_name: str, name: str) -> Traversable:
    """Return the file of a packaged preset; `FileNotFoundError` names those there are."""
    presets = _presets(agent_name)
    if name not in presets:
        available = ", ".join(sorted(presets)) or "none"
        raise FileNotFoundError(f"no preset {name!r} for {agent_name}; available: {available}")
    return presets[name]


def _presets(agent_name: str) -> dict[str, Traversable]:
    root = resources.files(__name__)
    folders = [
        *(root / name for name, sharing in _shared_folders().items() if agent_name in sharing),
        root / agent_name,
    ]
    files = [file for folder in folders if folder.is_dir() for file in folder.iterdir()]
    presets = [file for file in files if file.name.endswith(".yaml") and file.name != SHARED_BY]
    return {file.name.removesuffix(".yaml"): file for file in presets}


@cache
def _shared_folders() -> dict[str, list[str]]:
    """Return folder -> agents of the folders that several agents share."""
    lists = {folder.name: folder / SHARED_BY for folder in resources.files(__name__).iterdir() if folder.is_dir()}
    return {name: parse_yaml(file.read_text(encoding="utf-8")) for name, file in lists.items() if file.is_file()}
