"""Presets: `AGENT/NAME.yaml` holds only what differs from the defaults of the run's and the agent's dataclasses."""

from importlib import resources
from importlib.resources.abc import Traversable


def preset_names(agent_name: str) -> list[str]:
    """Return the names of the presets packaged for an agent, sorted."""
    folder = resources.files(__name__) / agent_name
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def preset_file(agent_name: str, name: str) -> Traversable:
    """Return the file of a packaged preset; `FileNotFoundError` names those there are."""
    if name not in preset_names(agent_name):
        available = ", ".join(preset_names(agent_name)) or "none"
        raise FileNotFoundError(f"no preset {name!r} for {agent_name}; available: {available}")
    return resources.files(__name__) / agent_name / f"{name}.yaml"
