"""What computes the updates of a run: chosen at its beginning, and kept when it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from surefoot.agents.interface import Agent
from surefoot.agents.parts.engine import Engine, choose, coverage, option_of
from surefoot.training.config.run import RunConfig, require_device


def pick_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda` or `cuda:N` stands for; `ValueError` where it is missing."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    require_device(name)
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= available:
        raise ValueError(f"device {name} was requested, but PyTorch sees {available} CUDA devices; pass --device cpu")
    return device


def new_engine(config: RunConfig[Any]) -> Engine:
    """Return the engine of a new run; say where the fastest one cannot be had."""
    engine, note = choose(wanted_engine(config), pick_device(config.device), traced=config.compile or config.cudagraph)
    if note:
        tqdm.write(note)
    return engine


def wanted_engine(config: RunConfig[Any]) -> str:
    """Return what --engine and --precision ask for together; `ValueError` where they do not go together."""
    if config.precision == "float32":
        return config.engine
    if config.engine not in ("auto", "native"):
        raise ValueError(
            f"--precision bf16 is the native engine's, which --engine {config.engine} is not; leave one of them out"
        )
    return "native-bf16"


def same_engine(config: RunConfig[Any], engine: str, path: Path) -> Engine:
    """Return the engine that a run began with; `ValueError` where it cannot be had: another one rounds differently."""
    try:
        return choose(engine, pick_device(config.device), traced=config.compile or config.cudagraph)[0]
    except ValueError as error:
        raise ValueError(f"{path}: began with {option_of(engine)}, and a run keeps its engine: {error}") from error


def engine_in_use(agent_name: str, agent: Agent, engine: Engine, *, asked_for: bool = False) -> Engine:
    """Return what computes the updates of an agent, and say which of its networks the engine lacks.

    Raises `ValueError` where it lacks all of them and it was asked for.
    """
    computed, left = coverage(agent)
    if asked_for and engine != "eager" and not computed:
        raise ValueError(f"{option_of(engine)}: this engine computes no network of {agent_name}; leave it out")
    if engine == "eager" or not computed:
        return "eager"
    if left:
        names = ", ".join(left)
        tqdm.write(f"note: the {engine} engine lacks what {names} of {agent_name} need; autograd computes them")
    return engine
