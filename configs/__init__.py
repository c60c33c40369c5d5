"""Presets: `AGENT/NAME.yaml` holds only what differs from the defaults of the run's and the agent's dataclasses.

Agents that are compared on the same tasks share a folder of presets beside their own.
"""

from importlib import resources
from importlib.resources.abc import Traversable

_LINEAR = ("linucb", "linucb-paper", "linucb-log", "d-linucb", "d-linucb-paper", "d-linucb-log")
_OTHERS = ("exp3", "batch-exp3", "batch-exp3-paper", "ar2", "clairvoyant", "uniform")
SHARED = dict.fromkeys(("dynlin-ucb", *_LINEAR, *_OTHERS), "linear-bandits")


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
    folders = [resources.files(__name__) / name for name in (SHARED.get(agent_name), agent_name) if name]
    files = [file for folder in folders if folder.is_dir() for file in folder.iterdir()]
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}
